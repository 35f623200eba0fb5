"""Tools that answer or fail, as a test of `ToolRunner` runs them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.agents.tools import Tool, tool
from appliance.conversation.commands import RunTool
from appliance.conversation.events import ToolFinished
from appliance.realtime.items import HistoryItem
from tests.support.tool_inbox import running

__all__ = ["Asked", "answer", "async_predicate", "ping", "predicate", "raises", "raises_on_loop", "says"]


async def answer(made: Tool, arguments: str = "{}") -> ToolFinished:
    async with running(made) as (runner, inbox):
        runner.run_tool(RunTool("call_1", made.name, arguments))
        finished = await inbox.next()
        await inbox.nothing_more()
        assert finished.call_id == "call_1"
        return finished


def raises(error: BaseException) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def raises_on_loop(error: BaseException) -> Callable[[], Any]:
    async def function() -> None:
        raise error

    return function


async def ping() -> str:
    return "pong"


def says(text: str, name: str = "ping") -> Tool:
    async def say() -> str:
        return text

    return tool(name=name)(say)


def predicate(result: Any) -> Callable[..., Any]:
    """Return a sync predicate that returns `result`, or raises it."""

    def ask(*_: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return ask


def async_predicate(result: Any) -> Callable[..., Any]:
    async def ask(*_: Any) -> Any:
        await asyncio.sleep(0)
        if isinstance(result, BaseException):
            raise result
        return result

    return ask


@dataclass
class Asked:
    """A model for out-of-band questions: gives scripted answers and records the questions."""

    answers: list[Sequence[HistoryItem] | Exception] = field(default_factory=list)
    questions: list[dict[str, Any]] = field(default_factory=list)

    async def __call__(
        self,
        text: str,
        *,
        instructions: str = "",
        tools: Sequence[Mapping[str, Any]] = (),
        items: Sequence[Mapping[str, Any]] = (),
        timeout_s: float = 30.0,
    ) -> Sequence[HistoryItem]:
        self.questions.append(
            {"text": text, "instructions": instructions, "tools": list(tools), "items": json.loads(json.dumps(items))}
        )
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def assert_complete(self) -> None:
        assert self.answers == []
