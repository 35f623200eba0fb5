"""The answer to the running turn: who gives it, what was asked for, and what came of it. Pure.

The server gives one response at a time: `ResponseSlot` says whose. `Playback` plays and checks what comes. There is
one path of interruption (button, program, the server's turn detection, tripwire): flush the playback and raise the
epoch, truncate each item that was queued and not heard whole, then cancel the response, or cancel it when it is
created.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from appliance.agents.spec import AgentSpec
from appliance.conversation.notices import (
    AgentEnd,
    AgentStart,
    AnswerText,
    HandoffDone,
    TroubleKind,
)
from appliance.conversation.policy import Policy
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.playback import Playback
from appliance.conversation.support.response_slot import Arrival, ResponseSlot
from appliance.conversation.support.response_state import Asked, Received, Speaker
from appliance.realtime import protocol as wire

__all__ = ["Answer", "OutputText"]

OutputText: TypeAlias = (
    wire.OutputAudioTranscriptDelta | wire.OutputAudioTranscriptDone | wire.OutputTextDelta | wire.OutputTextDone
)


class Answer:
    """The response slot, the playback, and what is known of the answer to the running turn.

    Writes ``response.create`` and ``response.cancel``, and the notices of agents and of text.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self._policy = policy
        self._out = out
        self.slot = ResponseSlot()
        self._unplayed_items: set[str] = set()
        """Items of the assistant of which nothing was heard, to be deleted once they are done."""
        self.playback = Playback(policy, out)
        self.deadline = 0.0
        """For the next sign of the answer, once the speech is taken; monotonic seconds."""
        self.speaker = Speaker()
        self.received = Received()
        self.asked = Asked()

    # --- what others read ---------------------------------------------------------------------------------------

    @property
    def is_playing(self) -> bool:
        return self.playback.is_playing

    @property
    def is_under_way(self) -> bool:
        """A response is open or wished for, or its text is being checked."""
        return self.asked.is_open or self.slot.wish is not None or self.playback.gate.is_busy

    @property
    def is_written(self) -> bool:
        """The answer is text, not speech: by the session, or by what the program asked of this response."""
        own = self.asked.options.get("output_modalities")
        spec = self.speaker.spec
        return list(own) == ["text"] if own else spec is not None and spec.is_written

    @property
    def is_empty(self) -> bool:
        """Nothing of it can be heard or read."""
        return not (self.received.has_audio or (self.received.has_text and self.is_written))

    def answers(self, response_id: str, turn: str | None) -> bool:
        """Whether a response answers the running turn; False for anything late, cancelled or foreign.

        Args:
            response_id: Of the response; a server that never sends ``response.created`` makes it known here.
            turn: The running turn; None while the user speaks.
        """
        request = self.slot.request
        return request is not None and request.turn == turn and self.slot.is_current(response_id)

    def is_unplayed(self, item: wire.Item, *, is_unheard: bool) -> bool:
        """Whether an answer came too late to be played at all.

        Args:
            item: As the server gives it.
            is_unheard: It is in the history, and nothing says that it was heard.
        """
        is_answer = item.type == "message" and item.role == "assistant"
        never = is_answer and is_unheard and item.id not in self.playback.played_items
        return never or item.id in self._unplayed_items

    def deadlines(self) -> Iterator[float | None]:
        yield self.slot.deadline
        yield self.playback.gate.deadline

    def due(self) -> float:
        """When the answer is late: nothing comes, or the playback stands still."""
        return self.playback.stalled_at(self.deadline)

    # --- the running turn ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.speaker = Speaker()
        self.received = Received()
        self.asked = Asked()
        self.playback.guards, self.playback.must_finish = "", False

    def prolong(self, now: float) -> None:
        """A sign of life came."""
        self.deadline = now + self._policy.answer_s

    def wait_until(self, deadline: float) -> None:
        """Keep the deadline that the speech had."""
        self.deadline = deadline

    def use(self, options: Mapping[str, Any]) -> None:
        """Take what the program wants of the response beyond the session's settings."""
        self.asked.options = options

    def end(self) -> int:
        """The turn is over; returns the frames of its answer."""
        if not self.playback.gate.is_empty:
            self.playback.gate.reset()
        if self.speaker.agent:
            self._out.emit(AgentEnd(self.speaker.agent, self.speaker.said))
        return self.received.frames

    def hand_over(self, before: str, to: str, *, is_answering: bool) -> None:
        """The server accepted another agent, which continues the answer."""
        speaker = self.speaker
        has_spoken = is_answering and bool(speaker.agent)
        if has_spoken:
            self._out.emit(AgentEnd(before, speaker.said))
        self._out.emit(HandoffDone(before, to))
        if has_spoken:
            speaker.agent, speaker.said = to, ""
            self._out.emit(AgentStart(to))

    # --- the response -------------------------------------------------------------------------------------------

    def ask(self, turn: str, spec: AgentSpec, *, rounds: int, is_taken: bool, is_free: bool, now: float) -> None:
        """Send the ``response.create`` that was granted.

        Args:
            turn: The running turn.
            spec: The agent in force.
            rounds: Responses of this turn that made calls.
            is_taken: The speech is taken.
            is_free: The offline brain answers.
            now: Monotonic seconds.
        """
        event_id = self._out.next_event_id()
        response = self.asked.response(turn, spec, rounds=rounds, first_sentence=self.speaker.first_sentence)
        if rounds >= self._policy.max_tool_rounds:
            response["tool_choice"] = "none"
        self.slot.asked(turn, event_id)
        self.open(spec, is_taken=is_taken, is_free=is_free, now=now)
        self._out.send(wire.ResponseCreate(event_id=event_id, response=response))

    def open(self, spec: AgentSpec, *, is_taken: bool, is_free: bool, now: float) -> None:
        """A response was asked for."""
        asked = self.asked
        asked.is_open, asked.is_done, asked.is_free = True, False, is_free
        self._speak(spec)
        if is_taken and not asked.is_retry:
            self.prolong(now)
        if not self.speaker.agent:
            self.speaker.agent = spec.agent
            self._out.emit(AgentStart(spec.agent))

    def _speak(self, spec: AgentSpec) -> None:
        self.speaker.spec = spec
        self.playback.guards = spec.agent if spec.has_output_guardrails else ""

    def created(self, response: wire.Response) -> bool:
        """Decide on a ``response.created``; returns whether the response is the one that was asked for."""
        arrival = self.slot.created(response)
        if arrival is Arrival.CANCEL:
            self._out.send(wire.ResponseCancel(response_id=response.id))
        return arrival is Arrival.ACCEPT

    def accept(self, spec: AgentSpec) -> None:
        """The response begins; the server's events are in order, so it is given by the agent in force."""
        self.speaker.first_sentence = ""
        self._speak(spec)

    def close(self) -> None:
        """The response to this turn is done."""
        self.speaker.first_sentence = ""
        self.asked.is_open = False

    def retry(self) -> None:
        """Ask for the response of this turn again, and wait no longer for it."""
        self.asked.is_open = False
        self.asked.is_retry = True

    def end_wait(self) -> None:
        """The response that was asked for again is over: the next has a deadline of its own."""
        self.asked.is_retry = False

    def unlink(self) -> None:
        """The connection is gone: no response of it is open."""
        self.asked.is_open = False

    def cancel(self, now: float) -> None:
        """Cancel the response, now or when it is created."""
        response_id = self.slot.cancel(now + self._policy.cancel_s)
        if response_id is not None:
            self._out.send(wire.ResponseCancel(response_id=response_id))

    # --- what came of it ----------------------------------------------------------------------------------------

    def hear(self, event: wire.OutputAudioDelta, link: int, now: float) -> None:
        """Take a piece of audio."""
        self.received.has_output = self.received.has_audio = True
        self.received.frames += len(event.delta) // 2
        self.playback.feed(event, link, now)

    def read(self, event: OutputText, text: str, turn: str, now: float, *, is_final: bool) -> None:
        """Take a piece of text, or all of it."""
        if text:
            self.received.has_output = self.received.has_text = True
            if self.is_written:
                self.playback.note_played(event.item_id)
            if is_final:
                self.speaker.said = f"{self.speaker.said} {text.strip()}".strip()
            self._out.emit(AnswerText(turn, text, is_final))
        self.playback.read(event.item_id, event.content_index, text, now, is_final=is_final)

    def release(self, link: int, now: float) -> None:
        """Play what the guardrails have passed."""
        self.playback.release(link, now, is_over=not self.asked.is_open)

    def note_output(self) -> None:
        """A call came: after this, replaying the turn would repeat side effects."""
        self.received.has_output = True

    def begin_with(self, first_sentence: str) -> None:
        """The next response begins with this sentence."""
        self.speaker.first_sentence = first_sentence

    def finish(self) -> None:
        """All of the answer is here."""
        self.asked.is_done = True

    def fail(self, kind: TroubleKind, detail: str = "") -> None:
        """The answer is not whole; reported after the received part has played."""
        self.received.failure = kind
        self.received.failure_detail = detail

    def begin_again(self) -> int:
        """A guardrail stopped the response; returns how many it stopped in this turn."""
        self.asked.trips += 1
        self.speaker.said = ""
        self.received.has_audio = self.received.has_text = False
        self.asked.is_open = False
        return self.asked.trips

    def note_unplayed(self, item_id: str, *, is_done: bool) -> None:
        """Remember an item of which nothing was heard until it is done, and is deleted."""
        if is_done:
            self._unplayed_items.discard(item_id)
        else:
            self._unplayed_items.add(item_id)

    # --- connections --------------------------------------------------------------------------------------------

    def forget_link(self) -> None:
        """The connection is gone: its response, and what it would still have sent."""
        self.slot.reset()
        self._unplayed_items.clear()

    def cut_off(self) -> None:
        """The connection took the rest of the answer: what was released plays to its end."""
        self.playback.gate.drop_held()
        self.playback.finish()
        self.finish()
        self.received.failure = self.received.failure or "answer_cut"
