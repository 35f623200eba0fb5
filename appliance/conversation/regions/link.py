"""The active connection and, while rotating or failing back, a spare. Pure.

Theory of operation. Endpoints are a list in the order of preference (cloud, a server in the house, the offline
brain). The *main* link is None (until `retry_at`), connecting (until ``session.created``), or ready.

* **Failover.** After a link that failed to connect, or was lost within `stable_s`, the next endpoint is tried at once.
  After the last one, a new round starts with a growing wait (`retry.Backoff`). A fatal reason (bad key, no credit)
  blocks its endpoint for `fatal_retry_s`; `fatal` is set only when all are blocked.
* **Failback and rotation.** On a worse endpoint, a better one is tried every `failback_s`. A session is replaced after
  `rotate_after_s`, before the server ends it. Both open a *spare* in an idle gap. Once the spare is ready, and in an
  idle gap again, it becomes the main link and the old one is closed. A spare that fails costs nothing.
* **Detour.** While the main link goes to the offline brain, `take_detour` returns why the first endpoint is not used.
* A link has a number; events with any other number than those of main and spare are late, and ignored.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from appliance.conversation.commands import Connect, Disconnect
from appliance.conversation.notices import Connected
from appliance.conversation.policy import Policy
from appliance.conversation.support.detour import Detour
from appliance.conversation.support.endpoints import Endpoints
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.retry import Backoff, Verdict

__all__ = ["Link", "Links"]


@dataclass(slots=True)
class Link:
    """A connection that was requested and not reported down."""

    id: int
    endpoint: int
    deadline: float
    """For ``session.created``, then for the instructions of the agent; monotonic seconds."""
    ready_at: float | None = None
    is_configured: bool = False
    """The agent and the history were sent: turns may follow."""
    has_spoken: bool = False
    """The server has sent audio; from then on it refuses a change of voice."""
    model: str = ""
    """Its name in ``session.created``."""
    bad_frames: int = 0
    last_error: str | None = None

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None


class Links:
    """The main link and the spare, and when the next one is opened."""

    def __init__(self, policy: Policy, out: Outbox, *, seed: int) -> None:
        self.policy = policy
        self._out = out
        self._random = random.Random(seed)
        self.main: Link | None = None
        self.spare: Link | None = None
        self.made = 0
        self.failures = 0
        """Failed rounds over all endpoints since the last stable link, whose loss counts as one."""
        self.fatal: Verdict | None = None
        self.retry_at: float | None = None
        self._endpoints = Endpoints(policy.endpoints)
        self._has_expired = False
        self._replace_at: float | None = None
        self._held_until = 0.0
        """The server asked to wait until then."""
        self._detour = Detour()

    def __repr__(self) -> str:
        return f"<Links main {self.main}, spare {self.spare}>"

    @property
    def is_ready(self) -> bool:
        return self.main is not None and self.main.is_ready

    @property
    def is_usable(self) -> bool:
        """Whether turns may be sent on the main link."""
        return self.main is not None and self.main.is_configured

    @property
    def main_id(self) -> int | None:
        return self.main.id if self.main is not None else None

    @property
    def model(self) -> str:
        """The model of the main link; "" without one."""
        return self.main.model if self.main is not None else ""

    def deadlines(self, *, is_idle: bool) -> Iterator[float]:
        """Yield the times at which `advance` or `rest` has something to do, or the main link is late."""
        if self.main is not None and not self.main.is_configured:
            yield self.main.deadline
        if self.spare is not None and not self.spare.is_ready:
            yield self.spare.deadline
        if self.retry_at is not None:
            yield self.retry_at
        if is_idle and self.is_usable and self.spare is None and self._replace_at is not None:
            yield self._replace_at

    def restrict(self, endpoint: int | None, now: float) -> None:
        """Allow only one endpoint (the offline brain, when the budget is spent), or with None all of them."""
        self._endpoints.only = endpoint
        if self.main is not None and self.main.is_ready:
            self._plan_replacement(self.main, now)

    # --- the main link ------------------------------------------------------------------------------------------

    def connect(self, now: float) -> None:
        """Open the main link, to the best endpoint that was not tried in this round."""
        self.retry_at = None
        self.main = self._open(self._endpoints.next(now), now)
        self._out.link = None

    def hurry(self, now: float) -> None:
        """Connect now because a turn waits, unless the server has asked to wait."""
        if now >= self._held_until:
            self.connect(now)

    def created(self, link: Link, now: float, *, model: str = "") -> None:
        """Handle ``session.created``: the link is ready."""
        link.ready_at = now
        link.model = model
        link.deadline = now + self.policy.prepare_s
        self._endpoints.unblock(link.endpoint)
        if link is self.main:
            self._activate(link, now)

    def await_instructions(self, link: Link, now: float) -> None:
        """Restart the deadline, for the instructions of the agent."""
        link.deadline = now + self.policy.prepare_s

    def configured(self, link: Link) -> None:
        """Let turns be sent: the agent and the history are."""
        link.is_configured = True
        self._out.link = link.id

    def lose(self, verdict: Verdict, now: float, *, is_awaited: bool = False) -> bool:
        """Handle the loss of the main link.

        Args:
            verdict: What the loss means.
            now: Monotonic seconds.
            is_awaited: Whether a turn waits for a connection, so that the backoff is short.

        Returns:
            Whether to report it; a session that reached its time limit is normal.
        """
        link, self.main = self.main, None
        self._out.link = None
        self._replace_at = None
        if link is None:
            return False
        self._note_detour(link, verdict)
        was_stable = link.ready_at is not None and now >= link.ready_at + self.policy.stable_s
        if was_stable:
            self.failures = 0
            self._has_expired = False
            self._endpoints.begin_round()
        is_normal = verdict.action == "expired" and not self._has_expired  # two in a row are not
        self._has_expired = self._has_expired or verdict.action == "expired"
        if self.spare is not None:  # takes over early
            self.main, self.spare = self.spare, None
            if self.main.is_ready:
                self._activate(self.main, now)
        elif is_normal:
            delay_s = self._wait_s(is_awaited=is_awaited) if self.failures > 0 else 0.0
            self.retry_at = now + delay_s
        else:
            self._plan_retry(link, verdict, now, was_stable=was_stable, is_awaited=is_awaited)
        return not is_normal

    def advance(self, now: float) -> None:
        """Close a late spare, and retry the main link when due; a late main link is the caller's."""
        spare = self.spare
        if spare is not None and not spare.is_ready and now >= spare.deadline:
            self._out.do(Disconnect(spare.id))
            self.lose_spare(now)
        if self.main is None and self.retry_at is not None and now >= self.retry_at:
            self.connect(now)

    # --- the spare ----------------------------------------------------------------------------------------------

    def rest(self, now: float) -> None:
        """Use an idle gap: open a spare that is due, or let a ready one take over."""
        main, spare = self.main, self.spare
        if main is None or not main.is_configured:
            return
        if not self._endpoints.allow(main.endpoint):
            self._out.do(Disconnect(main.id))  # the budget is spent
            self.connect(now)
        elif spare is not None and spare.is_ready:
            self.main, self.spare = spare, None
            self._out.do(Disconnect(main.id))
            self._out.link = None
            self._activate(spare, now)
        elif spare is None and self._replace_at is not None and now >= self._replace_at:
            self._replace(main, now)

    def _replace(self, main: Link, now: float) -> None:
        """Open a spare to a better endpoint, or to the same one if the session is old; else look again later."""
        assert main.ready_at is not None
        better = self._endpoints.better(main.endpoint, now)
        is_old = now >= main.ready_at + self.policy.rotate_after_s
        self._replace_at = None
        if better is not None or is_old:
            self.spare = self._open(main.endpoint if better is None else better, now)
        else:
            self._plan_replacement(main, now)

    def lose_spare(self, now: float, verdict: Verdict | None = None) -> None:
        """Handle the loss of the spare: the main link stays, and failback is retried later."""
        if self.spare is not None and verdict is not None and verdict.action == "fatal":
            self._note_detour(self.spare, verdict)
            self._endpoints.block(self.spare.endpoint, now + self.policy.fatal_retry_s)
        if self.spare is not None:
            self._endpoints.try_as_spare(self.spare.endpoint)
        self.spare = None
        if self.main is None or not self.main.is_ready:
            return
        if self._endpoints.better(self.main.endpoint, now) is None:
            self._endpoints.begin_spares()
            self._replace_at = now + self.policy.failback_s
        else:
            self._replace_at = now  # try the next better endpoint at once

    # --- the detour ---------------------------------------------------------------------------------------------

    def take_detour(self) -> Verdict | None:
        """Return why the offline brain is used and not the first endpoint; None if it is not, or as `Detour.take`."""
        is_offline = self.main is not None and self.main.endpoint == self.policy.offline_endpoint
        return self._detour.take() if is_offline else None

    def _note_detour(self, link: Link, verdict: Verdict) -> None:
        if link.endpoint == 0 and self.policy.offline_endpoint:
            self._detour.note(verdict)

    # --- internals ----------------------------------------------------------------------------------------------

    def _open(self, endpoint: int, now: float) -> Link:
        self.made += 1
        self._out.do(Connect(self.made, endpoint))
        return Link(self.made, endpoint, deadline=now + self.policy.connect_s)

    def _activate(self, link: Link, now: float) -> None:
        self.fatal = None
        if link.endpoint == 0:
            self._detour.end()
        self._plan_replacement(link, now)
        self._out.emit(Connected(link.id, link.endpoint))

    def _plan_replacement(self, link: Link, now: float) -> None:
        assert link.ready_at is not None
        self._replace_at = link.ready_at + self.policy.rotate_after_s
        if link.endpoint != self._endpoints.allowed[0]:
            delay_s = self.policy.failback_s if self._endpoints.only is None else 0.0
            self._replace_at = min(self._replace_at, now + delay_s)

    def _plan_retry(self, link: Link, verdict: Verdict, now: float, *, was_stable: bool, is_awaited: bool) -> None:
        endpoints = self._endpoints
        if not was_stable:  # after a stable link the best endpoint comes first
            endpoints.try_(link.endpoint)
        if verdict.action == "fatal":
            endpoints.block(link.endpoint, now + self.policy.fatal_retry_s)
        if (unblocked_at := endpoints.all_blocked_until(now)) is not None:
            self.fatal = verdict
            self.failures += 1
            endpoints.begin_round()
            self.retry_at = unblocked_at
        elif not was_stable and endpoints.has_untried(now):
            self.connect(now)
        else:
            endpoints.begin_round()
            if verdict.retry_after_s:
                self._held_until = now + verdict.retry_after_s
            self.retry_at = max(self._held_until, now + self._wait_s(is_awaited=is_awaited))
            self.failures += 1

    def _wait_s(self, *, is_awaited: bool) -> float:
        backoff = Backoff(self.policy.backoff_initial_s, self.policy.backoff_max_s)
        delay_s = backoff.delay_s(self.failures, self._random.random())
        longest_s = min(1.0, self.policy.awaited_retry_s) if self.failures == 0 else self.policy.awaited_retry_s
        return min(delay_s, longest_s) if is_awaited else delay_s
