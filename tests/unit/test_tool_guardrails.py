"""Guardrails of tools: what the model gets, what runs, and which events a session yields."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import ToolContext
from appliance.agents.guardrails import (
    ToolGuardrailFunctionOutput,
    ToolInputGuardrailData,
    ToolOutputGuardrailData,
    tool_input_guardrail,
    tool_output_guardrail,
)
from appliance.agents.spec import ToolCard
from appliance.agents.tools import GUARDRAIL_TIMEOUT_S, Tool, background, tool
from appliance.conversation.commands import Announce, RunTool
from appliance.conversation.events import ToolBegan, ToolFinished
from appliance.conversation.notices import Error, ToolApproval, ToolEnd, ToolStart, TurnEnd
from appliance.errors import ToolError
from appliance.runtime.tool_runner import ToolRunner
from tests.support.scripted_server import ScriptedServer, expect, hold
from tests.support.sessions import READY, answering, calling, output_of, spoken, talking
from tests.support.stage import worded
from tests.support.stages.agents import AgentStage, greeter
from tests.support.tool_inbox import ToolInbox, running
from tests.support.virtual_time import in_virtual_time

allow, reject = ToolGuardrailFunctionOutput.allow, ToolGuardrailFunctionOutput.reject_content
stop = ToolGuardrailFunctionOutput.raise_exception
Verdict = ToolGuardrailFunctionOutput


@tool_input_guardrail
def never(data: ToolInputGuardrailData) -> Verdict:
    return reject("Not at night.")


class Lamp:
    """A tool with guardrails that notes its calls."""

    def __init__(self, result: Any = "done") -> None:
        self.switched: list[bool] = []
        self.result = result

    def tool(self, **options: Any) -> Tool:
        async def set_lamp(on: bool) -> Any:
            """Switch the lamp."""
            self.switched.append(on)
            if isinstance(self.result, Exception):
                raise self.result
            return self.result

        return tool(**options)(set_lamp)

    async def called(self, **options: Any) -> ToolFinished:
        """Call it once, and return the last event; the events before it are in `began`."""
        async with running(self.tool(**options)) as (runner, inbox):
            runner.run_tool(RunTool("call_1", "set_lamp", '{"on":true}'))
            async with asyncio.timeout(20):
                self.began = []
                while not isinstance(event := await inbox.events.get(), ToolFinished):
                    self.began.append(event)
            return event


# --- before the tool --------------------------------------------------------------------------------------------


async def test_rejected_call_does_not_run_and_its_output_is_the_message() -> None:
    lamp = Lamp()
    assert await lamp.called(input_guardrails=[never]) == ToolFinished("call_1", "Not at night.")
    assert (lamp.switched, lamp.began) == ([], [])


async def test_allowed_call_begins_after_its_guardrails_and_runs() -> None:
    seen: list[tuple[str, str, str, str]] = []

    @tool_input_guardrail
    async def look(data: ToolInputGuardrailData) -> Verdict:
        context = data.context
        seen.append((data.agent.name, context.tool_name, context.tool_call_id, context.tool_arguments))
        return allow("fine")

    lamp = Lamp()
    assert (await lamp.called(input_guardrails=[look])).output == "done"
    assert seen == [("tools", "set_lamp", "call_1", '{"on":true}')]
    assert (lamp.switched, lamp.began) == ([True], [ToolBegan("call_1")])


async def test_guardrails_run_in_order_up_to_the_first_that_rejects() -> None:
    ran: list[str] = []

    def noting(name: str, verdict: Verdict) -> Any:
        def check(data: ToolInputGuardrailData) -> Verdict:
            ran.append(name)
            return verdict

        return tool_input_guardrail(name=name)(check)

    checks = [noting("first", allow()), noting("second", reject("No.")), noting("third", allow())]
    assert (await Lamp().called(input_guardrails=checks)).output == "No."
    assert ran == ["first", "second"]


async def test_guardrails_get_only_arguments_that_the_tool_accepts() -> None:
    ran: list[str] = []

    @tool_input_guardrail
    def note(data: ToolInputGuardrailData) -> Verdict:
        ran.append(data.context.arguments)
        return allow()

    async with running(Lamp().tool(input_guardrails=[note])) as (runner, inbox):
        runner.run_tool(RunTool("call_1", "set_lamp", '{"on":"perhaps"}'))
        assert (await inbox.next()).is_error
    assert ran == []


# --- after the tool ---------------------------------------------------------------------------------------------


async def test_output_guardrail_gets_the_result_and_replaces_the_output() -> None:
    seen: list[Any] = []

    @tool_output_guardrail
    def no_codes(data: ToolOutputGuardrailData) -> Verdict:
        seen.append(data.output)
        return reject("The code is withheld.")

    lamp = Lamp({"code": 4711})
    assert await lamp.called(output_guardrails=[no_codes]) == ToolFinished("call_1", "The code is withheld.")
    assert (seen, lamp.switched) == ([{"code": 4711}], [True])


async def test_allowed_output_is_sent_unchanged_and_stays_in_the_background() -> None:
    @tool_output_guardrail
    def fine(data: ToolOutputGuardrailData) -> Verdict:
        return allow() if data.output == {"on": True} else reject("the guardrail gets what is inside of background()")

    finished = await Lamp(background({"on": True})).called(output_guardrails=[fine])
    assert finished == ToolFinished("call_1", '{"on":true}', is_background=True)


async def test_output_guardrail_checks_the_text_of_a_failure_too() -> None:
    @tool_output_guardrail
    def no_codes(data: ToolOutputGuardrailData) -> Verdict:
        return reject("It failed.") if "4711" in data.output else allow()

    finished = await Lamp(ToolError("Code 4711 is wrong.")).called(output_guardrails=[no_codes])
    assert finished == ToolFinished("call_1", "It failed.", is_error=True)


# --- guardrails that fail or stop -------------------------------------------------------------------------------


def raises(data: Any) -> Verdict:
    raise KeyError("/secret/path")


def returns_nothing(data: Any) -> Verdict:
    return None  # type: ignore[return-value]


def returns_junk(data: Any) -> Verdict:
    return Verdict(behavior={"type": "aloow"})


@pytest.mark.parametrize(
    ("check", "kind"), [(raises, "KeyError"), (returns_nothing, "AttributeError"), (returns_junk, "ToolError")]
)
async def test_guardrail_that_fails_is_an_error_output_without_details(
    check: Callable[[Any], Verdict], kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    lamp = Lamp("the code is 4711")
    expected = ToolFinished("call_1", f"A check of the tool set_lamp failed: {kind}.", is_error=True)
    assert await lamp.called(input_guardrails=[tool_input_guardrail(check)]) == expected
    assert lamp.switched == []
    assert await lamp.called(output_guardrails=[tool_output_guardrail(check)]) == expected
    assert lamp.switched == [True]
    assert check.__name__ in caplog.text


def test_guardrail_that_hangs_is_an_error_output() -> None:
    @tool_input_guardrail
    async def hangs(data: ToolInputGuardrailData) -> Verdict:
        await asyncio.Event().wait()
        return allow()

    lamp = Lamp()
    finished = in_virtual_time(lamp.called(input_guardrails=[hangs]))
    assert (finished.is_error, finished.output) == (True, "A check of the tool set_lamp failed: ToolTimeout.")
    assert lamp.switched == []


async def test_raise_exception_stops_the_call_and_names_the_guardrail() -> None:
    lamp = Lamp()
    finished = await lamp.called(input_guardrails=[tool_input_guardrail(name="alarm")(lambda data: stop("a break-in"))])
    assert (finished.is_error, finished.stopped_by) == (True, "alarm: a break-in")
    assert "break-in" not in finished.output
    assert lamp.switched == []
    finished = await lamp.called(output_guardrails=[tool_output_guardrail(name="alarm")(lambda data: stop())])
    assert (finished.stopped_by, lamp.switched) == ("alarm", [True])


async def test_raise_exception_in_a_tool_of_an_asked_agent_stops_the_asking_call() -> None:
    lamp = Lamp()
    light = RealtimeAgent(
        name="light",
        tools=[lamp.tool(input_guardrails=[tool_input_guardrail(name="alarm")(lambda data: stop())])],
    )

    async def ask(text: str, **options: Any) -> Any:
        from appliance.realtime.items import HistoryItem

        call = HistoryItem(id="i", type="function_call", name="set_lamp", call_id="inner", arguments='{"on":true}')
        return [call]

    async def ask_it(context: ToolContext[Any]) -> str:
        """Ask."""
        from appliance.runtime.agent_tool import ask_agent

        return await ask_agent(light, context, "Light?", timeout_s=5.0)

    inbox = ToolInbox()
    runner = ToolRunner([tool(ask_it)], post=inbox.post, ask=ask)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        runner.run_tool(RunTool("call_1", "ask_it", "{}"))
        assert (await inbox.next()).stopped_by == "alarm"
        task.cancel()
    assert lamp.switched == []


def test_function_that_is_not_marked_is_refused_and_the_error_names_the_mark() -> None:
    with pytest.raises(ToolError, match="@tool_output_guardrail"):
        Lamp().tool(output_guardrails=[raises])
    with pytest.raises(ToolError, match="@tool_input_guardrail"):
        Lamp().tool(input_guardrails=[tool_output_guardrail(raises)])


# --- in the conversation ----------------------------------------------------------------------------------------


def guarded_call(**card: Any) -> AgentStage:
    """Let the model call a tool that has input guardrails."""
    scene = AgentStage(specs=[greeter(ToolCard(name="a", has_input_guardrails=True, **card))]).ready().asked()
    scene.called("a", "call_1")
    scene.done()
    return scene


def test_guarded_call_starts_when_its_guardrails_have_passed() -> None:
    scene = guarded_call()
    assert [one.call_id for one in scene.tool_runs()] == ["call_1"]
    assert scene.notices(ToolStart) == []
    scene.do(ToolBegan("call_1"))
    assert [one.call_id for one in scene.notices(ToolStart)] == ["call_1"]
    scene.tool_finished("call_1", "1")
    assert scene.ended() == [("call_1", False)]
    assert len(scene.asks()) == 2


def test_call_that_a_guardrail_rejects_never_starts_and_the_model_answers() -> None:
    scene = guarded_call()
    scene.tool_finished("call_1", "Not at night.")
    assert scene.notices(ToolStart) == scene.notices(ToolEnd) == []
    assert scene.outputs() == {"call_1": ["Not at night."]}
    assert len(scene.asks()) == 2


def test_guardrails_that_pass_after_the_call_was_given_up_start_nothing() -> None:
    scene = guarded_call(timeout_s=1.0)
    scene.advance(5.0)
    assert scene.do(ToolBegan("call_1")) == []
    assert scene.notices(ToolStart) == []
    assert len(scene.outputs()["call_1"]) == 1


def test_guardrail_that_stops_a_call_ends_the_turn_with_an_error_and_a_sentence() -> None:
    scene = guarded_call()
    scene.tool_finished("call_1", "stopped", is_error=True, stopped_by="alarm: a break-in")
    assert scene.outputs() == {"call_1": ["stopped"]}, "a call without an output would confuse the model"
    assert len(scene.asks()) == 1
    assert [(one.kind, one.detail) for one in scene.notices(Error)] == [("tool_stopped", "a: alarm: a break-in")]
    assert [worded(one) for one in scene.of(Announce)] == ["I stopped, because a safety check did not allow that."]
    assert [one.outcome for one in scene.notices(TurnEnd)] == ["refused"]


def test_guardrail_that_stops_a_call_of_an_earlier_turn_does_not_end_the_running_one() -> None:
    scene = guarded_call()
    scene.press()
    scene.tool_finished("call_1", "stopped", is_error=True, stopped_by="alarm")
    assert [one.kind for one in scene.notices(Error)] == ["tool_stopped"]
    assert [one.outcome for one in scene.notices(TurnEnd)] == ["interrupted"], "only the old turn has ended"


# --- in a session -----------------------------------------------------------------------------------------------


CALLED_THEN_SPOKEN = [
    *READY,
    *answering(*calling("set_lamp", '{"on":true}')),
    *answering(*spoken(response_id="resp_2")),
    hold(),
]


async def test_session_yields_no_tool_start_for_a_rejected_call_and_the_model_gets_the_message() -> None:
    lamp = Lamp()
    agent = RealtimeAgent(name="Ada", tools=[lamp.tool(input_guardrails=[never])])
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("Light!")
            ended = await reader.until(TurnEnd)
        assert output_of(server.connections[0]) == "Not at night."
    assert (lamp.switched, ended.outcome) == ([], "answered")
    assert reader.of(ToolStart) == reader.of(ToolEnd) == []


async def test_guardrails_run_after_the_approval_and_before_tool_start() -> None:
    order: list[str] = []

    @tool_input_guardrail
    def note(data: ToolInputGuardrailData) -> Verdict:
        order.append("guardrail")
        return allow()

    lamp = Lamp()
    agent = RealtimeAgent(name="Ada", tools=[lamp.tool(needs_approval=True, input_guardrails=[note])])
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("Light!")
            asked = await reader.until(ToolApproval)
            assert order == []
            session.approve(asked)
            await reader.until(ToolStart)
            assert order == ["guardrail"]
            await reader.until(TurnEnd)
        assert output_of(server.connections[0]) == "done"
    assert lamp.switched == [True]


async def test_stopped_turn_is_refused_and_the_session_continues() -> None:
    agent = RealtimeAgent(
        name="Ada", tools=[Lamp().tool(output_guardrails=[tool_output_guardrail(name="alarm")(lambda data: stop())])]
    )
    script = [*READY, *answering(*calling("set_lamp", '{"on":true}')), expect("conversation.item.create")]
    script += [*answering(*spoken(response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server, talking(server.base_url, agent) as (session, reader):
        session.send_message("Light!")
        assert (await reader.until(Error)).detail == "set_lamp: alarm"
        assert (await reader.until(TurnEnd)).outcome == "refused"
        session.send_message("Still there?")
        assert (await reader.until(TurnEnd)).outcome == "answered"


def test_longest_call_includes_the_guardrails() -> None:
    made = Lamp().tool(timeout_s=2.0, input_guardrails=[never], output_guardrails=[tool_output_guardrail(raises)])
    assert made.longest_s == 2.0 + 2 * GUARDRAIL_TIMEOUT_S
