"""Runs the model's tool calls: async tools on the loop, sync tools in a thread, each answered exactly once.

If a tool raises or hangs, the model still gets an output and the session continues.

`CommandTasks` runs each command; `functions` calls every application function, under its time limit.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import AskAgent, AskAside, ToolContext
from appliance.agents.guardrails import (
    ToolGuardrailFunctionOutput,
    ToolInputGuardrail,
    ToolInputGuardrailData,
    ToolOutputGuardrail,
    ToolOutputGuardrailData,
)
from appliance.agents.tools import GUARDRAIL_TIMEOUT_S, Background, Tool
from appliance.conversation.commands import CheckApproval, RunTool
from appliance.conversation.events import ApprovalChecked, Event, ToolBegan, ToolFinished
from appliance.errors import ToolError
from appliance.realtime.items import HistoryItem
from appliance.runtime.command_tasks import CommandTasks
from appliance.runtime.functions import ToolTimeout, asked, described, in_thread, is_enabled, kind_of, within, words
from appliance.wording import Wording, english

__all__ = ["ToolRunner", "ToolStopped", "called", "find_tool"]

log = logging.getLogger(__name__)

_LONGEST_OUTPUT = 100_000  # characters; more would push the conversation out of the model's context
# The conversation abandons a call 2 s after the tool's own limit; this plus the grace of `functions` stays below that.
_EXCUSE_S = 1.0  # longest run of an error function


class ToolStopped(ToolError):
    """A guardrail of a tool ends the turn; the message names the guardrail and its reason."""


class ToolRunner:
    """Runs tools by agent and name.

    Args:
        agents: The agents by name; or only tools, for a single agent. A command without an agent uses the first.
        post: Takes ``ToolBegan``, ``ToolFinished`` and ``ApprovalChecked``; called on the loop's thread.
        context: The application's context object.
        history: Returns the conversation at the time of a call.
        ask: Asks the model outside the conversation.
        ask_agent: Runs the tools that `RealtimeAgent.as_tool` returns.
        extra_tools: Returns the tools of an agent, by its name, that are not in its list (those of its MCP servers);
            called at each tool call.

    Raises:
        ToolError: Two of the tools have the same name.
    """

    def __init__(
        self,
        agents: Mapping[str, RealtimeAgent] | Sequence[Tool],
        *,
        post: Callable[[Event], None],
        context: Any = None,
        history: Callable[[], Sequence[HistoryItem]] = tuple,
        ask: AskAside | None = None,
        ask_agent: AskAgent | None = None,
        extra_tools: Callable[[str], Sequence[Tool]] = lambda agent: (),
        wording: Wording | None = None,
    ) -> None:
        if not isinstance(agents, Mapping):
            agents = {"tools": RealtimeAgent(name="tools", tools=agents)}
        self._agents = agents
        self._context = context
        self._history = history
        self._ask = ask
        self._ask_agent = ask_agent
        self._extra_tools = extra_tools
        self._wording = wording or english()
        self._post = post
        self._tasks = CommandTasks(post)

    def run_tool(self, command: RunTool) -> None:
        """Run a tool; always answered by one ``ToolFinished``. Called before `run`, it waits for it.

        If the tool has input guardrails, ``ToolBegan`` is posted when they have passed.
        """
        cancelled = self._wording.say("output.cancelled", name=command.name)
        otherwise = _failed(command.call_id, cancelled, self._wording)
        self._tasks.start(
            functools.partial(self._finished, command),
            otherwise=otherwise,
            name=f"tool {command.name}",
            key=command.call_id,
        )

    def check_approval(self, command: CheckApproval) -> None:
        """Check whether a call needs approval; answered by one ``ApprovalChecked``. If the check fails, it does.

        A call that cannot be made (no such tool, not available now, invalid arguments) also needs approval, and the
        answer has a `problem` for the model.
        """
        otherwise = ApprovalChecked(command.call_id, needed=True)
        self._tasks.start(
            functools.partial(self._checked, command),
            otherwise=otherwise,
            name=f"asking whether {command.name} needs approval",
        )

    def cancel(self, call_id: str) -> None:
        """Cancel a call; it is answered with an error. A no-op for a call that has ended or is not approved yet."""
        self._tasks.cancel(call_id)

    async def run(self) -> None:
        """Own the running tools until cancelled."""
        await self._tasks.run()

    # --- one command --------------------------------------------------------------------------------------------

    async def _finished(self, command: RunTool) -> ToolFinished:
        try:
            tool, context = self._call_of(command)
            began = functools.partial(self._post, ToolBegan(command.call_id)) if tool.input_guardrails else None
            return await called(tool, context, self._wording, began=began)
        except ToolError as exc:
            return _failed(command.call_id, words(exc), self._wording)
        except Exception as exc:  # from `history`, `extra_tools`, or an application's `parse`
            log.exception("the tool %s could not be called", command.name)
            return _failed(command.call_id, _failure(self._wording, command.name, exc), self._wording)

    async def _checked(self, command: CheckApproval) -> ApprovalChecked:
        try:
            tool, context = self._call_of(command)
            if not await is_enabled(tool, context, tool.timeout_s):
                raise ToolError(self._wording.say("output.unavailable", name=tool.name))
            arguments = tool.validate(command.arguments)
        except ToolError as exc:
            return ApprovalChecked(
                command.call_id, needed=True, problem=_sent(command.call_id, words(exc), self._wording).output
            )
        needed = tool.needs_approval
        if callable(needed):
            needed = await asked(tool.timeout_s, needed, context, arguments, context.call_id)
        return ApprovalChecked(command.call_id, bool(needed))

    def _call_of(self, command: RunTool | CheckApproval) -> tuple[Tool, ToolContext[Any]]:
        """Return the tool and the context of its call.

        Raises:
            ToolError: There is no such agent or tool.
        """
        name = command.agent or next(iter(self._agents), "")
        agent = self._agents.get(name)
        if agent is None:
            raise ToolError(f"There is no agent {name!r}; there are: {', '.join(sorted(self._agents)) or 'none'}.")
        context = ToolContext(
            context=self._context,
            agent=agent,
            history=self._history(),
            tool_name=command.name,
            call_id=command.call_id,
            arguments=command.arguments,
            ask=self._ask,
            ask_agent=self._ask_agent,
        )
        return find_tool(command.name, [*agent.tools, *self._extra_tools(name)], self._wording), context


# --- one call: also used to run tools outside the conversation ------------------------------------------------------


def find_tool(name: str, tools: Sequence[Tool], wording: Wording | None = None) -> Tool:
    """Return the tool with this name.

    Raises:
        ToolError: There is none; the message lists the tools for the model.
    """
    found = next((one for one in tools if one.name == name), None)
    if found is None:
        known = ", ".join(sorted(one.name for one in tools)) or "-"
        raise ToolError((wording or english()).say("output.unknown", name=name, known=known))
    return found


async def called(
    tool: Tool,
    context: ToolContext[Any],
    wording: Wording | None = None,
    *,
    began: Callable[[], None] | None = None,
) -> ToolFinished:
    """Call one tool with ``context.arguments``, if it is enabled; its failures are returned as outputs.

    Args:
        tool: Its guardrails are run too.
        context: Passed to the tool and to its functions.
        wording: Words the failures; None for English.
        began: Called when the input guardrails have passed.

    Raises:
        asyncio.CancelledError: The caller, or the tool itself, was cancelled.
    """
    wording = wording or english()
    try:
        return await _called(tool, context, wording, began)
    except ToolStopped as exc:
        output = wording.say("output.stopped", name=tool.name)
        return replace(_failed(context.call_id, output, wording), stopped_by=str(exc))


async def _called(
    tool: Tool, context: ToolContext[Any], wording: Wording, began: Callable[[], None] | None
) -> ToolFinished:
    if not await is_enabled(tool, context, tool.timeout_s):
        return _failed(context.call_id, wording.say("output.unavailable", name=tool.name), wording)
    try:
        arguments = tool.validate(context.arguments)
    except ToolError as exc:
        return _failed(context.call_id, words(exc), wording)  # the model can correct them; error_function is not called
    asked_of = ToolInputGuardrailData(context=context, agent=context.agent)
    if (refused := await _guarded(tool, tool.input_guardrails, asked_of, wording)) is not None:
        return refused
    if began is not None:
        began()
    if tool.context_parameter:
        arguments[tool.context_parameter] = context
    call = functools.partial(tool.function if tool.is_async else in_thread(tool.function), **arguments)
    is_background = is_error = False
    try:
        result = await within(tool.timeout_s, f"The tool {tool.name}", call)
        is_background = isinstance(result, Background)
        output = result.result if isinstance(result, Background) else result
        text = _text(tool.name, output)
    except (asyncio.CancelledError, KeyboardInterrupt, ToolStopped):
        raise
    except BaseException as exc:  # noqa: BLE001 - a bug in a tool, even `sys.exit`, must not end the session
        output = text = await _excuse(tool, context, exc, wording)
        is_error = True
    given = ToolOutputGuardrailData(context=context, agent=context.agent, output=output)
    finished = await _guarded(tool, tool.output_guardrails, given, wording) or _sent(context.call_id, text, wording)
    return replace(
        finished, is_error=is_error or finished.is_error, is_background=is_background and not finished.is_error
    )


async def _guarded(
    tool: Tool,
    guardrails: Sequence[ToolInputGuardrail | ToolOutputGuardrail],
    data: ToolInputGuardrailData,
    wording: Wording,
) -> ToolFinished | None:
    """Run guardrails of a tool in order; return the output of the first that does not allow the call, else None.

    Raises:
        ToolStopped: A guardrail ends the turn.
    """
    call_id = data.context.call_id
    for one in guardrails:
        try:
            verdict: ToolGuardrailFunctionOutput = await asked(GUARDRAIL_TIMEOUT_S, one.guardrail_function, data)
            behavior = verdict.behavior["type"]
            message = verdict.behavior["message"] if behavior == "reject_content" else ""
            if behavior not in ("allow", "reject_content", "raise_exception"):
                raise ToolError(f"{behavior!r} is no behavior of a tool guardrail")
        except Exception as exc:  # its message may hold what the model must not know
            log.exception("the guardrail %s of the tool %s failed", one.name, tool.name)
            return _failed(call_id, wording.say("output.unchecked", name=tool.name, kind=kind_of(exc)), wording)
        if behavior == "reject_content":
            return _sent(call_id, str(message), wording)
        if behavior == "raise_exception":
            raise ToolStopped(one.name if verdict.output_info is None else f"{one.name}: {verdict.output_info}")
    return None


async def _excuse(tool: Tool, context: ToolContext[Any], error: BaseException, wording: Wording) -> str:
    """Format the failure with the tool's error_function, falling back to ours."""
    if isinstance(error, ToolTimeout):
        text = wording.say("output.late", name=tool.name)
    elif isinstance(error, ToolError):
        text = words(error)
    else:
        log.error("the tool %s failed", tool.name, exc_info=error)
        text = _failure(wording, tool.name, error)
    if tool.error_function is None:
        return text
    shown = error if isinstance(error, Exception) else RuntimeError(described(error))
    try:
        return str(await asked(min(tool.timeout_s, _EXCUSE_S), tool.error_function, context, shown))
    except Exception:
        log.exception("the error function of the tool %s failed", tool.name)
        return text


