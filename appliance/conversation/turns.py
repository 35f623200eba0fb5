"""How turns begin, are interrupted, go on after calls, and end. Pure; a layer of `Conversation` (see `regions`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec.structs import replace

from appliance.conversation.calls import Call, Stage
from appliance.conversation.commands import (
    AgentEnded,
    AgentStarted,
    Announce,
    AnswerAudioEnded,
    AnswerInterrupted,
    CancelTool,
    CheckText,
    Disconnect,
    FinishPlay,
    FlushPlayback,
    Outcome,
    PlayEarcon,
    PrepareAgent,
    ToolEnded,
    ToolStarted,
    TurnEnded,
    TurnStarted,
)
from appliance.conversation.history import wire_item
from appliance.conversation.regions import FRAMES_PER_MS, Regions
from appliance.conversation.troubles import sentence
from appliance.conversation.turn import Phase, Turn
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem

__all__ = ["Turns"]


class Turns(Regions):
    """The life of a turn."""

    def _begin_answer(self, turn: Turn, now: float) -> None:
        turn.is_response_open = True
        turn.is_answer_done = False
        turn.is_free = self._is_free
        turn.brief = self._brief
        if turn.phase is Phase.ANSWERING and not turn.is_retry:
            turn.deadline = now + self._policy.answer_s
        if not turn.agent:
            turn.agent = self._brief.agent
            self._outbox.emit(AgentStarted(turn.agent))

    def _start_turn(self, now: float, *, kind: Literal["button", "program", "message", "vad"] = "button") -> Turn:
        if self._links.main is None:
            self._links.connect(now)
        self._stop_answer(now)
        before = self._turn
        if before is not None and before.message is not None and before.is_unsent_message:
            self._create_item(before.message, text=before.heard_text or "")  # not lost: one answer for both
        if before is not None:
            self._end_turn("interrupted", now)
        if not self._may_ask:
            self._go_offline(now)
        self._turns += 1
        turn = Turn(f"turn_{self._turns}", now, now + self._policy.max_turn_s, kind)
        if kind != "message":
            self._take_pre_roll(turn)
        self._turn = turn
        self._outbox.emit(TurnStarted(turn.id, kind))
        if kind == "button":
            self._do(PlayEarcon(self._playout.epoch, "start"))
        return turn

    def _go_offline(self, now: float) -> None:
        """The budget is spent: not another word goes to a model that costs."""
        main = self._links.main
        if self._policy.offline_endpoint is not None and main is not None:
            self._do(Disconnect(main.id))
            self._links.connect(now)
            self._on_link_left()

    def _on_link_left(self) -> None:
        """What stood on the old connection stands no more; a new one is an empty conversation."""
        self._sequencer.reset()
        self._asides.lose()
        self._updates.clear()
        self._unheard.clear()
        self._commits.clear()
        self._tell(self._history.end_open())

    def _take_pre_roll(self, turn: Turn) -> None:
        for event in self._recent.take():
            turn.add_audio(event.pcm, event.peak)

    def _discard(self, turn: Turn, outcome: Outcome, now: float) -> None:
        self._clear_server_buffer(turn)
        if turn.kind == "button":
            self._do(PlayEarcon(self._playout.epoch, "cancel"))
        self._end_turn(outcome, now)

    def _clear_server_buffer(self, turn: Turn) -> None:
        if turn.sent_bytes > 0 and not turn.is_commit_sent:
            self._outbox.send(wire.InputAudioBufferClear())

    def _create_item(self, item: Mapping[str, Any], *, text: str) -> None:
        """Put an item of ours into the conversation, here at once and on the server when there is one."""
        images = [str(part["image_url"]) for part in item.get("content", ()) if "image_url" in part]
        known = HistoryItem(id=str(item["id"]), role=str(item["role"]), text=text, images=tuple(images))
        self._tell(self._history.insert(known, None))
        self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{item['id']}", item=dict(item)))

    def _interrupt(self, now: float) -> None:
        """Stop the answer and listen to nothing; what is being spoken by the user goes on."""
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            return
        self._stop_answer(now)
        self._end_turn("interrupted", now)

    def _stop_answer(self, now: float) -> None:
        """Flush, truncate what was not heard whole, cancel: the one path of interruption."""
        was_playing = self._playout.is_pending
        queued = self._playout.heard()
        held = self._guard.held_items
        cut = [one for one in queued if not one.is_whole or one.item_id in held]
        self._playout.flush()
        self._do(FlushPlayback(self._playout.epoch))
        if was_playing and cut:
            self._outbox.emit(AnswerInterrupted(cut[0].item_id, cut[0].heard_ms))
        if self._links.main is not None and self._playout_link == self._links.main.id:
            for one in cut:
                self._outbox.send(
                    wire.ConversationItemTruncate(
                        item_id=one.item_id, content_index=one.content_index, audio_end_ms=one.heard_ms
                    )
                )
        for one in cut:
            received = one.received_frames + self._guard.held_frames(one.item_id)
            self._cut(one.item_id, one.heard_ms, received // FRAMES_PER_MS)
        for item_id in sorted(held - {one.item_id for one in queued}):
            self._forget_unheard(item_id)
        self._guard.reset()
        response_id = self._sequencer.cancel(now + self._policy.cancel_s)
        if response_id is not None:
            self._outbox.send(wire.ResponseCancel(response_id=response_id))

    def _cut(self, item_id: str, heard_ms: int, received_ms: int) -> None:
        """Mark an answer as heard up to a point; a newer connection, which was told all of it, is told that too."""
        changes = self._history.cut(item_id, heard_ms, received_ms)
        self._tell(changes)
        item = self._history.get(item_id)
        is_elsewhere = self._links.main is not None and self._playout_link != self._links.main.id
        if not changes or item is None or not is_elsewhere or self._outbox.link is None:
            return
        previous = self._history.before(item_id)
        self._delete_item(item_id)
        if wire_item(item) is not None:
            anew = replace(item, id=self._history.new_id())
            self._tell(self._history.insert(anew, previous or "root"))
            self._write(anew, previous or "root")

    def _write(self, item: HistoryItem, previous: str) -> None:
        """Create an item of the history on the server, behind another (``root``: first)."""
        frame = wire_item(item)
        if frame is not None:
            self._outbox.send(
                wire.ConversationItemCreate(event_id=f"item_{item.id}", item=frame, previous_item_id=previous)
            )

    def _mark_heard(self) -> None:
        """Mark the items of an answer that the connection cut off, when what came of it has been played."""
        for one in self._playout.heard():
            item = self._history.get(one.item_id)
            if item is not None and item.status == "incomplete" and one.is_whole:
                self._cut(one.item_id, one.received_frames // FRAMES_PER_MS, one.received_frames // FRAMES_PER_MS)

    def _forget_unheard(self, item_id: str) -> None:
        """Nobody heard a word of it: the model is not to believe that it was said."""
        item = self._history.get(item_id)
        if item is None or item.status == "in_progress":
            self._unheard.add(item_id)
            return
        self._unheard.discard(item_id)
        self._delete_item(item_id)

    def _fail_turn(
        self, kind: str, now: float, *, said: str = "", detail: str = "", outcome: Outcome = "failed"
    ) -> None:
        """End the turn and say why; never in silence.

        Args:
            kind: The trouble; its sentence is spoken unless `said` gives a better one.
            now: Monotonic seconds.
            said: What to say aloud.
            detail: What to report to the observers, where it is more than what is said.
            outcome: How the turn ended.
        """
        turn = self._turn
        if turn is not None and turn.phase is Phase.LISTENING:
            self._clear_server_buffer(turn)
        else:
            self._stop_answer(now)
        said = said or sentence(kind)
        self._report(kind, now, detail=detail or said)
        self._do(Announce(self._playout.epoch, said, "offline" if kind == "no_link" else "error"))
        self._end_turn(outcome, now)

    def _end_turn(self, outcome: Outcome, now: float) -> None:
        turn = self._turn
        if turn is None:
            return
        for call in self._calls:
            if call.turn == turn.id:
                self._release_call(call, "The user interrupted, so this call was cancelled.")
        self._turn = None
        if not turn.is_checked:  # no guardrail has let it pass: the model is not to know it
            self._unlet.append(turn.id)
            for item_id in (turn.item_id, *turn.side_items):
                self._delete_item(item_id)
        self._guard.reset()
        if turn.agent:
            self._outbox.emit(AgentEnded(turn.agent, turn.said))
        spoken = turn.frames * turn.was_spoken + turn.answer_frames
        if spoken and not turn.is_free:
            self._count(None, {}, spoken / wire.SAMPLE_RATE, now)
        self._outbox.emit(TurnEnded(turn.id, outcome, tuple(sorted(turn.usage.items()))))

    def _release_call(self, call: Call, why: str) -> None:
        """The turn of a call is over: what has not begun never will, what can be cancelled is, the rest runs on."""
        if call.stage is not Stage.RUNNING:
            if call.kind != "mcp":
                self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
            self._answer_call(call, "The user did not approve this call.", is_error=True)
        elif call.card is not None and call.card.is_cancellable:
            self._do(CancelTool(call.call_id))
            self._answer_call(call, why, is_error=True)

    def _drop_calls(self, turn: Turn) -> None:
        for call_id in sorted(turn.open_calls):  # in one order, whatever the hashes: a replay compares
            call = self._calls.pop(call_id)
            self._do(CancelTool(call_id))
            if call is not None:
                self._tell_lost(call)
        turn.open_calls.clear()

    def _tell_lost(self, call: Call) -> None:
        """Whoever was told that a call began is told that nothing comes of it."""
        if call.stage is Stage.RUNNING and (call.kind != "mcp" or call.is_told):
            lost = "The connection was lost before this call was answered."
            self._outbox.emit(ToolEnded(call.turn, call.call_id, call.name, lost, True, call.agent))

    def _to_answering(self, turn: Turn, now: float) -> None:
        if turn.phase is Phase.COMMITTING:
            turn.phase = Phase.ANSWERING
        turn.deadline = now + self._policy.answer_s

    def _finish_play(self, turn: Turn) -> None:
        if turn.must_finish:
            turn.must_finish = False
            self._do(FinishPlay(self._playout.epoch))
            items = self._playout.heard()
            self._outbox.emit(AnswerAudioEnded(items[-1].item_id if items else ""))

    def _ask_again(self, turn: Turn) -> None:
        """Once a response is done and all its calls are answered, the model speaks on: asked for exactly once."""
        if turn.is_response_open or turn.open_calls or not turn.seen_calls or turn.failure:
            return
        turn.is_retry = False
        if turn.rounds >= self._policy.max_tool_rounds:  # it was told to call nothing more, and did
            turn.is_answer_done = True
            return
        wants_answer = bool(turn.seen_calls - turn.background_calls)
        turn.seen_calls.clear()
        turn.background_calls.clear()
        turn.mcp_calls.clear()
        turn.rounds += 1
        if wants_answer:
            self._sequencer.want(turn.id)
        else:
            turn.is_answer_done = turn.is_background = True

    def _begin_checks(self, turn: Turn, now: float) -> None:
        brief = self._brief
        self._ask_for_brief(turn, now)
        if brief.has_input_guardrails and turn.trips == 0 and not turn.was_let_in:
            turn.is_checked = False
            turn.check_deadline = now + self._policy.transcript_s
            if turn.heard_text is not None:
                self._check_input(turn, turn.heard_text, now)

    def _ask_for_brief(self, turn: Turn, now: float) -> None:
        if self._brief.is_asked_at_turn:
            turn.is_briefed = False
            turn.brief_deadline = now + self._policy.prepare_s
            self._do(PrepareAgent(f"turn_{turn.id}_{turn.replays}", self._brief.agent, "turn"))

    def _check_input(self, turn: Turn, text: str, now: float) -> None:
        turn.check_deadline = now + self._policy.guardrail_s
        self._do(CheckText(f"input_{turn.id}", self._brief.agent, "input", "\n".join([*turn.side_texts, text])))

    def _delete_item(self, item_id: str) -> None:
        """Take an item out of the conversation, here and on the server."""
        if self._history.get(item_id) is not None:
            self._tell(self._history.delete(item_id))
            self._outbox.send(wire.ConversationItemDelete(event_id=f"item_{item_id}", item_id=item_id))

    def _say_as_system(self, text: str) -> None:
        item = {
            "id": self._history.new_id(),
            "type": "message",
            "role": "system",
            "content": [{"type": "input_text", "text": text}],
        }
        self._create_item(item, text=text)

    def _answer_call(self, call: Call, output: str, *, is_error: bool) -> None:
        """Give the model the output; also after a barge-in, for a call without output confuses it for good."""
        self._calls.pop(call.call_id)
        if call.kind == "mcp":
            if call.awaits_approval:
                self._send_mcp_verdict(call, approved=False, reason=output)
            return
        self._outbox.emit(ToolEnded(call.turn, call.call_id, call.name, output, is_error, call.agent))
        if self._links.main is not None and self._links.main.id == call.link:
            self._send_output(call.call_id, output)

    def _send_output(self, call_id: str, output: str) -> None:
        item_id = self._history.new_id()
        item = {"id": item_id, "type": "function_call_output", "call_id": call_id, "output": output}
        told = HistoryItem(id=item_id, type="function_call_output", call_id=call_id, output=output)
        self._tell(self._history.insert(told, None))
        self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{item_id}", item=item))

    def _send_mcp_verdict(self, call: Call, *, approved: bool, reason: str) -> None:
        if self._links.main is None or self._links.main.id != call.link:
            return
        item: dict[str, Any] = {
            "id": self._history.new_id(),
            "type": "mcp_approval_response",
            "approval_request_id": call.call_id,
            "approve": approved,
        }
        if not approved and reason:
            item["reason"] = reason
        self._tell(self._history.insert(HistoryItem(id=item["id"], type="mcp_approval_response"), None))
        self._outbox.send(wire.ConversationItemCreate(event_id=f"item_{item['id']}", item=item))
