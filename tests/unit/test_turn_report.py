"""The report of a turn that `appliance ask` prints."""

from __future__ import annotations

from appliance.conversation.commands import Command, Emit, Send
from appliance.conversation.events import DeadlinePassed, Event, PlayoutProgress, ServerEventReceived, Started
from appliance.conversation.notices import AnswerText, Error, InputText, Notice, ToolEnd, ToolStart, TurnEnd, TurnStart
from appliance.conversation.support.feedback import View
from appliance.realtime import protocol as wire
from appliance.simulator.report import TurnReport
from appliance.wording import Wording


def test_heard_is_the_final_text_of_the_followed_turn() -> None:
    report = TurnReport(Wording())
    steps: list[tuple[Notice, str]] = [
        (InputText("of before", False, item_id="item_0"), ""),
        (TurnStart("turn_1"), ""),
        (InputText("turn ", False, item_id="item_1"), ""),
        (InputText("turn it on", True, turn="turn_1"), "turn it on"),
        (InputText("of another turn", True, turn="turn_2"), "turn it on"),
    ]
    for notice, heard in steps:
        report(1.0, DeadlinePassed(), [Emit(notice)], View())
        assert report.heard == heard


def test_report_follows_the_turn_from_the_press_to_its_end() -> None:
    report = TurnReport(Wording("en"))
    delta = ServerEventReceived(1, wire.OutputAudioDelta(response_id="r", item_id="i", delta=b""))
    steps: list[tuple[float, Event, list[Command]]] = [
        (1.0, Started(), [Emit(TurnStart("t"))]),
        (1.1, Started(), [Send(1, wire.InputAudioBufferAppend(audio=""))]),
        (1.2, Started(), [Send(1, wire.InputAudioBufferCommit())]),
        (1.3, Started(), [Emit(ToolStart("t", "c", "lamp", "{}")), Emit(ToolStart("t", "d", "lamp", "{}"))]),
        (
            1.4,
            Started(),
            [Emit(ToolEnd("t", "c", "lamp", "on", False)), Emit(ToolEnd("other", "d", "lamp", "x", False))],
        ),
        (1.5, delta, [Emit(AnswerText("t", "It is on.", True)), Emit(AnswerText("other", "No.", True))]),
        (1.6, PlayoutProgress(1, 480, drained=False), [Emit(Error("no_link", ""))]),
        (2.0, Started(), [Emit(TurnEnd("t", "answered", {"total_tokens": 7})), Emit(TurnEnd("other", "failed"))]),
        (3.0, Started(), [Emit(TurnStart("next"))]),
    ]
    for now, event, commands in steps:
        report(now, event, commands, View())
    assert (report.turn, report.outcome, report.usage, report.reply) == (
        "t",
        "answered",
        {"total_tokens": 7},
        "It is on.",
    )
    assert [one["output"] for one in report.tools] == ["on", None]
    assert report.troubles == [("no_link", Wording("en").trouble("no_link", ""))]
    assert report.timeline_ms == {
        "press": 0,
        "first_audio_on_wire": 100,
        "commit": 200,
        "tool_1": 300,
        "tool_2": 300,
        "first_audio_back": 500,
        "first_frame_played": 600,
        "end": 1000,
    }
