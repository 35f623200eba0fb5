"""The agent in force, and the pending ``session.update``s. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from appliance.agents.spec import AgentSpec
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.values import mapping
from appliance.realtime import protocol as wire

__all__ = ["Session", "SessionUpdateSent"]


@dataclass(frozen=True, slots=True)
class SessionUpdateSent:
    """A pending ``session.update``."""

    event_id: str
    kind: Literal["connect", "turn", "handoff", "agent", "rollback", "raw"]
    """``agent``: the program replaces the active agent."""
    session: Mapping[str, Any] = field(repr=False)
    spec: AgentSpec | None = None
    """The agent that it puts in force; for kind ``turn``, the one to restore if it is refused."""
    call_id: str = ""
    key: str = ""
    """For kind ``agent``: the key of the program's request."""
    deadline: float = 0.0
    """When to stop waiting for its answer; monotonic seconds."""


class Session:
    """The agent in force, and the pending updates.

    A handoff changes the agent only when the server accepts its update. ``session.updated`` does not carry our id, so
    the updates are kept in order.
    """

    def __init__(self, policy: Policy, out: Outbox, spec: AgentSpec) -> None:
        self.policy = policy
        self._out = out
        self.spec = spec
        self.transcriber = ""
        """The transcription model, as the server names it."""
        self._updates: deque[SessionUpdateSent] = deque()
        self._asked_next = 0

    @property
    def is_waiting(self) -> bool:
        return bool(self._updates)

    @property
    def has_handoff(self) -> bool:
        """Another agent was sent to the server."""
        return any(one.kind in ("handoff", "agent") for one in self._updates)

    @property
    def wanted(self) -> AgentSpec:
        """The newest agent that the program wants and the server has not answered; without one, the agent in force."""
        return next((one.spec for one in reversed(self._updates) if one.kind == "agent" and one.spec), self.spec)

    @property
    def upcoming(self) -> AgentSpec:
        """The agent that answers a request sent now, unless the server refuses one in flight."""
        sent = (one.spec for one in reversed(self._updates) if one.kind in ("handoff", "agent"))
        return next(sent, None) or self.spec

    def deadlines(self) -> Iterator[float]:
        return (one.deadline for one in self._updates)

    def expire(self, now: float) -> list[SessionUpdateSent]:
        """Forget late updates: some servers never send ``session.updated``; return those of kind ``agent``."""
        late = [one for one in self._updates if now >= one.deadline]
        self._updates = deque(one for one in self._updates if now < one.deadline)
        return [one for one in late if one.kind == "agent"]

    def put_in_force(self, spec: AgentSpec) -> str:
        """Change the agent; returns the name of the previous one."""
        before, self.spec = self.spec.agent, spec
        return before

    def forget(self) -> list[SessionUpdateSent]:
        """Forget the pending updates: their connection is lost; returns those of kind ``agent``."""
        unanswered = [one for one in self._updates if one.kind == "agent"]
        self._updates.clear()
        return unanswered

    def update(self, update: SessionUpdateSent, now: float) -> None:
        """Send an update; that of a handoff has a later deadline than its call, which must time out first."""
        wait_s = self.policy.commit_s + self.policy.tool_s * (update.kind == "handoff")
        self._updates.append(replace(update, deadline=now + wait_s))
        self._out.send(wire.SessionUpdate(event_id=update.event_id, session=dict(update.session)))

    def note_raw(self, event_id: str, session: Mapping[str, Any], now: float) -> None:
        """Remember an update that the program sends as a raw frame."""
        self._updates.append(SessionUpdateSent(event_id, "raw", session, deadline=now + self.policy.commit_s))

    def updated(self, event: wire.SessionUpdated) -> SessionUpdateSent | None:
        """Return the accepted update, and drop those before it: the one with the same instructions, else the oldest.

        Returns:
            The update; None if it is no longer pending.
        """
        audio_input = mapping(mapping(event.session.get("audio")).get("input"))
        self.transcriber = str(mapping(audio_input.get("transcription")).get("model") or "")
        instructions = event.session.get("instructions")
        matching = [one for one in self._updates if one.session.get("instructions", instructions) == instructions]
        is_in_force = instructions is not None and instructions == self.spec.session.get("instructions")
        if not self._updates or (is_in_force and not matching):
            return None
        accepted = matching[0] if matching else self._updates[0]
        skipped: list[SessionUpdateSent] = []
        while (one := self._updates.popleft()) is not accepted:
            skipped += [one] * (one.kind == "agent")  # the program waits for its answer
        self._updates.extendleft(reversed(skipped))
        return accepted

    def refused(self, event_id: str | None) -> SessionUpdateSent | None:
        """Remove the update that the server refused; returns None if the error names none."""
        update = next((one for one in self._updates if one.event_id == event_id), None)
        if update is not None:
            self._updates.remove(update)
        return update

    def ask_next(self) -> int:
        """Return the number of a new wish for the next agent; the earlier ones are void."""
        self._asked_next += 1
        return self._asked_next

    def is_next(self, number: int) -> bool:
        """Return whether no later agent was asked for."""
        return number == self._asked_next

    def change_for_turn(self, turn: str, spec: AgentSpec, session: Mapping[str, Any], now: float) -> None:
        """Put new instructions of the same agent in force; the update keeps the old ones, in case of a refusal."""
        before, self.spec = self.spec, spec
        self.update(SessionUpdateSent(f"turn_{turn}", "turn", session, before), now)

    def request_handoff(self, call_id: str, spec: AgentSpec, session: Mapping[str, Any], now: float) -> None:
        """Send the session of another agent; it comes into force when the server accepts it."""
        self.update(SessionUpdateSent(f"handoff_{call_id}", "handoff", session, spec, call_id), now)

    def request_agent(self, key: str, spec: AgentSpec, session: Mapping[str, Any], now: float) -> None:
        """Send the session of the agent that the program wants; it comes into force when the server accepts it."""
        self.update(SessionUpdateSent(f"agent_{key}", "agent", session, spec, key=key), now)

    def roll_back(self, call_id: str, session: Mapping[str, Any], now: float) -> None:
        """Undo a failed handoff: overwrite what the server may have applied with the agent in force."""
        if not any(one.call_id == call_id for one in self._updates):
            return
        self._updates = deque(replace(one, kind="rollback") if one.call_id == call_id else one for one in self._updates)
        self.update(SessionUpdateSent(f"rollback_{call_id}", "rollback", session), now)


def session_for(spec: AgentSpec, *, is_offline: bool, is_trusted: bool, has_spoken: bool) -> Mapping[str, Any]:
    """Return the ``session`` object of an agent for a connection.

    Args:
        spec: The agent.
        is_offline: Whether it goes to the offline brain, which alone gets the phrases of the tools.
        is_trusted: Whether the server may get the secrets of MCP servers.
        has_spoken: Whether the server has sent audio: it then refuses a change of voice.
    """
    if is_offline:
        spec = replace(spec, session=spec.for_offline_brain())
    elif not is_trusted:
        spec = replace(spec, session=spec.without_secrets())
    return spec.without_voice() if has_spoken else spec.session
