"""Connections that come and go, and what each new one is told. Pure; a layer of `Conversation` (see `regions`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from appliance.conversation.commands import (
    CancelTool,
    Disconnect,
    PrepareAgent,
)
from appliance.conversation.events import (
    FrameRefused,
    LinkDown,
)
from appliance.conversation.links import Link
from appliance.conversation.regions import SessionUpdateSent
from appliance.conversation.retry import Verdict, classify
from appliance.conversation.roster import Brief
from appliance.conversation.turn import Phase, Turn
from appliance.conversation.turns import Turns
from appliance.realtime import protocol as wire

__all__ = ["Linking"]


class Linking(Turns):
    """The connections."""

    def _on_link_late(self, link: Link, now: float) -> None:
        if link.is_ready:  # the greeting is here, the agent's own instructions are not
            self._report("instructions_late", now)
            self._configure(link, now)
        else:
            self._do(Disconnect(link.id))
            self._lose_link(classify("timeout", None, last_error=link.last_error), now)

    def _on_link_down(self, event: LinkDown, now: float) -> None:
        main, spare = self._links.main, self._links.spare
        if main is not None and event.link == main.id:
            self._lose_link(classify(event.kind, event.code, last_error=main.last_error), now)
        elif spare is not None and event.link == spare.id:
            self._links.lose_spare(now, classify(event.kind, event.code, last_error=spare.last_error))

    def _lose_link(self, verdict: Verdict, now: float) -> None:
        is_trouble = self._links.lose(verdict, now)
        is_told_by_turn = self._links.fatal is not None and self._turn is not None and not self._turn.is_answer_done
        if is_trouble and not is_told_by_turn:
            self._report(verdict.kind, now, detail=verdict.message, flash=False)
        for call in self._calls:
            if call.turn != self.turn_id:
                self._do(CancelTool(call.call_id))
                self._tell_lost(call)
        self._calls.keep_turn(self.turn_id)
        self._on_link_left()
        if self._turn is not None:
            self._on_turn_unlinked(self._turn, now)
        if self._links.main is not None and self._links.main.is_ready:  # a spare stood by
            self._on_link_ready(self._links.main, now)

    def _on_turn_unlinked(self, turn: Turn, now: float) -> None:
        """Keep a turn alive over a lost link as long as nothing of its answer has begun."""
        fatal = self._links.fatal
        was_asked = turn.is_commit_sent
        turn.forget_link()
        if turn.is_answer_done:
            self._drop_calls(turn)  # all of the answer is here, and plays on
        elif fatal is not None:
            self._fail_turn(fatal.kind, now, said=fatal.message)
        elif turn.has_output:
            turn.phase = Phase.ANSWERING  # also where the server had not confirmed the audio
            self._drop_calls(turn)
            self._forget_unsounded(turn)
            self._guard.drop_held()
            self._finish_play(turn)
            turn.is_answer_done = True
            turn.failure = turn.failure or "answer_cut"
        elif turn.phase is not Phase.LISTENING or turn.kind == "vad":
            self._tell(self._history.remove(turn.item_id))  # it is said again, and becomes another item
            turn.phase = Phase.LISTENING if turn.kind == "vad" else Phase.COMMITTING
            if was_asked:  # else the wait for a link goes on, and losing another does not prolong it
                turn.replays += 1
                turn.deadline = now + self._policy.link_wait_s
            if turn.replays > self._policy.max_replays:
                self._fail_turn("no_answer", now)

    def _forget_unsounded(self, turn: Turn) -> None:
        """What the connection took before a word of it was heard was not said."""
        for item in self._history.items:
            is_cut = item.role == "assistant" and item.status == "incomplete" and item.heard_ms is None
            if is_cut and item.id not in self._sounded and not turn.is_written:
                self._tell(self._history.remove(item.id))

    def _on_session_created(self, link: Link, event: wire.SessionCreated, now: float) -> None:
        if link.is_ready:
            return
        self._links.created(link, now, model=str(event.session.get("model") or ""))
        self._on_link_ready(link, now)
        turn = self._turn
        if turn is not None and turn.phase is Phase.COMMITTING:
            turn.deadline = now + self._policy.commit_s + self._policy.prepare_s * self._brief.is_asked_at_connect

    def _on_link_ready(self, link: Link, now: float) -> None:
        self._trouble = ""
        if self._brief.is_asked_at_connect:
            link.deadline = now + self._policy.prepare_s
            self._do(PrepareAgent(f"connect_{link.id}", self._brief.agent, "connect"))
        else:
            self._configure(link, now)

    def _configure(self, link: Link, now: float) -> None:
        """Tell the new connection who talks, and what was said so far."""
        self._links.configured(link)
        self._update_session(
            SessionUpdateSent(f"session_{link.id}", "connect", self._session_of(self._brief), self._brief), now
        )
        frames, changes = self._history.replay(limit=self._policy.replay_items)
        self._tell(changes)
        for frame in frames:
            self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{frame['id']}", item=frame))

    def _update_session(self, update: SessionUpdateSent, now: float) -> None:
        wait_s = self._policy.commit_s + self._policy.tool_s * (update.kind == "handoff")  # its call gives up before
        self._updates.append(replace(update, deadline=now + wait_s))
        self._outbox.send(wire.SessionUpdate(event_id=update.event_id, session=dict(update.session)))

    def _session_of(self, brief: Brief) -> Mapping[str, Any]:
        link = self._links.main
        if link is not None and link.endpoint > 0:
            brief = replace(brief, session=brief.without_secrets())
        return brief.without_voice() if link is not None and link.has_spoken else brief.session

    def _on_bad_frame(self, event: FrameRefused, now: float) -> None:
        link = self._links.main
        if link is None or event.link != link.id:
            return
        link.bad_frames += 1
        self._report("bad_frame", now, detail=event.problem)
        if link.bad_frames > self._policy.max_bad_frames:
            self._do(Disconnect(link.id))
            self._lose_link(classify("bad_frames", None), now)
