"""What the server says of an answer, and the guardrails around it. Pure; a layer of `Conversation` (see `regions`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from appliance.conversation.calling import Calling
from appliance.conversation.commands import (
    AnswerTextReceived,
    CheckText,
    GuardrailTripped,
    HeardTextReceived,
    Play,
)
from appliance.conversation.events import (
    AgentPrepared,
    GuardrailsChecked,
)
from appliance.conversation.guard import Check
from appliance.conversation.prices import transcription_usd
from appliance.conversation.regions import SessionUpdateSent
from appliance.conversation.responses import Arrival
from appliance.conversation.turn import Phase, Turn
from appliance.realtime import protocol as wire

__all__ = ["Answering"]

_OutputText: TypeAlias = (
    wire.OutputAudioTranscriptDelta | wire.OutputAudioTranscriptDone | wire.OutputTextDelta | wire.OutputTextDone
)
_REMEMBERED_ITEMS = 64  # user items whose transcript may still come


class Answering(Calling):
    """The answer, from ``committed`` to ``response.done``."""

    def _on_speech_started(self, event: wire.SpeechStarted, now: float) -> None:
        """The server's ear hears the user: a barge-in, and a turn that the server will end."""
        ear = self._brief.ear
        if ear is None:
            return
        turn = self._turn
        if turn is None or turn.phase is not Phase.LISTENING:
            if ear.get("interrupt_response", True):
                self._sequencer.cancelled_by_server(now + self._policy.cancel_s)
            turn = self._start_turn(now, kind="vad")
            turn.is_cleared = True
            turn.sent_bytes = len(turn.audio)
        turn.item_id = event.item_id

    def _on_committed(self, event: wire.InputAudioBufferCommitted, now: float) -> None:
        turn = self._turn
        ear = self._brief.ear
        if ear is not None and (turn is None or turn.kind == "vad"):
            turn = turn or self._start_turn(now, kind="vad")  # an idle user is prompted without having spoken
            self._on_committed_by_server(turn, ear, now)
        else:
            of_turn = self._commits.popleft() if self._commits else self.turn_id or ""
            self._turn_of_item[event.item_id] = of_turn
            if of_turn in self._unlet:
                self._delete_item(event.item_id)
            if turn is None or turn.id != of_turn or turn.phase is not Phase.COMMITTING or not turn.is_commit_sent:
                return
        turn.item_id = event.item_id
        self._turn_of_item[event.item_id] = turn.id
        while len(self._turn_of_item) > _REMEMBERED_ITEMS:
            self._turn_of_item.popitem(last=False)
        self._to_answering(turn, now)

    def _on_committed_by_server(self, turn: Turn, ear: Mapping[str, Any], now: float) -> None:
        turn.is_cleared = turn.is_commit_sent = turn.was_spoken = True
        turn.phase = Phase.COMMITTING
        if ear.get("create_response", True):
            self._sequencer.asked(turn.id, "")
            self._begin_answer(turn, now)
            self._ask_for_brief(turn, now)  # too late for this answer, which the server begins by itself
        else:
            self._begin_checks(turn, now)
            self._sequencer.want(turn.id)

    def _on_heard(self, event: wire.InputTranscriptionCompleted, now: float) -> None:
        text = event.transcript.strip()
        turn_id = self._turn_of_item.get(event.item_id)
        if turn_id is not None:
            self._outbox.emit(HeardTextReceived(turn_id, text))
        usd = transcription_usd(self._transcriber, event.usage)
        self._count(usd, event.usage or {}, 0.0, now, is_free=event.usage is None)
        turn = self._turn
        if turn is not None and turn.item_id == event.item_id:
            turn.heard_text = text
            if not turn.is_checked:
                self._check_input(turn, text, now)

    def _on_response_created(self, response: wire.Response, now: float) -> None:
        match self._sequencer.created(response):
            case Arrival.ACCEPT:
                if self._turn is not None and self._turn.phase is not Phase.LISTENING:
                    self._turn.first_sentence = ""
                    self._turn.brief = self._brief  # as the server sees it: its events are in order
                    self._to_answering(self._turn, now)
            case Arrival.CANCEL:
                self._outbox.send(wire.ResponseCancel(response_id=response.id))
            case Arrival.IGNORE:
                pass

    def _answering(self, response_id: str) -> Turn | None:
        """The turn that this response answers now; None for anything late, cancelled or foreign."""
        turn = self._turn
        request = self._sequencer.request
        if turn is None or turn.phase is Phase.LISTENING or request is None or request.turn != turn.id:
            return None
        return turn if self._sequencer.is_current(response_id) else None

    def _on_output_audio(self, event: wire.OutputAudioDelta, now: float) -> None:
        turn = self._answering(event.response_id)
        if turn is None or not event.delta:
            return
        self._to_answering(turn, now)
        turn.has_output = turn.has_audio = True
        turn.audio.clear()
        turn.sent_bytes = 0
        turn.answer_frames += len(event.delta) // 2
        if turn.guarded_by and self._policy.hold_audio:
            self._guard.hold(event.item_id, event.content_index, event.delta)
            self._release(turn, now)
        else:
            self._play(turn, event.item_id, event.content_index, event.delta, now)

    def _play(self, turn: Turn, item_id: str, content_index: int, pcm: bytes, now: float) -> None:
        if not self._playout.is_pending:
            self._played_at = now
        turn.must_finish = True
        self._note_sounded(item_id)
        self._playout_link = self._links.main.id if self._links.main else 0
        self._playout.queue(item_id, content_index, len(pcm) // 2)
        self._do(Play(self._playout.epoch, item_id, pcm))

    def _note_sounded(self, item_id: str) -> None:
        if item_id not in self._sounded:
            self._sounded.append(item_id)

    def _release(self, turn: Turn, now: float) -> None:
        """Play what the guardrails have let pass."""
        for piece in self._guard.release():
            self._play(turn, piece.item_id, piece.content_index, piece.pcm, now)
        if not turn.is_response_open and not self._guard.held_items:
            self._finish_play(turn)

    def _on_output_text(self, event: _OutputText, text: str, now: float, *, is_final: bool) -> None:
        turn = self._answering(event.response_id)
        if turn is None or not (text or is_final):
            return
        self._to_answering(turn, now)
        if text:
            turn.has_output = turn.has_text = True
            if turn.is_written:
                self._note_sounded(event.item_id)
            if is_final:
                turn.said = f"{turn.said} {text.strip()}".strip()
            self._outbox.emit(AnswerTextReceived(turn.id, text, is_final))
        if turn.guarded_by:
            grew = self._guard.ended if is_final else self._guard.grew
            self._check(turn, grew(event.item_id, event.content_index, text, now))

    def _on_output_item_done(self, event: wire.OutputItemDone, now: float) -> None:
        turn = self._answering(event.response_id)
        if turn is not None or event.item.type == "mcp_call":  # a call of an MCP server may outlast its response
            self._on_output_item(event.item, now)
        elif event.item.type == "function_call":
            self._dismiss(event.item)
        elif event.item.id in self._unheard or self._is_never_heard(event.item):
            self._forget_unheard(event.item.id)

    def _is_never_heard(self, item: wire.Item) -> bool:
        """An answer that came too late to be played at all."""
        known = self._history.get(item.id)
        if item.type != "message" or item.role != "assistant" or known is None or known.heard_ms is not None:
            return False
        return item.id not in self._sounded

    def _on_response_done(self, response: wire.Response, now: float) -> None:
        turn = self._answering(response.id)
        request = self._sequencer.done(response)
        self._count_response(response, now)
        if turn is None or request is None or request.is_cancelled:
            for item in response.output:
                self._dismiss(item)
                if item.id in self._unheard or self._is_never_heard(item):
                    self._forget_unheard(item.id)
            return
        turn.first_sentence = ""
        self._to_answering(turn, now)
        turn.is_response_open = False
        turn.add_usage(response.usage)
        for item in response.output:
            self._on_output_item(item, now)
        if turn.guarded_by:
            self._check_rest(turn, response, now)
        self._release(turn, now)
        if response.status == "failed":
            turn.failure = "answer_failed"
            turn.failure_detail = response.error.message if response.error else ""
        elif response.status == "incomplete":
            self._report("answer_incomplete", now, detail=f"the answer was cut short: {response.reason or 'no reason'}")
        elif response.status == "cancelled" and self._brief.ear is not None and not turn.has_output:
            self._end_turn("interrupted", now)  # the server's ear heard the user again
            return
        kinds = [item.type for item in response.output]
        if "message" in kinds[max((at for at, kind in enumerate(kinds) if kind == "mcp_call"), default=-1) + 1 :]:
            turn.seen_calls -= turn.mcp_calls  # the model has spoken about them already
        if turn.seen_calls and not turn.failure:
            self._ask_again(turn)
        else:
            turn.is_answer_done = True

    def _on_checks_late(self, turn: Turn, now: float) -> None:
        if not turn.is_briefed and now >= turn.brief_deadline:
            self._report("instructions_late", now)
            turn.is_briefed = True
        if not turn.is_checked and now >= turn.check_deadline:
            self._refuse_input(turn, "guardrail", "what you said could not be checked in time", now)

    def _refuse_input(self, turn: Turn, name: str, reason: str, now: float) -> None:
        """What the user said is not to be answered: the model is not to know it either."""
        self._outbox.emit(GuardrailTripped(turn.id, "input", turn.item_id, name, reason))
        self._fail_turn("refused", now, detail=f"{name}: {reason}", outcome="refused")

    def _on_agent_prepared(self, event: AgentPrepared, now: float) -> None:
        kind, _, rest = event.key.partition("_")
        turn, link = self._turn, self._links.main
        if kind == "handoff":
            self._on_handoff_prepared(rest, event, now)
            return
        if event.brief is None:
            self._report("instructions_late", now, detail=event.problem)
        if kind == "connect":
            if link is not None and rest == str(link.id) and not link.is_configured:
                self._brief = event.brief or self._brief
                self._configure(link, now)
        elif turn is not None and event.key == f"turn_{turn.id}_{turn.replays}" and not turn.is_briefed:
            turn.is_briefed = True
            hands_over = any(one.kind == "handoff" for one in self._updates)  # that agent has its own instructions
            is_news = event.brief is not None and event.brief != self._brief and event.brief.agent == self._brief.agent
            if event.brief is not None and is_news and not hands_over:
                before, self._brief = self._brief, event.brief
                session = self._session_of(event.brief)
                self._update_session(SessionUpdateSent(f"turn_{turn.id}", "turn", session, before), now)

    def _check(self, turn: Turn, check: Check | None) -> None:
        if check is not None:
            self._do(CheckText(check.key, turn.guarded_by, "output", check.text))

    def _check_rest(self, turn: Turn, response: wire.Response, now: float) -> None:
        """The answer is over: check every text that nobody has called whole, also one that only comes now."""
        for item in response.output:
            if item.type == "message":
                for index, part in enumerate(item.content):
                    text = part.transcript if part.transcript is not None else part.text
                    self._check(turn, self._guard.ended(item.id, index, text or "", now))
        for check in self._guard.all_ended(now):
            self._check(turn, check)

    def _on_guardrails_checked(self, event: GuardrailsChecked, now: float) -> None:
        turn = self._turn
        if turn is None:
            return
        if event.key == f"input_{turn.id}":
            if turn.is_checked:
                return
            if event.tripped:
                self._refuse_input(turn, event.tripped, event.reason, now)
            else:
                turn.is_checked = turn.was_let_in = True
            return
        check = self._guard.pending(event.key)
        if check is None:
            return  # of an answer that is over
        if event.tripped:
            self._trip(turn, check, event.tripped, event.reason, now)
        else:
            self._guard.passed(event.key)
            self._release(turn, now)

    def _trip(self, turn: Turn, check: Check, name: str, reason: str, now: float) -> None:
        """An answer must not go on: stop it, tell the model why, and let it try again, but not for ever."""
        self._outbox.emit(GuardrailTripped(turn.id, "output", check.item_id, name, reason))
        for call in self._calls:  # none begins any more; what runs is answered, and not spoken about
            if call.turn == turn.id:
                self._release_call(call, "A guardrail stopped the answer, so this call was cancelled.")
        turn.open_calls.clear()
        self._stop_answer(now)
        turn.trips += 1
        turn.said = ""
        turn.has_audio = turn.has_text = False
        turn.is_response_open = False
        turn.seen_calls.clear()
        self._say_as_system(
            f"Your last answer was stopped by the guardrail {name!r}"
            + (f" ({reason})" if reason else "")
            + ". The user has not heard the rest of it. Do not repeat it; answer in another way."
        )
        if turn.trips >= self._policy.max_trips or turn.failure:
            self._fail_turn("stopped", now, detail=f"{name}: {reason}", outcome="refused")
        else:
            turn.deadline = now + self._policy.answer_s
            self._sequencer.want(turn.id)
