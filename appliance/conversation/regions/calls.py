"""The open calls of the model: tools, handoffs and MCP calls. Pure.

Theory of operation. A call goes through at most these stages, and the model gets exactly one output for it. A lost
connection ends every call but a tool of ours that runs: its output is told to the next connection::

    CHECKING ──(the predicate asks for approval)──► APPROVAL ──(tap, `approve`)──► RUNNING ──► closed
        └────────────────── no approval needed ───────────────────────────────────────▲

A handoff is RUNNING from the start: its agent is prepared, then a ``session.update`` asks the server to accept it. An
MCP call waits for us in APPROVAL only; the server runs it. Each stage has a deadline. A method that closes a call
returns `Closed`: `Procedures.close_call` adds its output to the history and requests the next response.
"""

from __future__ import annotations

from collections import deque
from typing import Literal

from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.conversation.commands import CancelTool, CheckApproval, PrepareAgent, RunTool, Sentence
from appliance.conversation.events import ApprovalChecked, HandoffKey, ToolFinished
from appliance.conversation.notices import ToolApproval, ToolEnd, ToolStart
from appliance.conversation.policy import Policy
from appliance.conversation.support.call import Call, Closed, Made, Stage, mcp_error, tool_names
from appliance.conversation.support.open_calls import OpenCalls
from appliance.conversation.support.outbox import Outbox
from appliance.conversation.support.troubles import Report
from appliance.realtime import protocol as wire

__all__ = ["Calls"]

_WORKING_RETRY_S = 0.5
_MCP_ITEM_S = 1.0  # between the end of an MCP call and its item
_REMEMBERED = 64
_TOOL_GRACE_S = 2.0  # lets the tool's own time-out fire first: its error says more


