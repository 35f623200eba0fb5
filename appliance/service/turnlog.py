"""Logs one line per turn, trouble, handoff, tripwire and connection; never the speech itself."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from appliance.conversation.commands import Command, Emit, Play, Send
from appliance.conversation.events import Event
from appliance.conversation.notices import (
    BudgetWarning,
    Connected,
    Error,
    Guardrail,
    HandoffDone,
    Notice,
    TurnEnd,
    TurnStart,
    Usage,
)
from appliance.conversation.support.feedback import View
from appliance.realtime.protocol import InputAudioBufferCommit
from appliance.wording import Wording

__all__ = ["TurnLog"]

log = logging.getLogger(__name__)


class TurnLog:
    """An observer of the driver.

    Args:
        xruns: Returns the number of xruns since the start, by cause.
        wording: Source of the sentences for troubles and the budget.
    """

    def __init__(self, xruns: Callable[[], Mapping[str, int]], wording: Wording) -> None:
        self._xruns = xruns
        self._wording = wording
        self._xruns_before: Mapping[str, int] = {}
        self._marks: dict[str, float] = {}
        self._usd: float | None = None

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Observe one step."""
        for command in commands:
            match command:
                case Send(event=InputAudioBufferCommit()):
                    self._marks["commit"] = now
                case Play():
                    self._marks.setdefault("answer", now)
                case Emit(notice=notice):
                    self._take(notice, now)

    def _take(self, notice: Notice, now: float) -> None:
        match notice:
            case TurnStart():
                self._marks = {"press": now}
                self._xruns_before = self._xruns()
                self._usd = None
            case TurnEnd():
                self._log_turn(notice, now)
            case Error(kind=kind, detail=detail):
                log.warning("%s: %s", kind, self._wording.trouble(kind, detail))
            case Usage(usd=float(usd)):
                self._usd = (self._usd or 0.0) + usd
            case HandoffDone(from_agent=before, to_agent=after):
                log.info("handoff: %s to %s", before, after)
            case Guardrail(turn=turn, side=side, guardrail=name):
                log.warning("%s: guardrail %s tripped on the %s", turn, name, side)
            case Connected(link=link, endpoint=endpoint):
                log.info("link %d: ready, endpoint %d", link, endpoint)
            case BudgetWarning():
                log.warning("budget: %s", self._wording.budget(notice.unit, notice.percent, notice.spent, notice.limit))

    def _log_turn(self, ended: TurnEnd, now: float) -> None:
        start = self._marks.get("press", now)
        waited = self._marks["answer"] - self._marks["commit"] if {"answer", "commit"} <= set(self._marks) else 0.0
        since = {cause: count - self._xruns_before.get(cause, 0) for cause, count in self._xruns().items()}
        xruns = {cause: count for cause, count in since.items() if count}
        log.info(
            "%s %s: spoke %.1f s, waited %.2f s, took %.1f s, %d xruns%s, %d tokens%s",
            ended.turn,
            ended.outcome,
            self._marks.get("commit", now) - start,
            waited,
            now - start,
            sum(xruns.values()),
            f" ({', '.join(f'{count} {cause}' for cause, count in xruns.items())})" if xruns else "",
            ended.usage.get("total_tokens", 0),
            "" if self._usd is None else f", {self._usd:.4f} US dollars",
        )
