"""Calls of the model: tools, approvals, handoffs, MCP servers of the far side. Pure; a layer of `Conversation`."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from appliance.conversation.calls import Call, Stage
from appliance.conversation.commands import (
    AgentEnded,
    AgentStarted,
    Announce,
    ApprovalRequested,
    CancelTool,
    CheckApproval,
    HandedOver,
    PlayEarcon,
    PrepareAgent,
    RunTool,
    ToolEnded,
    ToolStarted,
)
from appliance.conversation.events import (
    AgentPrepared,
    ApprovalAnswered,
    ApprovalChecked,
    ToolFinished,
)
from appliance.conversation.linking import Linking
from appliance.conversation.links import Link
from appliance.conversation.regions import SessionUpdateSent
from appliance.conversation.roster import Brief
from appliance.conversation.turn import Turn
from appliance.realtime import protocol as wire

__all__ = ["Calling"]

_LOOK_AGAIN_S = 0.5
_MCP_ITEM_S = 1.0  # between the end of a call of an MCP server and its item
_TOOL_GRACE_S = 2.0  # a tool's own time-out comes first: it has the better words


class Calling(Linking):
    """The calls of the model."""

    def _on_output_item(self, item: wire.Item, now: float) -> None:
        turn, link = self._turn, self._links.main
        if turn is None or link is None:
            return
        if item.type == "mcp_approval_request":
            self._on_mcp_approval(item, turn, link, now)
        elif item.type == "mcp_call":
            self._on_mcp_call_ended(item, now)
        if item.type != "function_call" or item.status in ("incomplete", "in_progress"):
            return
        if not item.call_id or item.call_id in self._calls or item.call_id in turn.seen_calls:
            return
        brief = turn.brief or self._brief
        call = Call(
            call_id=item.call_id,
            kind="tool",
            name=item.name,
            arguments=item.arguments,
            agent=brief.agent,
            turn=turn.id,
            link=link.id,
            asked_at=now,
            deadline=now + self._policy.tool_s,
        )
        self._to_answering(turn, now)
        self._open_call(turn, call)
        handoff = brief.handoff(item.name)
        if turn.rounds >= self._policy.max_tool_rounds:
            self._refuse_call(call, "There were too many calls in this turn; this one was not made.", now)
        elif item.name in brief.disabled:
            self._refuse_call(call, f"The tool {item.name} is not available now.", now)
        elif handoff is not None:
            call.kind, call.handoff = "handoff", handoff
            self._begin_handoff(call, now)
        elif (card := brief.tool(item.name)) is not None:
            call.card = card
            self._begin_tool(call, now)
        else:
            self._refuse_call(call, f"There is no tool {item.name!r}; there are: {_names(brief)}.", now)

    def _dismiss(self, item: wire.Item) -> None:
        """Answer a call of a response that was interrupted: it is not made, and the model must know that."""
        is_whole = item.type == "function_call" and item.status not in ("incomplete", "in_progress")
        if is_whole and self._calls.is_new(item.call_id):
            self._send_output(item.call_id, "The user interrupted, so this call was not made.")

    def _open_call(self, turn: Turn, call: Call) -> None:
        turn.has_output = True
        turn.seen_calls.add(call.call_id)
        turn.open_calls.add(call.call_id)
        self._calls.add(call)

    def _begin_tool(self, call: Call, now: float) -> None:
        assert call.card is not None
        decided = self._calls.decided(call)
        if call.card.approval == "never" or (decided is not None and decided[0]):
            self._run(call, now)
        elif decided is not None:
            self._refuse_call(call, decided[1], now)
        elif call.card.approval == "asked":
            call.stage = Stage.CHECKING
            self._do(CheckApproval(call.call_id, call.name, call.arguments, call.agent))
        else:
            self._request_approval(call, now)

    def _request_approval(self, call: Call, now: float) -> None:
        call.stage = Stage.APPROVAL
        call.asked_at = now
        call.deadline = now + self._policy.approval_s
        self._do(PlayEarcon(self._playout.epoch, "approval"))
        self._outbox.emit(ApprovalRequested(call.turn, call.call_id, call.name, call.arguments, call.agent))

    def _on_approval_checked(self, event: ApprovalChecked, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is None or call.stage is not Stage.CHECKING:
            return
        if event.problem:
            self._refuse_call(call, event.problem, now)
        elif event.needed:
            self._request_approval(call, now)
        else:
            self._run(call, now)

    def _on_approval_answered(self, event: ApprovalAnswered, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is None or not call.awaits_approval:
            return
        message = event.message or "The user rejected this call."
        if event.always:
            self._calls.decide_always(call, event.approved, message)
        alike = [one for one in self._calls if one.awaits_approval and (one.agent, one.name) == (call.agent, call.name)]
        for one in alike if event.always else [call]:
            if event.approved:
                self._approve(one, now)
            else:
                self._reject(one, message, now)

    def _approve(self, call: Call, now: float) -> None:
        if call.kind == "mcp":
            self._answer_mcp_approval(call, now, approved=True)
        else:
            self._run(call, now)

    def _reject(self, call: Call, output: str, now: float) -> None:
        if call.kind == "mcp":
            self._answer_mcp_approval(call, now, approved=False, reason=output)
        else:
            self._refuse_call(call, output, now)

    def _refuse_call(self, call: Call, output: str, now: float) -> None:
        """Answer a call without making it."""
        call.stage = Stage.RUNNING
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self._close_call(call, output, now, is_error=True)

    def _run(self, call: Call, now: float) -> None:
        card = call.card
        limit_s = self._policy.tool_s if card is None or card.timeout_s is None else card.timeout_s + _TOOL_GRACE_S
        call.stage = Stage.RUNNING
        call.deadline = now + limit_s
        if card is not None and card.working_after_s is not None:
            call.working_at = now + card.working_after_s
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self._do(RunTool(call.call_id, call.name, call.arguments, call.agent))

    def _on_call_working(self, call: Call, now: float) -> None:
        """A tool takes a while: the user hears that something goes on, as soon as there is nothing else to hear."""
        if call.turn != self.turn_id:
            return
        if self._playout.is_pending:
            call.working_at = now + _LOOK_AGAIN_S
            return
        self._do(PlayEarcon(self._playout.epoch, "working"))
        if call.card is not None and call.card.filler:
            self._do(Announce(self._playout.epoch, call.card.filler, "working"))

    def _on_call_late(self, call: Call, now: float) -> None:
        if call.awaits_approval:
            self._reject(call, "The user did not answer, so this call was not made.", now)
        elif call.stage is Stage.CHECKING:
            self._request_approval(call, now)  # nobody said that it needs none
        elif call.kind == "handoff":
            self._fail_handoff(call.call_id, "it took too long", now)
        elif call.kind == "mcp":
            if not call.is_over:
                self._report("tool_late", now, detail=f"the MCP server's {call.name} took too long")
            self._end_mcp_call(call, "", now, is_error=call.is_error or not call.is_over)
        else:
            self._do(CancelTool(call.call_id))
            self._report("tool_late", now, detail=f"{call.name} took longer than {now - call.asked_at:.0f} s")
            self._close_call(call, f"The tool {call.name} took too long and was given up.", now, is_error=True)

    def _on_tool_finished(self, event: ToolFinished, now: float) -> None:
        call = self._calls.get(event.call_id)
        if call is not None and call.kind == "tool" and call.stage is Stage.RUNNING:
            if event.is_background and self._turn is not None and self._turn.id == call.turn:
                self._turn.background_calls.add(call.call_id)
            self._close_call(call, event.output, now, is_error=event.is_error)

    def _close_call(self, call: Call, output: str, now: float, *, is_error: bool) -> None:
        self._answer_call(call, output, is_error=is_error)
        self._settle_call(call, now)

    def _settle_call(self, call: Call, now: float) -> None:
        """A call is answered: when it was the last one, its turn goes on."""
        turn = self._turn
        if turn is not None and turn.id == call.turn:
            turn.open_calls.discard(call.call_id)
            turn.deadline = now + self._policy.answer_s
            self._ask_again(turn)

    def _mcp_call(self, item: wire.Item, turn: Turn, link: Link, now: float) -> Call:
        return Call(
            call_id=item.id,
            kind="mcp",
            name=f"{item.server_label}.{item.name}",
            arguments=item.arguments,
            agent=(turn.brief or self._brief).agent,
            turn=turn.id,
            link=link.id,
            asked_at=now,
            deadline=now + self._policy.tool_s,
        )

    def _on_mcp_approval(self, item: wire.Item, turn: Turn, link: Link, now: float) -> None:
        if not item.id or item.id in self._calls or item.id in turn.seen_calls:
            return
        call = self._mcp_call(item, turn, link, now)
        self._open_call(turn, call)
        decided = self._calls.decided(call)
        if decided is None:
            self._request_approval(call, now)
        else:
            self._answer_mcp_approval(call, now, approved=decided[0], reason=decided[1])

    def _answer_mcp_approval(self, call: Call, now: float, *, approved: bool, reason: str = "") -> None:
        self._calls.pop(call.call_id)
        self._send_mcp_verdict(call, approved=approved, reason=reason)
        self._settle_call(call, now)

    def _on_mcp_call(self, item: wire.Item, now: float) -> None:
        """The server runs a call itself: the turn waits for it, as for one of ours."""
        turn, link = self._turn, self._links.main
        if turn is None or link is None or not item.id or item.id in self._calls or item.id in turn.mcp_calls:
            return
        call = self._mcp_call(item, turn, link, now)
        self._open_call(turn, call)
        turn.mcp_calls.add(item.id)

    def _on_mcp_arguments(self, event: wire.McpCallArgumentsDone) -> None:
        call = self._calls.get(event.item_id)
        if call is not None and call.kind == "mcp" and not call.is_told:
            call.arguments = event.arguments
            self._tell_mcp_start(call)

    def _tell_mcp_start(self, call: Call) -> None:
        if not call.is_told:
            call.is_told = True
            self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))

    def _on_mcp_call_over(self, item_id: str, now: float, *, is_error: bool) -> None:
        """The server has run it; what came of it stands in the item, which follows."""
        call = self._calls.get(item_id)
        if call is not None and call.kind == "mcp" and not call.awaits_approval:
            call.is_over, call.is_error = True, is_error
            call.deadline = now + _MCP_ITEM_S

    def _on_mcp_call_ended(self, item: wire.Item, now: float) -> None:
        call = self._calls.get(item.id)
        if call is None or call.kind != "mcp" or call.awaits_approval:
            return
        if item.status == "in_progress" and not call.is_over and item.output is None and item.error is None:
            return  # listed by a response that ended before the call did
        call.arguments = call.arguments or item.arguments
        output = item.output if item.output is not None else _told_error(item.error)
        self._end_mcp_call(call, output, now, is_error=call.is_error or item.error is not None)

    def _end_mcp_call(self, call: Call, output: str, now: float, *, is_error: bool) -> None:
        self._calls.pop(call.call_id)
        self._tell_mcp_start(call)
        self._outbox.emit(ToolEnded(call.turn, call.call_id, call.name, output, is_error, call.agent))
        self._settle_call(call, now)

    def _begin_handoff(self, call: Call, now: float) -> None:
        assert call.handoff is not None
        if self._calls.handoff is not call or call.agent != self._brief.agent:
            self._refuse_call(call, "Another handoff is under way; this one was not made.", now)
            return
        self._outbox.emit(ToolStarted(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self._do(
            PrepareAgent(
                f"handoff_{call.call_id}", call.handoff.agent, "handoff", call.agent, call.name, call.arguments
            )
        )

    def _on_handoff_prepared(self, call_id: str, event: AgentPrepared, now: float) -> None:
        call = self._calls.get(call_id)
        if call is None or call.kind != "handoff" or call.brief is not None:
            return
        if event.brief is None:
            self._report("handoff_failed", now, detail=f"{call.name}: {event.problem}")
            self._close_call(call, event.problem or "The handoff failed.", now, is_error=True)
            return
        call.brief = event.brief
        update = SessionUpdateSent(f"handoff_{call_id}", "handoff", self._session_of(event.brief), event.brief, call_id)
        self._update_session(update, now)

    def _hand_over(self, update: SessionUpdateSent, now: float) -> None:
        """The server has accepted the new agent: from here on it talks."""
        assert update.brief is not None
        before, self._brief = self._brief, update.brief
        turn = self._turn
        if turn is not None and turn.agent:
            self._outbox.emit(AgentEnded(before.agent, turn.said))
        self._outbox.emit(HandedOver(before.agent, self._brief.agent))
        if turn is not None and turn.agent:
            turn.agent, turn.said = self._brief.agent, ""
            self._outbox.emit(AgentStarted(turn.agent))
        call = self._calls.get(update.call_id)
        if call is not None:
            if turn is not None and turn.id == call.turn and call.handoff is not None:
                turn.first_sentence = call.handoff.first_sentence
            self._close_call(call, json.dumps({"assistant": self._brief.agent}), now, is_error=False)

    def _fail_handoff(self, call_id: str, reason: str, now: float) -> None:
        """The server did not take the new agent: the old one goes on."""
        call = self._calls.get(call_id)
        if call is None:
            return
        self._report("handoff_failed", now, detail=f"{call.name}: {reason}")
        sent = [one for one in self._updates if one.call_id == call_id]
        if sent:  # nobody knows what holds on the server now
            self._updates = deque(replace(one, kind="rollback") if one in sent else one for one in self._updates)
            self._update_session(
                SessionUpdateSent(
                    f"rollback_{call_id}",
                    "rollback",
                    replace(self._brief, session=self._session_of(self._brief)).without_voice(),
                ),
                now,
            )
        said = f"The handoff failed: {reason.rstrip('.')}. You are still {call.agent}."
        self._close_call(call, said, now, is_error=True)


def _names(brief: Brief) -> str:
    """Name what an agent may call."""
    names = [one.name for one in brief.tools or ()] + [one.name for one in brief.handoffs]
    return ", ".join(sorted(set(names) - set(brief.disabled))) or "none"


def _told_error(error: Any) -> str:
    """``{"type": "tool_execution_error", "message": …}`` in one line."""
    return str(error.get("message") or error.get("type") or "") if isinstance(error, Mapping) else str(error or "")
