"""Calls an agent's application functions: instructions, predicates and guardrails.

The conversation is pure and cannot call them; it requests an `AgentSpec`, or a verdict on a text, and does not wait.
This module calls the functions, sync ones on the loop (they are expected to be quick), and answers each request with
exactly one event. A function that fails never ends the session: if instructions fail, the old ones stay in force; a
predicate that fails counts as False; a guardrail that fails or hangs counts as tripped.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext
from appliance.agents.guardrails import GuardrailFunctionOutput, InputGuardrail, OutputGuardrail
from appliance.agents.handoffs import Handoff
from appliance.agents.mcp_servers import HostedMcp
from appliance.agents.spec import AgentSpec, HandoffCard, ToolCard
from appliance.agents.tools import Tool
from appliance.conversation.commands import CheckText, PrepareAgent
from appliance.conversation.events import AgentPrepared, Event, GuardrailsChecked
from appliance.errors import ApplianceError, ToolError
from appliance.realtime.items import HistoryItem
from appliance.runtime.command_tasks import CommandTasks
from appliance.runtime.functions import asked, described, instructions_of, is_enabled, within
from appliance.wording import Wording, english

__all__ = ["AgentPreparer", "Compose"]

log = logging.getLogger(__name__)

Compose = Callable[[RealtimeAgent, str, Sequence[Mapping[str, Any]]], Mapping[str, Any]]
"""(agent, its instructions, its ``session.tools``) → the whole ``session`` object."""


class AgentPreparer:
    """Answers the conversation's requests about agents.

    Args:
        agents: By name.
        compose: Builds the ``session`` object.
        post: Takes the answers; called on the loop's thread.
        context: The application's context object.
        history: Returns the conversation at the time of the call.
        extra_tools: Returns the tools of an agent that are not in its list (those of its MCP servers).
        is_incomplete: Whether an agent's MCP server is still missing: its spec is then asked for at each turn.
        output_guardrails: Check the answers of every agent, before the agent's own guardrails.
        is_parallel: Run an agent's guardrails concurrently; otherwise in order, up to the first that trips.
        timeout_s: Longest run of one request.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent],
        *,
        compose: Compose,
        post: Callable[[Event], None],
        context: Any = None,
        history: Callable[[], Sequence[HistoryItem]] = tuple,
        extra_tools: Callable[[RealtimeAgent], Sequence[Tool]] = lambda agent: (),
        is_incomplete: Callable[[RealtimeAgent], bool] = lambda agent: False,
        output_guardrails: Sequence[OutputGuardrail] = (),
        is_parallel: bool = True,
        timeout_s: float = 15.0,
        wording: Wording | None = None,
    ) -> None:
        self._wording = wording or english()
        self._agents = agents
        self.compose = compose
        """Builds the ``session`` object from now on."""
        self._context = context
        self._history = history
        self._extra_tools = extra_tools
        self._is_incomplete = is_incomplete
        self._output_guardrails = tuple(output_guardrails)
        self._instructions: dict[str, str] = {}
        self._is_parallel = is_parallel
        self._timeout_s = timeout_s
        self._tasks = CommandTasks(post)

    # --- called by the driver -----------------------------------------------------------------------------------

    def prepare_agent(self, command: PrepareAgent) -> None:
        """Prepare an agent; answered by one ``AgentPrepared``."""
        otherwise = AgentPrepared(command.key, None, f"the agent {command.agent!r} was not prepared: it was cancelled")
        self._tasks.start(
            functools.partial(self._prepared, command), otherwise=otherwise, name=f"agent {command.agent}"
        )

    def check_text(self, command: CheckText) -> None:
        """Run the guardrails on a text; answered by one ``GuardrailsChecked``."""
        otherwise = GuardrailsChecked(command.key, "guardrails", "the check was cancelled")
        self._tasks.start(
            functools.partial(self._checked, command), otherwise=otherwise, name=f"guardrails of {command.agent}"
        )

    async def run(self) -> None:
        """Own the running tasks until cancelled."""
        await self._tasks.run()

    # --- specs -------------------------------------------------------------------------------------------------

    async def spec(self, agent: RealtimeAgent, *, is_at_turn: bool = False) -> AgentSpec:
        """Call an agent's functions and return its spec.

        Args:
            agent: The agent.
            is_at_turn: The agent talks already: call its instructions only if they are refreshed at each turn.

        Raises:
            Exception: Anything that its instructions raise.
        """
        context = self._run_context(agent)
        is_incomplete = self._is_incomplete(agent)  # before the first await: a server may come meanwhile
        tools = [*agent.tools, *self._extra_tools(agent)]
        handoffs = agent.transfers()
        offers: list[Tool | Handoff] = [*tools, *handoffs]
        listed = [(one.definition(), await is_enabled(one, context, self._timeout_s)) for one in offers]
        definitions = [definition for definition, enabled in listed if enabled]
        definitions += [one.definition() for one in agent.mcp_servers if isinstance(one, HostedMcp)]
        is_asked = any(callable(one) for one in (agent.instructions, *(one.enabled for one in offers)))
        if not is_at_turn or agent.refresh_instructions == "turn" or agent.name not in self._instructions:
            self._instructions[agent.name] = await instructions_of(agent, context, self._timeout_s)
        return AgentSpec(
            agent=agent.name,
            session=self.compose(agent, self._instructions[agent.name], definitions),
            tools=tuple(_card(one) for one in tools),
            handoffs=tuple(
                HandoffCard(name=one.tool_name, agent=one.agent.name, first_sentence=one.first_sentence)
                for one in handoffs
            ),
            has_output_guardrails=bool(self._output_guardrails or agent.output_guardrails),
            has_input_guardrails=bool(agent.input_guardrails),
            is_asked_at_connect=is_asked or is_incomplete,
            is_asked_at_turn=(is_asked and agent.refresh_instructions == "turn") or is_incomplete,
            phrases={one.definition()["name"]: one.spoken for one in offers if one.spoken},
            disabled=tuple(definition["name"] for definition, enabled in listed if not enabled),
        )

    def _run_context(self, agent: RealtimeAgent) -> RunContext[Any]:
        return RunContext(context=self._context, agent=agent, history=self._history())

    async def _prepared(self, command: PrepareAgent) -> AgentPrepared:
        try:
            spec = await within(self._timeout_s, "the agent", functools.partial(self._entered, command))
            return AgentPrepared(command.key, spec)
        except TimeoutError:
            problem = f"the agent {command.agent!r} was not ready within {self._timeout_s:g} s"
        except ApplianceError as exc:
            problem = str(exc)
        except Exception as exc:
            log.exception("the agent %s could not be prepared", command.agent)
            problem = f"the agent {command.agent!r} could not be prepared: {described(exc)}"
        return AgentPrepared(command.key, None, problem)

    async def _entered(self, command: PrepareAgent) -> AgentSpec:
        """Return the spec; for a handoff, first check it and call its ``on_handoff``.

        Raises:
            ToolError: The handoff is not offered now, or its arguments are invalid.
            Exception: Anything that the agent's functions raise.
        """
        if command.reason == "handoff":
            agent = self._agents[command.from_agent]
            context = self._run_context(agent)
            handoff = next(one for one in agent.transfers() if one.tool_name == command.tool_name)
            if not await is_enabled(handoff, context, self._timeout_s):
                raise ToolError(self._wording.say("output.unavailable", name=command.tool_name))
            given = handoff.validate(command.arguments)
            if handoff.on_handoff is not None:
                arguments = (context,) if handoff.parse is None else (context, given)
                await asked(self._timeout_s, handoff.on_handoff, *arguments)
        return await self.spec(self._agents[command.agent], is_at_turn=command.reason == "turn")

    # --- guardrails ---------------------------------------------------------------------------------------------

    async def _checked(self, command: CheckText) -> GuardrailsChecked:
        agent = self._agents[command.agent]
        guardrails: Sequence[InputGuardrail | OutputGuardrail]
        guardrails = agent.input_guardrails
        if command.side == "output":
            guardrails = list(dict.fromkeys((*self._output_guardrails, *agent.output_guardrails)))  # each once
        ask = functools.partial(self._verdict, agent, command.text)
        verdicts: list[tuple[str, str] | None] = []
        if self._is_parallel:
            verdicts += await asyncio.gather(*(ask(one) for one in guardrails))
        else:
            for one in guardrails:
                verdicts.append(await ask(one))
                if verdicts[-1] is not None:
                    break
        return GuardrailsChecked(command.key, *next(filter(None, verdicts), ()))

    async def _verdict(
        self, agent: RealtimeAgent, text: str, guardrail: InputGuardrail | OutputGuardrail
    ) -> tuple[str, str] | None:
        """Return (name, reason) if the guardrail tripped or failed."""
        function = guardrail.guardrail_function
        try:
            verdict = await asked(self._timeout_s, function, self._run_context(agent), agent, text)
            if isinstance(verdict, GuardrailFunctionOutput):
                return (guardrail.name, _reason(verdict.output_info)) if verdict.tripwire_triggered else None
            return (guardrail.name, "") if verdict else None
        except Exception as exc:
            log.exception("the guardrail %s failed", guardrail.name)
            return guardrail.name, f"it failed: {type(exc).__name__}"


def _card(tool: Tool) -> ToolCard:
    approval = tool.needs_approval
    return ToolCard(
        name=tool.name,
        approval="asked" if callable(approval) else "always" if approval else "never",
        is_cancellable=tool.cancellable,
        working_after_s=None if tool.working_after_ms is None else tool.working_after_ms / 1000,
        filler=tool.filler,
        timeout_s=tool.longest_s,
        has_input_guardrails=bool(tool.input_guardrails),
    )


def _reason(info: Any) -> str:
    """Format a guardrail's `output_info` for the model."""
    if info is None or isinstance(info, str):
        return info or ""
    try:
        return json.dumps(info, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(info)
