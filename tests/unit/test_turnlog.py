"""The log of the conversation."""

from __future__ import annotations

import logging

import pytest

from appliance.conversation.commands import (
    AnswerTextReceived,
    Command,
    Emit,
    HeardTextReceived,
    Play,
    Send,
    TroubleReported,
    TurnEnded,
    TurnStarted,
)
from appliance.conversation.events import DeadlinePassed
from appliance.conversation.feedback import View
from appliance.realtime.protocol import InputAudioBufferCommit
from appliance.service.turnlog import TurnLog


def test_a_turn_is_one_line_with_its_durations_and_never_what_was_said(caplog: pytest.LogCaptureFixture) -> None:
    xruns = 3
    turnlog = TurnLog(lambda: xruns)
    steps: list[tuple[float, list[Command]]] = [
        (10.0, [Emit(TurnStarted("turn_1"))]),
        (12.0, [Send(1, InputAudioBufferCommit()), Emit(HeardTextReceived("turn_1", "my secret plan"))]),
        (12.5, [Play(1, "item", b"\0\0"), Emit(AnswerTextReceived("turn_1", "a secret answer", True))]),
    ]
    with caplog.at_level(logging.INFO):
        for now, commands in steps:
            turnlog(now, DeadlinePassed(), commands, View())
        xruns = 5
        turnlog(14.0, DeadlinePassed(), [Emit(TurnEnded("turn_1", "answered", (("total_tokens", 42),)))], View())
    (record,) = caplog.records
    assert record.getMessage() == ("turn_1 answered: spoke 2.0 s, waited 0.50 s, took 4.0 s, 2 xruns, 42 tokens")


def test_a_trouble_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    TurnLog(lambda: 0)(1.0, DeadlinePassed(), [Emit(TroubleReported("no_link", "I cannot reach it."))], View())
    assert [(one.levelname, one.getMessage()) for one in caplog.records] == [("WARNING", "no_link: I cannot reach it.")]
