"""The answer to the running turn: the agent that gives it, the request, and what was received. Pure.

The server runs one response at a time; `ResponseSlot` knows its turn. `Playback` checks and plays the output. There is
one path of interruption (button, program, server turn detection, tripwire): flush the playback and raise the epoch,
truncate each queued item that was not heard whole, then cancel the response, now or when it is created.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from appliance.agents.spec import AgentSpec
from appliance.conversation.notices import (
    AgentEnd,
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
    """The response slot, the playback, and the answer to the running turn.

    Sends ``response.create`` and ``response.cancel``, and emits the notices of agents and of text.
    """

    def __init__(self, policy: Policy, out: Outbox) -> None:
        self.policy = policy
        self._out = out
        self.slot = ResponseSlot()
        self._unplayed_items: set[str] = set()
        """Assistant items that were not heard at all; they are deleted once they are done."""
        self.playback = Playback(policy, out)
        self.deadline = 0.0
        """For the next event of the answer, once the speech is taken; monotonic seconds."""
        self.speaker = Speaker()
        self.received = Received()
        self.asked = Asked()

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def is_playing(self) -> bool:
        return self.playback.is_playing

    @property
    def is_under_way(self) -> bool:
        """A response is open or wanted, or its text is being checked."""
        return self.asked.is_open or self.slot.wish is not None or self.playback.gate.is_busy

    @property
    def is_written(self) -> bool:
        """The answer is text, not speech, by the session or by the options of this response."""
        own = self.asked.options.get("output_modalities")
        spec = self.speaker.spec
        return list(own) == ["text"] if own else spec is not None and spec.is_written

    @property
    def is_empty(self) -> bool:
        """The answer has neither audio nor, if it is written, text."""
        return not (self.received.has_audio or (self.received.has_text and self.is_written))

    @property
    def is_unspoken(self) -> bool:
        """The answer has text and no audio, and is not a written one."""
        return bool(self.speaker.said) and not self.received.has_audio and not self.is_written

    @property
    def is_heard_whole(self) -> bool:
        """The server has ended the audio of the answer, and all of it was heard."""
        received = self.received
        is_whole = received.is_audio_whole or (received.response_has_audio and received.late_response != "")
        return is_whole and not (received.failure or self.is_playing)

    def answers(self, response_id: str, turn: str | None) -> bool:
        """Return whether a response answers the running turn; False if it is late, cancelled or of another turn.

        Args:
            response_id: Its id; adopted here if the server never sends ``response.created``.
            turn: The running turn; None while the user speaks.
        """
        if turn is not None and response_id and response_id == self.received.late_response:
            return True
        request = self.slot.request
        return request is not None and request.turn == turn and self.slot.is_current(response_id)

    def is_unplayed(self, item: wire.Item, *, is_unheard: bool) -> bool:
        """Return whether none of an answer was played.

        Args:
            item: The item of the server.
            is_unheard: The history has the item, without a mark of how much was heard.
        """
        is_answer = item.type == "message" and item.role == "assistant"
        never = is_answer and is_unheard and item.id not in self.playback.played_items
        return never or item.id in self._unplayed_items

    def deadlines(self) -> Iterator[float | None]:
        yield self.slot.deadline
        yield self.playback.gate.deadline

    def due(self) -> float:
        """Return when the answer is late: nothing arrives, or the playback stalls."""
        return self.playback.stalled_at(self.deadline)

    # --- the running turn ---------------------------------------------------------------------------------------

    def begin(self) -> None:
        self.speaker = Speaker()
        self.received = Received()
        self.asked = Asked()
        self.playback.guards, self.playback.must_finish = "", False

    def prolong(self, now: float) -> None:
        """Restart the time limit: a part of the answer has arrived."""
        self.deadline = now + self.policy.answer_s

    def wait_until(self, deadline: float) -> None:
        """Take over the deadline of the speech."""
        self.deadline = deadline

    def use(self, options: Mapping[str, Any]) -> None:
        """Use these response options of the program on top of the session's settings."""
        self.asked.options = options

    def end(self) -> int:
        """End the turn; returns the frames of audio that were received for it."""
        if not self.playback.gate.is_empty:
            self.playback.gate.reset()
        if self.speaker.agent:
            self._out.emit(AgentEnd(self.speaker.agent, self.speaker.said))
        return self.received.frames

    def hand_over(self, before: str, to: str, *, is_answering: bool) -> None:
        """Change the agent from `before` to `to`, which the server has accepted.

        Args:
            is_answering: Whether it continues the answer of the previous one now; else it gives the next response.
        """
        change = self.speaker.change(to) if is_answering and self.speaker.agent else []
        self._out.emit(*change[:1], HandoffDone(before, to), *change[1:])

    # --- the response -------------------------------------------------------------------------------------------

    def ask(self, turn: str, spec: AgentSpec, *, rounds: int, is_taken: bool, is_free: bool, now: float) -> None:
        """Send ``response.create``; the slot has granted it.

        Args:
            turn: The running turn.
            spec: The agent in force.
            rounds: Responses of this turn that made calls.
            is_taken: Whether the server has the speech.
            is_free: Whether the offline brain answers.
            now: Monotonic seconds.
        """
        event_id = self._out.next_event_id()
        response = self.asked.response(turn, spec, rounds=rounds, first_sentence=self.speaker.first_sentence)
        if rounds >= self.policy.max_tool_rounds:
            response["tool_choice"] = "none"
        self.slot.asked(turn, event_id)
        self.open(spec, is_taken=is_taken, is_free=is_free, now=now)
        self._out.send(wire.ResponseCreate(event_id=event_id, response=response))

    def open(self, spec: AgentSpec, *, is_taken: bool, is_free: bool, now: float) -> None:
        """Note that a response was requested."""
        asked = self.asked
        asked.is_open, asked.is_done, asked.is_free = True, False, is_free
        asked.link_deadline, self.received.is_begun = None, False
        self.received.response_has_audio = self.received.is_audio_whole = False
        self._give_floor(spec)
        if is_taken and not asked.is_retry:
            self.prolong(now)

    def _give_floor(self, spec: AgentSpec) -> None:
        self.expect(spec)
        self._out.emit(*self.speaker.change(spec.agent))

    def expect(self, spec: AgentSpec) -> None:
        """Set the agent that gives the response; it starts once the server has accepted it."""
        self.speaker.spec = spec
        self.playback.guards = spec.agent if spec.has_output_guardrails else ""

    def created(self, response: wire.Response) -> bool:
        """Handle ``response.created``; returns whether it is the response that was requested."""
        arrival = self.slot.created(response)
        if arrival is Arrival.CANCEL:
            self._out.send(wire.ResponseCancel(response_id=response.id))
        return arrival is Arrival.ACCEPT

    def accept(self, spec: AgentSpec) -> None:
        """Start the response; events are in order, so the agent now in force gives it."""
        self._give_floor(spec)

    def close(self) -> None:
        """Handle the end of the response."""
        self.speaker.first_sentence = ""
        self.received.is_begun = False
        self.asked.is_open = False

    def retry(self) -> None:
        """Note that the request will be repeated; its deadline stays the same."""
        self.asked.is_open = False
        self.asked.is_retry = True

    def end_wait(self) -> None:
        """Give the next response a new deadline: the repeated request is over."""
        self.asked.is_retry = False

    def unlink(self) -> None:
        """Note that the connection was lost, and the open response with it."""
        self.asked.is_open = False

    def cancel(self, now: float) -> None:
        """Cancel the response, now or once it is created."""
        response_id = self.slot.cancel(now + self.policy.cancel_s)
        if response_id is not None:
            self._out.send(wire.ResponseCancel(response_id=response_id))

    # --- output -------------------------------------------------------------------------------------------------

    def hear(self, event: wire.OutputAudioDelta, link: int, now: float) -> None:
        """Handle a piece of audio."""
        self.speaker.first_sentence = ""
        self.received.has_output = self.received.has_audio = self.received.is_begun = True
        self.received.response_has_audio, self.received.is_audio_whole = True, False
        pcm = self._whole_samples(event)
        self.received.frames += len(pcm) // 2
        if pcm:
            self.playback.feed(event.item_id, event.content_index, pcm, link, now)

    def _whole_samples(self, event: wire.OutputAudioDelta) -> bytes:
        """Return the samples of a delta; a half sample at its end is kept for the next delta of the same part."""
        item_id, content_index, first_byte = self.received.half_sample
        pcm = event.delta
        if first_byte and (item_id, content_index) == (event.item_id, event.content_index):
            pcm = first_byte + pcm
        whole = len(pcm) - len(pcm) % 2
        self.received.half_sample = (event.item_id, event.content_index, pcm[whole:])
        return pcm[:whole]

    def read(self, event: OutputText, text: str, turn: str, now: float, *, is_final: bool) -> None:
        """Handle a piece of text, or (`is_final`) the whole text."""
        if text:
            self.speaker.first_sentence = ""
            self.received.has_output = self.received.has_text = self.received.is_begun = True
            if self.is_written:
                self.playback.note_played(event.item_id)
            if is_final:
                self.speaker.said = f"{self.speaker.said} {text.strip()}".strip()
            self._out.emit(AnswerText(turn, text, is_final))
        self.playback.read(event.item_id, event.content_index, text, now, is_final=is_final)

    def release(self, link: int, now: float) -> None:
        """Play the audio that the guardrails have passed."""
        self.playback.release(link, now, is_over=not self.asked.is_open)

    def end_audio(self, link: int, now: float) -> None:
        """Note that the server has ended the audio of an item; late audio ends the answer."""
        self.received.is_audio_whole = self.received.response_has_audio
        if self.received.late_response and self.received.response_has_audio:
            self.received.late_response = ""
            self.release(link, now)
            self.finish()

    def lacks_audio(self, response: wire.Response) -> bool:
        """Return whether a response lists audio of which nothing has arrived."""
        parts = (part for item in response.output if item.type == "message" for part in item.content)
        is_spoken = any(part.type in ("audio", "output_audio") for part in parts)
        return response.status == "completed" and is_spoken and not self.received.response_has_audio

    def await_audio(self, response: wire.Response) -> None:
        """Keep the answer open for audio that arrives after its response is done."""
        self.received.late_response = response.id

    def note_output(self) -> None:
        """Note a call: after this, replaying the turn would repeat side effects."""
        self.received.has_output = True

    def begin_with(self, first_sentence: str) -> None:
        """Let the next response begin with this sentence."""
        self.speaker.first_sentence = first_sentence

    def finish(self) -> None:
        """Note that the answer is complete."""
        self.asked.is_done = True

    def fail(self, kind: TroubleKind, detail: str = "") -> None:
        """Note that the answer is incomplete; reported after the received part has played."""
        self.received.failure = kind
        self.received.failure_detail = detail

    def begin_again(self) -> int:
        """Discard the response that a guardrail stopped; returns how many were stopped in this turn."""
        self.asked.trips += 1
        self.speaker.said = ""
        self.received.has_audio = self.received.has_text = False
        self.asked.is_open = False
        return self.asked.trips

    def note_unplayed(self, item_id: str, *, is_done: bool) -> None:
        """Remember an unheard item until it is done; it is deleted then."""
        if is_done:
            self._unplayed_items.discard(item_id)
        else:
            self._unplayed_items.add(item_id)

    # --- connections --------------------------------------------------------------------------------------------

    def forget_link(self) -> None:
        """Forget the response of the lost connection and its unheard items."""
        self.slot.reset()
        self._unplayed_items.clear()

    def cut_off(self) -> None:
        """End the answer where the lost connection cut it; released audio plays to its end."""
        self.playback.gate.drop_held()
        self.playback.finish()
        self.finish()
        self.received.failure = self.received.failure or "answer_cut"
