"""Tests of the conversation log."""

from __future__ import annotations

import logging

import pytest

from appliance.conversation.commands import Command, Emit, Play, Send
from appliance.conversation.events import DeadlinePassed
from appliance.conversation.notices import (
    AnswerText,
    BudgetWarning,
    Connected,
    Error,
    Guardrail,
    HandoffDone,
    InputText,
    Notice,
    TurnEnd,
    TurnStart,
    Usage,
)
from appliance.conversation.support.feedback import View
from appliance.realtime.protocol import InputAudioBufferCommit
from appliance.service.turnlog import TurnLog
from appliance.wording import Wording


def test_a_turn_is_logged_as_one_line_with_its_durations_and_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    xruns = {"network": 1, "program": 0, "card": 2}
    turnlog = TurnLog(lambda: xruns, Wording())
    steps: list[tuple[float, list[Command]]] = [
        (10.0, [Emit(TurnStart("turn_1"))]),
        (12.0, [Send(1, InputAudioBufferCommit()), Emit(InputText("my secret plan", True, turn="turn_1"))]),
        (12.5, [Play(1, "item", b"\0\0"), Emit(AnswerText("turn_1", "a secret answer", True))]),
    ]
    with caplog.at_level(logging.INFO):
        for now, commands in steps:
            turnlog(now, DeadlinePassed(), commands, View())
        xruns = {"network": 2, "program": 0, "card": 4}
        turnlog(14.0, DeadlinePassed(), [Emit(TurnEnd("turn_1", "answered", {"total_tokens": 42}))], View())
    (record,) = caplog.records
    assert record.getMessage() == (
        "turn_1 answered: spoke 2.0 s, waited 0.50 s, took 4.0 s, 3 xruns (1 network, 2 card), 42 tokens"
    )


def test_an_error_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    TurnLog(dict, Wording())(1.0, DeadlinePassed(), [Emit(Error("no_speaker", "unplugged"))], View())
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [
        ("WARNING", "no_speaker: I have no loudspeaker. Please check that it is plugged in. (unplugged)")
    ]


def test_the_line_of_a_turn_has_its_cost_if_the_price_is_known(caplog: pytest.LogCaptureFixture) -> None:
    turnlog = TurnLog(dict, Wording())
    notices: list[Notice] = [
        TurnStart("turn_1"),
        Usage({}, 0.01),
        Usage({}, None),
        Usage({}, 0.0025),
        TurnEnd("turn_1", "answered"),
        TurnStart("turn_2"),
        TurnEnd("turn_2", "answered"),
    ]
    with caplog.at_level(logging.INFO):
        turnlog(1.0, DeadlinePassed(), [Emit(one) for one in notices], View())
    first, second = [one.getMessage() for one in caplog.records]
    assert first.endswith("0 tokens, 0.0125 US dollars")
    assert second.endswith("0 tokens")


def test_handoffs_tripwires_links_and_the_budget_are_logged_without_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    notices: list[Notice] = [
        HandoffDone("House", "Kitchen"),
        Guardrail("turn_1", "output", "item_1", "no_prices", "it said 9 dollars"),
        Connected(2, 1),
        BudgetWarning(80, "minutes", 24.0, 30.0),
    ]
    with caplog.at_level(logging.INFO):
        TurnLog(dict, Wording())(1.0, DeadlinePassed(), [Emit(one) for one in notices], View())
    assert [one.getMessage() for one in caplog.records] == [
        "handoff: House to Kitchen",
        "turn_1: guardrail no_prices tripped on the output",
        "link 2: ready, endpoint 1",
        "budget: 80 percent of today's budget is spent: 24 of 30 minutes.",
    ]