def _failure(wording: Wording, name: str, error: BaseException) -> str:
    """Name the kind of an error only: its message may hold what the model must not know, such as a path or a key."""
    return wording.say("output.failed", name=name, kind=kind_of(error))


# --- outputs -----------------------------------------------------------------------------------------------------


def _failed(call_id: str, text: str, wording: Wording) -> ToolFinished:
    return replace(_sent(call_id, text, wording), is_error=True)


def _sent(call_id: str, text: str, wording: Wording) -> ToolFinished:
    """Return an output, shortened if necessary: text ends with a marker, JSON is put into a JSON object."""
    text = _encodable(text)
    if len(text) <= _LONGEST_OUTPUT:
        return ToolFinished(call_id, text)
    log.warning("the output of call %s is too long: sending the start of its %d characters", call_id, len(text))
    if _is_json(text):
        start = text[: _LONGEST_OUTPUT // 2]  # each quotation mark becomes two characters
        short = json.dumps({"truncated": True, "output": start}, ensure_ascii=False)
    else:
        short = text[:_LONGEST_OUTPUT] + wording.say("output.truncated", characters=len(text))
    return ToolFinished(call_id, short, is_truncated=True)


def _is_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _encodable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _text(name: str, result: Any) -> str:
    """Return a result as output for the model: a string unchanged, anything else as JSON, else by `str`."""
    if isinstance(result, str):
        return result
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    try:
        if isinstance(result, BaseModel):
            return result.model_dump_json()
        plain = to_jsonable_python(result, fallback=msgspec.to_builtins)  # a `HistoryItem` is a Struct
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError, RecursionError) as exc:
        log.warning("the result of the tool %s is sent as str(), as JSON cannot express it: %s", name, exc)
        return str(result)