class Calls:
    """The open calls, and the user's decisions for every call of a tool.

    Emits `RunTool`, `CancelTool`, `CheckApproval`, `PrepareAgent` for a handoff, and the notices of calls.
    """

    def __init__(self, policy: Policy, out: Outbox, report: Report) -> None:
        self.policy = policy
        self._out = out
        self._report = report
        self.open = OpenCalls()
        self._decisions: dict[tuple[str, str], tuple[bool, str]] = {}
        """Decisions for all calls of a tool: (agent, tool) → (whether approved, message)."""
        self._void: deque[str] = deque(maxlen=_REMEMBERED)
        """Ids of calls that waited for approval when their connection was lost."""

    # --- the running turn ---------------------------------------------------------------------------------------

    def forget_round(self) -> None:
        """Forget the calls of a stopped answer: the model does not speak about them."""
        self.open.round.open.clear()
        self.open.round.seen.clear()

    def speak_of_mcp(self) -> None:
        """Forget the MCP calls of this round: the model has already spoken about them."""
        self.open.round.seen -= self.open.round.mcp

    # --- function calls -----------------------------------------------------------------------------------------

    def take(self, item: wire.Item, origin: Made, now: float) -> Call | None:
        """Open a function call of the model; returns None if it is incomplete or already known."""
        if item.status in ("incomplete", "in_progress") or not self.open.is_unknown(item.call_id):
            return None
        return self._add("tool", item.call_id, item.name, item.arguments, origin, now)

    def _add(
        self, kind: Literal["tool", "mcp"], call_id: str, name: str, arguments: str, origin: Made, now: float
    ) -> Call:
        deadline = now + self.policy.tool_s
        call = Call(call_id, kind, name, arguments, origin.agent, origin.turn, origin.link, now, deadline)
        self.open.add(call)
        return call

    def begin(self, call: Call, spec: AgentSpec, agent_in_force: str, now: float) -> Closed | None:
        """Start a call by the rules of the agent that made it; returns it closed if it is refused."""
        if self.open.round.number >= self.policy.max_tool_rounds:
            return self._refuse(call, self.policy.output("too_many"))
        if call.name in spec.disabled:
            return self._refuse(call, self.policy.output("unavailable", name=call.name))
        card = spec.handoff(call.name) or spec.tool(call.name)
        if card is None:
            return self._refuse(call, self.policy.output("unknown", name=call.name, known=tool_names(spec)))
        call.card = card
        if isinstance(card, HandoffCard):
            return self._begin_handoff(call, card, agent_in_force)
        return self._begin_tool(call, card, now)

    def _begin_tool(self, call: Call, card: ToolCard, now: float) -> Closed | None:
        decided = self._decisions.get((call.agent, call.name))
        if card.approval == "never" or (decided is not None and decided[0]):
            return self._run(call, now)
        if decided is not None:
            return self._refuse(call, decided[1])
        if card.approval != "asked":
            return self._request_approval(call, now)
        call.stage = Stage.CHECKING
        self._out.do(CheckApproval(call.call_id, call.name, call.arguments, call.agent))
        return None

    def _begin_handoff(self, call: Call, card: HandoffCard, agent_in_force: str) -> Closed | None:
        call.kind = "handoff"
        if self.open.handoff is not call or call.agent != agent_in_force:
            return self._refuse(call, self.policy.output("second_handoff"))
        self._start(call)
        key = HandoffKey(call.call_id)
        self._out.do(PrepareAgent(key, card.agent, "handoff", call.agent, call.name, call.arguments))
        return None

    def _run(self, call: Call, now: float) -> Closed | None:
        card = call.card
        limit_s = self.policy.tool_s
        if isinstance(card, ToolCard):
            limit_s = self.policy.tool_s if card.timeout_s is None else card.timeout_s + _TOOL_GRACE_S
            if card.working_after_s is not None:
                call.working_at = now + card.working_after_s
        call.stage = Stage.RUNNING
        call.deadline = now + limit_s
        if not (isinstance(card, ToolCard) and card.has_input_guardrails):
            self._start(call)
        self._out.do(RunTool(call.call_id, call.name, call.arguments, call.agent))
        return None

    def _start(self, call: Call) -> None:
        call.is_started = True
        self._out.emit(ToolStart(call.turn, call.call_id, call.name, call.arguments, call.agent))

    def began(self, call_id: str) -> None:
        """Start a call whose input guardrails have passed."""
        call = self.open.get(call_id)
        if call is not None and not call.is_started:
            self._start(call)

    def finish(self, event: ToolFinished, running_turn: str | None, now: float) -> Closed | None:
        """Handle the end of a tool."""
        call = self.open.get(event.call_id)
        if call is None or call.kind != "tool" or call.stage is not Stage.RUNNING:
            return None
        if event.is_background and running_turn == call.turn:
            self.open.round.background.add(call.call_id)
        if event.is_truncated:
            self._report("output_truncated", now, detail=call.name, flash=False)
        return self.close(call, event.output, is_error=event.is_error)

    def close(self, call: Call, output: str, *, is_error: bool) -> Closed:
        """Close a call with an output; also after a barge-in, because a call without one confuses the model."""
        self.open.pop(call.call_id)
        self._end(call, output, is_error=is_error)
        if call.kind == "mcp":
            return Closed(call, output, "reject" if call.awaits_approval else "none")
        return Closed(call, output, "output")

    def _end(self, call: Call, output: str, *, is_error: bool) -> None:
        """Emit `ToolEnd` for a call whose `ToolStart` was emitted; a refused call has neither."""
        if call.is_started:
            self._out.emit(ToolEnd(call.turn, call.call_id, call.name, output, is_error, call.agent, call.arguments))

    def _refuse(self, call: Call, output: str) -> Closed:
        """Close a call without running it."""
        return self.close(call, output, is_error=True)

    def dismiss(self, item: wire.Item) -> bool:
        """Handle an item of an interrupted response; returns whether it is a call that needs an output."""
        is_complete = item.type == "function_call" and item.status not in ("incomplete", "in_progress")
        return is_complete and self.open.is_first_seen(item.call_id)

    # --- approval -----------------------------------------------------------------------------------------------

    def _request_approval(self, call: Call, now: float) -> Closed | None:
        call.stage = Stage.APPROVAL
        call.asked_at = now
        call.deadline = now + self.policy.approval_s
        self._out.emit(ToolApproval(call.turn, call.call_id, call.name, call.arguments, call.agent))
        self.ask(call)
        return None

    def ask(self, call: Call) -> None:
        """Ask the user aloud whether a call may be made."""
        self._out.announce(Sentence("approval.ask", {"tool": call.name.replace("_", " ")}), "approval")

    def checked(self, event: ApprovalChecked, now: float) -> Closed | None:
        """Run a call, request approval or refuse it, as its predicate decided."""
        call = self.open.get(event.call_id)
        if call is None or call.stage is not Stage.CHECKING:
            return None
        if event.problem:
            return self._refuse(call, event.problem)
        return self._request_approval(call, now) if event.needed else self._run(call, now)

    def pressed_for(self, pressed_at: float) -> Call | None:
        """Return the call that a tap or a hold decides; None if the press came before the question."""
        call = self.open.awaiting_approval
        return call if call is not None and pressed_at >= call.asked_at else None

    def decide_always(self, call: Call, *, approves: bool, message: str) -> list[Call]:
        """Remember a decision for every call of a tool; returns the calls that wait for it."""
        self._decisions[call.agent, call.name] = (approves, message)
        return [one for one in self.open if one.awaits_approval and (one.agent, one.name) == (call.agent, call.name)]

    def is_void(self, call_id: str) -> bool:
        """Return whether a lost connection ended a call that waited for approval."""
        return call_id in self._void

    def approve(self, call: Call, now: float) -> Closed | None:
        return self._decide_mcp(call, approves=True) if call.kind == "mcp" else self._run(call, now)

    def reject(self, call: Call, output: str) -> Closed:
        return (
            self._decide_mcp(call, approves=False, reason=output) if call.kind == "mcp" else self._refuse(call, output)
        )

    def _decide_mcp(self, call: Call, *, approves: bool, reason: str = "") -> Closed:
        self.open.pop(call.call_id)
        return Closed(call, reason, "approve" if approves else "reject")

    # --- MCP calls ----------------------------------------------------------------------------------------------

    def take_mcp_request(self, item: wire.Item, origin: Made, now: float) -> Closed | None:
        """Open the server's request to approve an MCP call."""
        call = self._add("mcp", item.id, f"{item.server_label}.{item.name}", item.arguments, origin, now)
        decided = self._decisions.get((call.agent, call.name))
        if decided is None:
            return self._request_approval(call, now)
        return self._decide_mcp(call, approves=decided[0], reason=decided[1])

    def take_mcp(self, item: wire.Item, origin: Made, now: float) -> None:
        """Open an MCP call, which the server runs; the turn waits for it like for a tool."""
        self._add("mcp", item.id, f"{item.server_label}.{item.name}", item.arguments, origin, now)
        self.open.round.mcp.add(item.id)

    def mcp_arguments(self, event: wire.McpCallArgumentsDone) -> None:
        call = self.open.get(event.item_id)
        if call is not None and call.kind == "mcp" and not call.is_started:
            call.arguments = event.arguments
            self._start_mcp(call)

    def _start_mcp(self, call: Call) -> None:
        if not call.is_started:
            self._start(call)

    def mcp_over(self, item_id: str, now: float, *, is_error: bool) -> None:
        """Note the end of an MCP call; its item follows with the output."""
        if (call := self.open.get_mcp(item_id)) is not None:
            call.outcome = "error" if is_error else "ok"
            call.deadline = now + _MCP_ITEM_S

    def close_mcp(self, item: wire.Item) -> Closed | None:
        """Close an MCP call with its item."""
        call = self.open.get_mcp(item.id)
        if call is None:
            return None
        if item.status == "in_progress" and not call.outcome and item.output is None and item.error is None:
            return None  # response.done lists a call that is still running
        call.arguments = call.arguments or item.arguments
        output = item.output if item.output is not None else mcp_error(item.error)
        return self._end_mcp(call, output, is_error=call.outcome == "error" or item.error is not None)

    def _end_mcp(self, call: Call, output: str, *, is_error: bool) -> Closed:
        self._start_mcp(call)
        return self.close(call, output, is_error=is_error)

    # --- time ---------------------------------------------------------------------------------------------------

    def work(self, now: float, running_turn: str | None, *, is_playing: bool) -> None:
        """Play the working cue for slow tools of the running turn, once nothing else plays."""
        for call in self.open.working(now):
            if call.turn != running_turn:
                continue
            if is_playing:
                call.working_at = now + _WORKING_RETRY_S
                continue
            self._out.earcon("working")
            if isinstance(call.card, ToolCard) and call.card.filler:
                self._out.announce(call.card.filler, "working")

    def give_up(self, call: Call, now: float) -> Closed | None:
        """Stop waiting for a late call that is not a handoff."""
        if call.awaits_approval:
            return self.reject(call, self.policy.output("unanswered"))
        if call.stage is Stage.CHECKING:
            return self._request_approval(call, now)  # the predicate timed out, so ask the user
        if call.kind == "mcp":
            if not call.outcome:
                self._report("tool_late", now, detail=f"the MCP server's {call.name} took too long")
            return self._end_mcp(call, "", is_error=call.outcome != "ok")
        self._out.do(CancelTool(call.call_id))
        self._report("tool_late", now, detail=f"{call.name} took longer than {now - call.asked_at:.0f} s")
        return self.close(call, self.policy.output("late", name=call.name), is_error=True)

    # --- abandoned calls ----------------------------------------------------------------------------------------

    def release(self, call: Call, why: str) -> Closed | None:
        """Release a call of an ended turn: close it if it waits, cancel it if it is cancellable, else let it run."""
        if call.stage is not Stage.RUNNING:
            return self.close(call, self.policy.output("unapproved"), is_error=True)
        if isinstance(call.card, ToolCard) and call.card.is_cancellable:
            self._out.do(CancelTool(call.call_id))
            return self.close(call, why, is_error=True)
        return None

    def drop(self, why: str) -> None:
        """Drop the calls of the running turn that are not detached.

        Args:
            why: Their output, for observers.
        """
        for call_id in sorted(self.open.round.open):  # sorted: a set has no fixed order, and a replay compares
            self._lose(call_id, why)

    def drop_others(self, running_turn: str | None, why: str) -> None:
        """Drop the calls of other turns that end with their connection."""
        for call in self.open:
            if call.turn != running_turn and not call.outlives_link:
                self._lose(call.call_id, why)

    def drop_all(self, why: str) -> None:
        for call in self.open:
            self._lose(call.call_id, why)

    def _lose(self, call_id: str, why: str) -> None:
        call = self.open.pop(call_id)
        if call is not None and call.awaits_approval:
            self._void.append(call_id)
        self._out.do(CancelTool(call_id))
        if call is not None:
            self._end(call, why, is_error=True)
