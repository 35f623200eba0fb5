"""The log of the conversation: one line for each turn and one for each trouble. Never what was said."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from appliance.conversation.commands import Command, Emit, Play, Send, TroubleReported, TurnEnded, TurnStarted
from appliance.conversation.events import Event
from appliance.conversation.feedback import View
from appliance.realtime.protocol import InputAudioBufferCommit

__all__ = ["TurnLog"]

log = logging.getLogger(__name__)


class TurnLog:
    """An observer of the driver.

    Args:
        xruns: Counts what the sound card lost, since the start.
    """

    def __init__(self, xruns: Callable[[], int]) -> None:
        self._xruns = xruns
        self._xruns_before = 0
        self._marks: dict[str, float] = {}

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Take one step."""
        for command in commands:
            match command:
                case Emit(notice=TurnStarted()):
                    self._marks = {"press": now}
                    self._xruns_before = self._xruns()
                case Send(event=InputAudioBufferCommit()):
                    self._marks["commit"] = now
                case Play():
                    self._marks.setdefault("answer", now)
                case Emit(notice=TurnEnded() as ended):
                    self._tell(ended, now)
                case Emit(notice=TroubleReported(kind=kind, message=message)):
                    log.warning("%s: %s", kind, message)
                case _:
                    pass

    def _tell(self, ended: TurnEnded, now: float) -> None:
        start = self._marks.get("press", now)
        spoken = self._marks.get("commit", now) - start
        waited = self._marks["answer"] - self._marks["commit"] if {"answer", "commit"} <= set(self._marks) else 0.0
        tokens = dict(ended.usage).get("total_tokens", 0)
        log.info(
            "%s %s: spoke %.1f s, waited %.2f s, took %.1f s, %d xruns, %d tokens",
            ended.turn,
            ended.outcome,
            spoken,
            waited,
            now - start,
            self._xruns() - self._xruns_before,
            tokens,
        )
