"""The regions of the conversation: all its state, and what may be read off it. Pure.

The lowest layer of `Conversation`; see `machine` for the theory of operation. Each layer is a class over the one
below and calls nothing above it::

    Conversation  takes events, settles, keeps the deadlines   (machine)
    Listening     button, microphone, program, card and mute   (listening)
    Answering     what the server says of an answer            (answering)
    Calling       tools, approvals, handoffs                   (calling)
    Linking       connections, and what each is told           (linking)
    Turns         how a turn begins, is interrupted and ends   (turns)
    Regions       the state                                    (regions)
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, assert_never

from appliance.conversation.alarms import Alarms
from appliance.conversation.asides import Asides
from appliance.conversation.budget import Budget
from appliance.conversation.calls import Calls
from appliance.conversation.commands import (
    Announce,
    BudgetReached,
    Command,
    TroubleReported,
    UsageCounted,
)
from appliance.conversation.events import (
    Direction,
)
from appliance.conversation.feedback import State, View
from appliance.conversation.gestures import Gestures
from appliance.conversation.guard import AnswerGuard
from appliance.conversation.history import Change, History
from appliance.conversation.links import Links
from appliance.conversation.outbox import Outbox
from appliance.conversation.playout import Playout
from appliance.conversation.preroll import PreRoll
from appliance.conversation.prices import response_usd
from appliance.conversation.responses import Sequencer
from appliance.conversation.roster import Brief
from appliance.conversation.troubles import sentence
from appliance.conversation.turn import Phase, Policy, Turn
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["FRAMES_PER_MS", "Regions", "SessionUpdateSent"]

FRAMES_PER_MS = wire.SAMPLE_RATE // 1000
_REMEMBERED = 64  # items and turns that late events may still name


@dataclass(frozen=True, slots=True)
class SessionUpdateSent:
    """A ``session.update`` that the server has not answered."""

    event_id: str
    kind: Literal["connect", "turn", "handoff", "rollback", "raw"]
    session: Mapping[str, Any] = field(repr=False)
    brief: Brief | None = None
    """The agent to come into force with it; of kind ``turn`` the one to go back to if it is refused."""
    call_id: str = ""
    deadline: float = 0.0
    """When its answer is waited for no more."""


class Regions:
    """All state, and what others may look at."""

    def __init__(
        self,
        *,
        policy: Policy,
        briefs: Sequence[Brief],
        history: Sequence[HistoryItem] = (),
        seed: int = 0,
        is_muted: bool = False,
    ) -> None:
        """Create a conversation that waits for ``Started``.

        Args:
            policy: Times and limits.
            briefs: The agents; the first begins.
            history: What was said in an earlier life; each new connection is told.
            seed: Of the backoff's jitter; a trace records it.
            is_muted: Whether the microphone starts muted.
        """
        self._policy = policy
        self._brief = briefs[0]
        self._outbox = Outbox()
        self._links = Links(policy, self._outbox, seed=seed)

        self._started_at: float | None = None
        self._is_stopped = False
        self._gestures = Gestures(
            release_debounce_s=policy.release_debounce_ms / 1000,
            tap_max_s=policy.tap_max_ms / 1000,
            stuck_s=policy.stuck_s,
            longest_press_s=policy.max_turn_s + policy.stuck_s,
        )
        self._was_released = False
        self._recent = PreRoll(policy.pre_roll_ms * FRAMES_PER_MS)
        self._captured_at = 0.0

        self._turn: Turn | None = None
        self._turns = 0
        self._sequencer = Sequencer()
        self._playout = Playout()
        self._playout_link = 0
        self._played_at = 0.0
        self._guard = AnswerGuard(
            debounce=policy.guardrail_debounce, hold=policy.hold_audio, check_s=policy.guardrail_s
        )
        self._sounded: deque[str] = deque(maxlen=_REMEMBERED)
        """Items of the assistant of which something was played, or read."""
        self._commits: deque[str] = deque()
        """Turns whose commit the server has not confirmed, in order."""
        self._unlet: deque[str] = deque(maxlen=_REMEMBERED)
        """Turns that ended before the input guardrails had let them pass."""
        self._unheard: set[str] = set()
        """Items of the assistant of which nothing was heard, to be deleted once they are done."""
        self._history = History(history, max_items=policy.max_history)
        self._updates: deque[SessionUpdateSent] = deque()
        self._calls = Calls()
        self._asides = Asides(self._outbox)
        self._turn_of_item: OrderedDict[str, str] = OrderedDict()

        self._budget = Budget(limit_usd=policy.budget_usd, limit_s=policy.budget_s)
        self._transcriber = ""

        self._is_muted = is_muted
        self._cards_lost: dict[Direction, str] = {}
        self._alarms = Alarms(self._outbox, length_s=policy.alarm_s, every_s=policy.alarm_every_s)
        self._timers_running = 0
        self._error_until: float | None = None
        self._trouble = ""

    def __repr__(self) -> str:
        return f"<Conversation {self.state.value} {self._turn.id if self._turn else '-'} {self._links!r}>"

    @property
    def state(self) -> State:
        """The one word for what the appliance is doing, derived from all regions."""
        if self._started_at is None:
            return State.BOOTING
        if self._turn is not None:
            return self._turn_state(self._turn)
        if self._links.fatal is not None and self._links.main is None:
            return State.FAILED
        if self._is_muted:
            return State.MUTED
        if self._links.main is None:
            return State.OFFLINE
        return State.READY if self._links.is_ready else State.CONNECTING

    @property
    def view(self) -> View:
        """What the light and the panel are functions of."""
        return View(
            state=self.state,
            cards_lost=tuple(sorted(self._cards_lost)),
            is_link_lost=self._started_at is not None and self._links.failures > 0 and not self._links.is_ready,
            is_button_stuck=self._gestures.is_stuck,
            is_ringing=bool(self._alarms),
            has_error=self._error_until is not None,
            is_muted=self._is_muted,
            timers_running=self._timers_running,
            trouble=self._trouble,
        )

    @property
    def deadline(self) -> float | None:
        """When to post ``DeadlinePassed`` next, monotonic seconds; None if nothing is pending."""
        return min(self._deadlines(), default=None)

    @property
    def turn_id(self) -> str | None:
        """The running turn, for logs and tests."""
        return self._turn.id if self._turn else None

    @property
    def epoch(self) -> int:
        """The current flush generation of the playback."""
        return self._playout.epoch

    @property
    def history(self) -> tuple[HistoryItem, ...]:
        """The conversation so far, in order."""
        return self._history.items

    @property
    def agent(self) -> str:
        """Who talks."""
        return self._brief.agent

    def _deadlines(self) -> Iterator[float]:
        turn = self._turn
        if self._is_stopped:
            return
        yield from self._links.deadlines(is_idle=self._is_idle)
        if turn is not None and not (turn.phase is Phase.ANSWERING and turn.open_calls):
            yield self._turn_deadline(turn)
        yield from self._calls.deadlines()
        yield from self._asides.deadlines()
        yield from (one.deadline for one in self._updates)
        candidates = (
            self._gestures.deadline,
            self._sequencer.deadline,
            self._guard.deadline,
            self._alarms.deadline,
            self._error_until,
        )
        yield from (at for at in candidates if at is not None)

    def _turn_deadline(self, turn: Turn) -> float:
        if turn.phase is not Phase.ANSWERING:
            return turn.deadline
        at = turn.deadline
        if self._playout.is_pending:
            at = max(at, self._played_at + self._policy.playout_stall_s)
        return min(at, turn.deadline_of_checks(at))

    def _turn_state(self, turn: Turn) -> State:
        match turn.phase:
            case Phase.LISTENING:
                return State.LISTENING
            case Phase.COMMITTING:
                return State.COMMITTING
            case Phase.ANSWERING:
                if self._calls.awaiting_approval is not None:
                    return State.AWAITING_APPROVAL
                return State.SPEAKING if self._playout.is_pending else State.THINKING
        assert_never(turn.phase)

    @property
    def _is_idle(self) -> bool:
        """Nothing is going on that a change of the connection would disturb."""
        return self._turn is None and not (self._updates or self._asides or any(True for _ in self._calls))

    def _do(self, *commands: Command) -> None:
        self._outbox.do(*commands)

    def _tell(self, changes: list[Change]) -> None:
        self._outbox.emit(*changes)

    def _report(self, kind: str, now: float, *, detail: str = "", flash: bool = True) -> None:
        self._trouble = kind
        if flash:
            self._error_until = now + self._policy.error_light_s
        self._outbox.emit(TroubleReported(kind, detail or sentence(kind)))

    def _count_response(self, response: wire.Response, now: float) -> None:
        usage = response.usage
        self._count(response_usd(self._links.model, usage), usage or {}, 0.0, now, is_free=not usage)

    def _count(
        self, usd: float | None, usage: Mapping[str, Any], audio_s: float, now: float, *, is_free: bool = False
    ) -> None:
        """Add to the day's account; what the offline brain does costs nothing."""
        if is_free or self._is_free:
            return
        percent = self._budget.add(usd, audio_s)
        counted = Turn("", 0.0, 0.0)
        counted.add_usage(usage)
        self._outbox.emit(
            UsageCounted(
                tuple(sorted(counted.usage.items())), usd, audio_s, self._budget.spent_usd, self._budget.spent_s
            )
        )
        if percent is not None:
            message = self._budget.sentence(percent)
            self._outbox.emit(BudgetReached(percent, message))
            if percent >= 100:
                takes_over = self._policy.offline_endpoint is not None
                self._do(Announce(self._playout.epoch, message + " I go on offline." * takes_over, "offline"))
                self._restrict_links(now)

    @property
    def _is_free(self) -> bool:
        """The offline brain answers, which costs nothing."""
        link = self._links.main
        return link is not None and link.endpoint == self._policy.offline_endpoint

    @property
    def _may_ask(self) -> bool:
        """Whether the budget allows to ask the model of the main link."""
        return self._is_free or not self._budget.is_spent

    @property
    def _is_broke(self) -> bool:
        """The budget is spent, and there is no offline brain to take over."""
        return self._budget.is_spent and self._policy.offline_endpoint is None

    def _restrict_links(self, now: float) -> None:
        """With the budget spent, only the offline brain may answer."""
        is_spent = self._budget.is_spent and self._policy.offline_endpoint is not None
        self._links.restrict(self._policy.offline_endpoint if is_spent else None, now)
