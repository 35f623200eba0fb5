"""What `appliance ask` reports of a turn."""

from __future__ import annotations

from appliance.conversation.commands import Emit
from appliance.conversation.events import DeadlinePassed
from appliance.conversation.notices import InputText, Notice, TurnStart
from appliance.conversation.support.feedback import View
from appliance.simulator.report import TurnReport
from appliance.wording import Wording


def test_what_was_heard_is_the_whole_of_the_turns_own_text_and_never_a_piece() -> None:
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
