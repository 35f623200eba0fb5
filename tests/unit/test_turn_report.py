"""The report of a turn that `appliance ask` prints."""

from __future__ import annotations

from appliance.conversation.commands import Emit
from appliance.conversation.events import DeadlinePassed
from appliance.conversation.notices import InputText, Notice, TurnStart
from appliance.conversation.support.feedback import View
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
