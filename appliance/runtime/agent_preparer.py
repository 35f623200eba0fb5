"""Asks the functions of the maker that say who talks and what may be said: instructions, predicates, guardrails.

The conversation is pure and cannot call them; it asks for an `AgentSpec`, or for a verdict on a text, and goes on. Here
the functions are called, sync ones on the loop (they are expected to be quick), and each question is answered by
exactly one event. What a function breaks costs the question, never the session: instructions that fail leave the old
ones in force, a predicate that fails counts as False, a guardrail that fails or hangs counts as tripped.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

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

__all__ = ["AgentPreparer", "Compose"]

log = logging.getLogger(__name__)

T = TypeVar("T")

Compose = Callable[[RealtimeAgent, str, Sequence[Mapping[str, Any]]], Mapping[str, Any]]
"""(agent, its instructions, its tools as the session lists them) → the whole ``session`` object."""


class AgentPreparer:
    """Answers what the conversation asks about agents.

    Args:
        agents: By name.
        compose: Makes the ``session`` object.
        post: Takes the answers; called on the loop's thread.
        context: The maker's object.
        history: The conversation at the instant of the call.
        extra_tools: Tools of an agent that are not in its list (those of its MCP servers), by its name.
        is_parallel: Run an agent's guardrails side by side; else one after the other, up to the first that trips.
        timeout_s: Longest run of one question.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent],
        *,
        compose: Compose,
        post: Callable[[Event], None],
        context: Any = None,
        history: Callable[[], Sequence[HistoryItem]] = tuple,
        extra_tools: Callable[[str], Sequence[Tool]] | None = None,
        is_parallel: bool = True,
        timeout_s: float = 15.0,
    ) -> None:
        self._agents = agents
        self._compose = compose
        self._post = post
        self._context = context
        self._history = history
        self._extra_tools = extra_tools
        self._is_parallel = is_parallel
        self._timeout_s = timeout_s
        self._group: asyncio.TaskGroup | None = None
        self._early: list[PrepareAgent | CheckText] = []

    def __repr__(self) -> str:
        return f"<AgentPreparer of {sorted(self._agents)}>"

    # --- called by the driver -----------------------------------------------------------------------------------

    def prepare_agent(self, command: PrepareAgent) -> None:
        """Answered by one ``AgentPrepared``."""
        self._begin(command)

    def check_text(self, command: CheckText) -> None:
        """Answered by one ``GuardrailsChecked``."""
        self._begin(command)

    async def run(self) -> None:
        """Own what runs until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                early, self._early = self._early, []
                for command in early:
                    self._begin(command)
                await asyncio.Event().wait()
        finally:
            self._group = None

    def _begin(self, command: PrepareAgent | CheckText) -> None:
        if self._group is None:
            self._early.append(command)
            return
        answer = self._prepared(command) if isinstance(command, PrepareAgent) else self._checked(command)
        self._group.create_task(self._answer(answer), name=f"{type(command).__name__} {command.key}")

    async def _answer(self, answer: Awaitable[Event]) -> None:
        self._post(await answer)

    # --- specs -------------------------------------------------------------------------------------------------

    async def spec(self, agent: RealtimeAgent) -> AgentSpec:
        """Ask an agent's functions and put together what the conversation needs.

        Raises:
            Exception: Whatever its instructions raise.
        """
        tools, disabled_tools = await self._sorted(agent, self._tools(agent))
        handoffs, disabled_handoffs = await self._sorted(agent, agent.transfers())
        hosted = [one.definition() for one in agent.mcp_servers if isinstance(one, HostedMcp)]
        definitions = [one.definition() for one in tools] + [one.definition() for one in handoffs] + hosted
        predicates = [one.enabled for one in self._tools(agent)] + [one.enabled for one in agent.transfers()]
        is_asked = callable(agent.instructions) or any(callable(one) for one in predicates)
        return AgentSpec(
            agent=agent.name,
            session=self._compose(agent, await self._instructions(agent), definitions),
            tools=tuple(_card(one) for one in (*tools, *disabled_tools)),
            handoffs=tuple(
                HandoffCard(name=one.tool_name, agent=one.agent.name, first_sentence=one.first_sentence)
                for one in (*handoffs, *disabled_handoffs)
            ),
            has_output_guardrails=bool(agent.output_guardrails),
            has_input_guardrails=bool(agent.input_guardrails),
            is_asked_at_connect=is_asked,
            is_asked_at_turn=is_asked and agent.refresh_instructions == "turn",
            disabled=tuple([one.name for one in disabled_tools] + [one.tool_name for one in disabled_handoffs]),
        )

    def _tools(self, agent: RealtimeAgent) -> list[Tool]:
        return [*agent.tools, *(self._extra_tools(agent.name) if self._extra_tools is not None else ())]

    def _run_context(self, agent: RealtimeAgent) -> RunContext[Any]:
        return RunContext(context=self._context, agent=agent, history=self._history())

    async def _instructions(self, agent: RealtimeAgent) -> str:
        if isinstance(agent.instructions, str):
            return agent.instructions
        text = await _awaited(agent.instructions(self._run_context(agent), agent))
        if not isinstance(text, str):
            raise ToolError(f"agent {agent.name!r}: its instructions are {type(text).__name__}, expected a text")
        return text

    async def _sorted(self, agent: RealtimeAgent, all_of: Sequence[T]) -> tuple[list[T], list[T]]:
        """Split into what is enabled now and what is not."""
        states = [(one, await self._is_enabled(agent, one)) for one in all_of]
        return [one for one, enabled in states if enabled], [one for one, enabled in states if not enabled]

    async def _is_enabled(self, agent: RealtimeAgent, one: Any) -> bool:
        if not callable(one.enabled):
            return bool(one.enabled)
        try:
            return bool(await _awaited(one.enabled(self._run_context(agent), agent)))
        except Exception:  # the maker's function: its failure disables, and ends nothing
            log.exception("agent %s: whether %r is enabled could not be asked", agent.name, one)
            return False

    async def _prepared(self, command: PrepareAgent) -> AgentPrepared:
        try:
            async with asyncio.timeout(self._timeout_s):
                if command.reason == "handoff":
                    await self._announce_handoff(command)
                return AgentPrepared(command.key, await self.spec(self._agents[command.agent]))
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            problem = f"the agent {command.agent!r} could not be prepared: it was cancelled from within"
        except TimeoutError:
            problem = f"the agent {command.agent!r} was not ready within {self._timeout_s:g} s"
        except ApplianceError as exc:
            problem = str(exc)
        except Exception as exc:
            log.exception("the agent %s could not be prepared", command.agent)
            problem = f"the agent {command.agent!r} could not be prepared: {type(exc).__name__}: {exc}"
        return AgentPrepared(command.key, None, problem)

    async def _announce_handoff(self, command: PrepareAgent) -> None:
        """Check a handoff and call its ``on_handoff``.

        Raises:
            ToolError: It is not offered now, or its arguments do not fit.
        """
        agent = self._agents[command.from_agent]
        handoff: Handoff = next(one for one in agent.transfers() if one.tool_name == command.tool_name)
        if not await self._is_enabled(agent, handoff):
            raise ToolError(f"The handoff {command.tool_name} is not available now.")
        given = handoff.validate(command.arguments)
        if handoff.on_handoff is not None:
            context = self._run_context(agent)
            arguments = (context,) if handoff.input is None else (context, given)
            await _awaited(handoff.on_handoff(*arguments))

    # --- guardrails ---------------------------------------------------------------------------------------------

    async def _checked(self, command: CheckText) -> GuardrailsChecked:
        agent = self._agents[command.agent]
        guardrails: Sequence[InputGuardrail | OutputGuardrail]
        guardrails = agent.input_guardrails if command.side == "input" else agent.output_guardrails
        ask = functools.partial(self._verdict, agent, command.text)
        if self._is_parallel:
            verdicts = await asyncio.gather(*(ask(one) for one in guardrails))
            found = next((one for one in verdicts if one is not None), None)
        else:
            found = None
            for one in guardrails:
                if (found := await ask(one)) is not None:
                    break
        return GuardrailsChecked(command.key, *(found or ()))

    async def _verdict(
        self, agent: RealtimeAgent, text: str, guardrail: InputGuardrail | OutputGuardrail
    ) -> tuple[str, str] | None:
        """Return (name, reason) if it tripped; it does too if it cannot say."""
        try:
            async with asyncio.timeout(self._timeout_s):
                verdict = await _awaited(guardrail.guardrail_function(self._run_context(agent), agent, text))
            if isinstance(verdict, GuardrailFunctionOutput):
                return (guardrail.name, _told(verdict.output_info)) if verdict.tripwire_triggered else None
            return (guardrail.name, "") if verdict else None
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            return guardrail.name, "it was cancelled from within"
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
        timeout_s=tool.timeout_s,
    )


def _is_cancelled() -> bool:
    """Whether it is our own task that is to end, and not something that the maker's function waited for."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _told(info: Any) -> str:
    """Put what a guardrail found into words for the model."""
    if info is None or isinstance(info, str):
        return info or ""
    try:
        return json.dumps(info, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(info)
