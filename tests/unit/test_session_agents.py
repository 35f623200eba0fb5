"""`RealtimeSession` with agents, against a scripted server on loopback: tools, hooks, handoffs and guardrails."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import RunContext, ToolContext
from appliance.agents.guardrails import GuardrailFunctionOutput, input_guardrail, output_guardrail
from appliance.agents.hooks import RealtimeAgentHooks, RealtimeRunHooks
from appliance.agents.tools import Tool, tool
from appliance.conversation.notices import (
    Announcement,
    Audio,
    AudioEnd,
    AudioInterrupted,
    Error,
    Guardrail,
    HandoffDone,
    HistoryGrew,
    ToolApproval,
    ToolEnd,
    ToolStart,
    TurnEnd,
)
from appliance.errors import SettingsError, ToolError
from appliance.realtime.payload import RealtimeSessionSettings, ServerVad, Transcription
from appliance.runtime.session import RealtimeSession
from tests.support.scripted_server import (
    Connection,
    Frame,
    ScriptedServer,
    expect,
    hold,
    reply,
    send,
)
from tests.support.sessions import (
    READY,
    Lamp,
    all_words,
    answering,
    arrived,
    audio,
    calling,
    created,
    done,
    output_of,
    pcm,
    spoken,
    talking,
    updated,
    words,
)

# --- tools and approvals ----------------------------------------------------------------------------------------------


CALLED_THEN_SPOKEN = [
    *READY,
    *answering(*calling("set_lamp", '{"on":true}')),
    *answering(*spoken(response_id="resp_2")),
    hold(),
]


async def test_tool_is_run_and_reported_as_events_and_its_output_is_answered() -> None:
    lamp = Lamp()
    agent = lamp.agent()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("Light!")
            ended = await reader.until(TurnEnd)
        server.assert_complete()
        output = output_of(server.connections[0])
    assert lamp.switched == [True]
    assert output == "done"
    assert ended.outcome == "answered"
    assert session.agents == {"Ada": agent}
    assert reader.of(ToolStart) == [ToolStart(ended.turn, "call_1", "set_lamp", '{"on":true}', "Ada")]
    expected = ToolEnd(ended.turn, "call_1", "set_lamp", "done", False, "Ada", '{"on":true}')
    assert reader.of(ToolEnd) == [expected]


async def test_call_of_an_unknown_tool_gets_an_error_output_and_never_starts() -> None:
    script = [*READY, *answering(*calling("fly")), *answering(*spoken(response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, Lamp().agent()) as (session, reader):
            session.send_message("Fly!")
            ended = await reader.until(TurnEnd)
        assert "fly" in output_of(server.connections[0])
    outputs = [one.item for one in reader.of(HistoryGrew) if one.item.type == "function_call_output"]
    assert [(one.call_id, "fly" in one.output) for one in outputs] == [("call_1", True)]
    assert reader.of(ToolStart) == reader.of(ToolEnd) == []
    assert "fly" not in [one.name for one in session.agents["Ada"].tools]
    assert ended.outcome == "answered"


async def test_call_waits_for_approval_and_runs_when_approved() -> None:
    lamp = Lamp()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.send_message("Light!")
            asked = await reader.until(ToolApproval)
            assert (asked.name, asked.arguments, asked.call_id) == ("set_lamp", '{"on":true}', "call_1")
            assert lamp.switched == []
            session.approve(asked)
            await reader.until(TurnEnd)
        assert output_of(server.connections[0]) == "done"
    assert lamp.switched == [True]


async def test_rejected_call_is_not_run_and_the_model_gets_the_reason() -> None:
    lamp = Lamp()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.send_message("Light!")
            await reader.until(ToolApproval)
            session.reject("call_1", message="the children sleep")
            ended = await reader.until(TurnEnd)
        assert "the children sleep" in output_of(server.connections[0])
    assert lamp.switched == []
    assert ended.outcome == "answered"


TWO_CALLS = [
    *READY,
    *answering(*calling("set_lamp", '{"on":true}', "call_1", "resp_1")),
    *answering(*calling("set_lamp", '{"on":false}', "call_2", "resp_2")),
    *answering(*spoken(response_id="resp_3")),
    hold(),
]


@pytest.mark.parametrize(("is_approved", "switched"), [(True, [True, False]), (False, [])])
async def test_approve_or_reject_always_applies_to_later_calls(is_approved: bool, switched: list[bool]) -> None:
    lamp = Lamp()
    async with ScriptedServer(TWO_CALLS) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.send_message("Light, on and off!")
            asked = await reader.until(ToolApproval)
            (session.approve if is_approved else session.reject)(asked, always=True)
            await reader.until(TurnEnd)
        server.assert_complete()
    assert lamp.switched == switched
    assert len(reader.of(ToolApproval)) == 1


async def test_approval_of_a_call_that_does_not_wait_is_ignored() -> None:
    lamp = Lamp()
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, lamp.agent(needs_approval=True)) as (session, reader):
            session.approve("call_1", always=True)
            session.send_message("Light!")
            await reader.until(ToolApproval)
            assert lamp.switched == []
            session.reject("call_1")
            await reader.until(TurnEnd)
    assert lamp.switched == []


async def test_slow_tool_announces_its_filler() -> None:
    let_go = asyncio.Event()

    @tool(working_after_ms=1, filler="One moment.")
    async def set_lamp(on: bool) -> str:
        await let_go.wait()
        return "done"

    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, RealtimeAgent(name="Ada", tools=[set_lamp])) as (session, reader):
            session.send_message("Light!")
            said = await reader.until(Announcement)
            let_go.set()
            await reader.until(TurnEnd)
    assert said.text == "One moment."


# --- context and hooks ------------------------------------------------------------------------------------------------


async def test_all_functions_share_one_mutable_context_object() -> None:
    seen: dict[str, Any] = {}

    @tool(
        enabled=lambda context, agent: bool(seen.setdefault("enabled", context.context)),
        needs_approval=lambda context, arguments, call_id: bool(seen.setdefault("approval", context.context)) and False,
    )
    def set_lamp(context: ToolContext[dict[str, int]], on: bool) -> str:
        """Switch the lamp."""
        context.context["switched"] += 1
        seen["tool"] = context.context
        return "done"

    @output_guardrail
    def nothing(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
        seen["guardrail"] = context.context
        return False

    box = {"switched": 0}
    agent = RealtimeAgent(
        name="Ada",
        instructions=lambda context, agent: f"Lamps: {seen.setdefault('instructions', context.context)}",
        tools=[set_lamp],
        output_guardrails=[nothing],
    )
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent, context=box) as (session, reader):
            assert session.context is box
            session.send_message("Light!")
            await reader.until(TurnEnd)
    assert sorted(seen) == ["approval", "enabled", "guardrail", "instructions", "tool"]
    assert all(one is box for one in seen.values())
    assert box == {"switched": 1}


async def test_tool_context_holds_the_history_and_the_call() -> None:
    seen: list[ToolContext[Any]] = []

    @tool
    def set_lamp(context: ToolContext[Any], on: bool) -> str:
        """Switch the lamp."""
        seen.append(context)
        return "done"

    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, RealtimeAgent(name="Ada", tools=[set_lamp])) as (session, reader):
            session.send_message("Light!")
            await reader.until(TurnEnd)
    (context,) = seen
    assert [one.text for one in context.history if one.role == "user"] == ["Light!"]
    assert (context.agent.name, context.tool_name, context.call_id) == ("Ada", "set_lamp", "call_1")
    assert context.arguments == '{"on":true}'


async def test_hooks_get_the_context_object_and_the_history() -> None:
    seen: asyncio.Queue[RunContext[Any]] = asyncio.Queue()

    class Watching(RealtimeRunHooks):
        async def on_agent_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
            seen.put_nowait(context)

    box = object()
    async with ScriptedServer([*READY, *answering(*spoken("Hello.")), hold()]) as server:
        async with talking(server.base_url, context=box, hooks=Watching()) as (session, _):
            session.send_message("Hi!")
            context = await asyncio.wait_for(seen.get(), 10)
    assert context.context is box
    assert [one.text for one in context.history] == ["Hi!", "Hello."]


class Diary(RealtimeRunHooks):
    """Records every hook of the session."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        self.written = asyncio.Event()

    def write(self, line: str) -> None:
        self.lines.append(line)
        self.written.set()

    async def until(self, line: str) -> None:
        """Wait for a line; hooks run outside the conversation."""
        async with asyncio.timeout(10):
            while line not in self.lines:
                self.written.clear()
                await self.written.wait()

    async def on_agent_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
        self.write(f"session: {agent.name} starts")

    async def on_agent_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
        self.write(f"session: {agent.name} ends with {output!r}")

    async def on_handoff(self, context: RunContext[Any], from_agent: RealtimeAgent, to_agent: RealtimeAgent) -> None:
        self.write(f"session: {from_agent.name} hands over to {to_agent.name}")

    async def on_tool_start(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool) -> None:
        self.write(f"session: {agent.name} runs {tool.name}")

    async def on_tool_end(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool, result: str) -> None:
        self.write(f"session: {agent.name} ran {tool.name}: {result}")


class OwnDiary(RealtimeAgentHooks):
    """Records every hook of one agent, in the same list."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    async def on_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
        self.lines.append(f"own: {agent.name} starts")

    async def on_end(self, context: RunContext[Any], agent: RealtimeAgent, output: str) -> None:
        self.lines.append(f"own: {agent.name} ends")

    async def on_handoff(self, context: RunContext[Any], agent: RealtimeAgent, source: RealtimeAgent) -> None:
        self.lines.append(f"own: {agent.name} takes over from {source.name}")

    async def on_tool_start(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool) -> None:
        self.lines.append(f"own: {agent.name} runs {tool.name}")

    async def on_tool_end(self, context: RunContext[Any], agent: RealtimeAgent, tool: Tool, result: str) -> None:
        self.lines.append(f"own: {agent.name} ran {tool.name}")


async def test_hooks_are_called_in_event_order_session_hooks_first() -> None:
    lines: list[str] = []
    diary = Diary(lines)
    agent = RealtimeAgent(name="Ada", tools=[Lamp().tool()], hooks=OwnDiary(lines))
    async with ScriptedServer(CALLED_THEN_SPOKEN) as server:
        async with talking(server.base_url, agent, hooks=diary) as (session, reader):
            session.send_message("Light!")
            await reader.until(TurnEnd)
            await diary.until("session: Ada ends with 'Hello.'")
            await asyncio.sleep(0)
    assert lines == [
        "session: Ada starts",
        "own: Ada starts",
        "session: Ada runs set_lamp",
        "own: Ada runs set_lamp",
        "session: Ada ran set_lamp: done",
        "own: Ada ran set_lamp",
        "session: Ada ends with 'Hello.'",
        "own: Ada ends",
    ]


async def test_hook_that_raises_is_logged_and_the_next_one_is_called(caplog: pytest.LogCaptureFixture) -> None:
    lines: list[str] = []

    class Clumsy(Diary):
        async def on_agent_start(self, context: RunContext[Any], agent: RealtimeAgent) -> None:
            raise ValueError("oh")

    diary = Clumsy(lines)
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, hooks=diary) as (session, reader):
            session.send_message("Hi!")
            ended = await reader.until(TurnEnd)
            await diary.until("session: Ada ends with 'Hello.'")
    assert ended.outcome == "answered"
    assert "a hook failed at AgentStart" in caplog.text


# --- handoffs and settings --------------------------------------------------------------------------------------------


def pair(**of_bob: Any) -> RealtimeAgent:
    """Return Ada, who can hand over to Bob."""
    bob = RealtimeAgent(name="Bob", instructions="You are Bob.", **of_bob)
    return RealtimeAgent(name="Ada", instructions="You are Ada.", handoffs=[bob])


HANDED_OVER = [
    *READY,
    reply(updated),
    *answering(*calling("transfer_to_bob")),
    expect("session.update"),
    reply(updated),
    *answering(*spoken("I am Bob.", response_id="resp_2")),
    hold(),
]


async def test_handoff_is_yielded_as_an_event_and_the_new_agent_answers() -> None:
    lines: list[str] = []
    diary = Diary(lines)
    agent = pair(hooks=OwnDiary(lines))
    async with ScriptedServer(HANDED_OVER) as server:
        async with talking(server.base_url, agent, hooks=diary) as (session, reader):
            assert session.agent is agent
            session.send_message("Bob, please.")
            await reader.until(TurnEnd)
            assert session.agent.name == "Bob"
            await diary.until("session: Bob ends with 'I am Bob.'")
            await asyncio.sleep(0)
        server.assert_complete()
    (handed,) = reader.of(HandoffDone)
    assert (handed.from_agent, handed.to_agent) == ("Ada", "Bob")
    assert session.agents[handed.from_agent] is agent
    assert session.agents[handed.to_agent] is session.agent
    assert [one.agent for one in reader.of(Audio)] == ["Bob"]
    assert reader.of(ToolStart) == reader.of(ToolEnd) == []
    assert lines == [
        "session: Ada starts",
        "session: Ada ends with ''",
        "session: Ada hands over to Bob",
        "own: Bob takes over from Ada",
        "session: Bob starts",
        "own: Bob starts",
        "session: Bob ends with 'I am Bob.'",
        "own: Bob ends",
    ]


async def test_handoff_refused_by_the_server_is_an_error_event_and_the_old_agent_answers() -> None:
    def refused(connection: Connection) -> Frame:
        error = {
            "type": "invalid_request_error",
            "code": "invalid_value",
            "message": "no",
            "param": None,
            "event_id": connection.last("session.update")["event_id"],
        }
        return {"type": "error", "event_id": "event_e", "error": error}

    script = [
        *READY,
        reply(updated),
        *answering(*calling("transfer_to_bob")),
        expect("session.update"),
        reply(refused),
        *answering(*spoken("Still Ada.", response_id="resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, pair()) as (session, reader):
            session.send_message("Bob, please.")
            await reader.until(TurnEnd)
            assert session.agent.name == "Ada"
        server.assert_complete()
    assert reader.of(HandoffDone) == []
    assert len(reader.of(Error)) == 1
    assert [one.agent for one in reader.of(Audio)] == ["Ada"]


async def test_session_settings_apply_after_a_handoff_unless_the_new_agent_overrides_them() -> None:
    settings = RealtimeSessionSettings(
        speed=1.25,
        transcription=Transcription(model="whisper-1", language="en"),
        max_output_tokens=500,
        provider_data={"x_house": {"room": "kitchen"}},
    )
    agent = pair(settings={"speed": 0.75, "tool_choice": "none"})
    async with ScriptedServer(HANDED_OVER) as server:
        async with talking(server.base_url, agent, settings) as (session, reader):
            session.send_message("Bob, please.")
            await reader.until(TurnEnd)
        first, second = (one["session"] for one in server.connections[0].of_type("session.update"))
    for one in (first, second):
        assert one["audio"]["input"]["transcription"] == {"model": "whisper-1", "language": "en"}
        assert one["max_output_tokens"] == 500
        assert one["x_house"] == {"room": "kitchen"}
    assert (first["audio"]["output"]["speed"], second["audio"]["output"]["speed"]) == (1.25, 0.75)
    assert (first["tool_choice"], second["tool_choice"]) == ("auto", "none")
    assert (first["instructions"], second["instructions"]) == ("You are Ada.", "You are Bob.")


async def test_provider_data_wins_and_is_sent_unchanged() -> None:
    settings = RealtimeSessionSettings(
        speed=1.0, provider_data={"audio": {"output": {"speed": 1.5, "pitch": 2}}, "mood": None}
    )
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url, RealtimeAgent(name="Ada", voice="cedar"), settings):
            await arrived(server, "session.update")
        sent = server.connections[0].last("session.update")["session"]
    assert sent["audio"]["output"] == {
        "format": {"type": "audio/pcm", "rate": 24000},
        "voice": "cedar",
        "speed": 1.5,
        "pitch": 2,
    }
    assert sent["mood"] is None


async def test_unknown_setting_of_an_agent_is_refused_before_connecting() -> None:
    with pytest.raises(SettingsError, match="did you mean 'speed'"):
        RealtimeSession(pair(settings={"sped": 1.0}), url="ws://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("choice", "complaint"),
    [
        ({"type": "function", "name": "set_lmap"}, "'Bob' has no tool 'set_lmap'; there are: none; set tool_choice in"),
        ({"type": "mcp", "server_label": "dice"}, "'Bob' has no hosted MCP server 'dice'; there are: none"),
    ],
)
def test_choice_of_a_tool_that_does_not_exist_is_refused_before_connecting(choice: Any, complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        RealtimeSession(pair(settings={"tool_choice": choice}))
    agent = RealtimeAgent(name="Ada", tools=[Lamp().tool()], handoffs=[RealtimeAgent(name="Bob")])
    with pytest.raises(SettingsError, match="'Ada' has no tool 'set_lmap'; did you mean 'set_lamp'"):
        RealtimeSession(agent, RealtimeSessionSettings(tool_choice={"type": "function", "name": "set_lmap"}))


def test_choice_of_a_tool_or_a_handoff_of_the_agent_is_accepted() -> None:
    for name in ("set_lamp", "transfer_to_bob"):
        own = {"tool_choice": {"type": "function", "name": name}}
        RealtimeSession(
            RealtimeAgent(name="Ada", tools=[Lamp().tool()], handoffs=[RealtimeAgent(name="Bob")], settings=own)
        )


# --- guardrails -------------------------------------------------------------------------------------------------------


@output_guardrail
def no_prices(context: RunContext[Any], agent: RealtimeAgent, text: str) -> GuardrailFunctionOutput:
    return GuardrailFunctionOutput(output_info="a price", tripwire_triggered="$" in text)


async def test_tripped_guardrail_is_an_event_and_stops_the_item() -> None:
    start = [*spoken()[:2], words("It costs $5"), audio(pcm(240)), all_words("It costs $5.")]
    script = [
        *READY,
        expect("response.create"),
        send(*start),
        expect("response.cancel"),
        send(audio(pcm(240, 99)), done(status="cancelled")),
        *answering(*spoken("I cannot say.", "item_b", "resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        agent = RealtimeAgent(name="Ada", output_guardrails=[no_prices])
        async with talking(server.base_url, agent, playback="reported") as (session, reader):
            session.send_message("How much?")
            tripped = await reader.until(Guardrail)
            await reader.until(AudioEnd)
            session.played("item_b", 480)
            ended = await reader.until(TurnEnd)
        server.assert_complete()
    assert tripped == Guardrail(ended.turn, "output", "item_a", "no_prices", "a price")
    assert [one.item_id for one in reader.of(AudioInterrupted)] == ["item_a"]
    assert pcm(240, 99) not in [one.audio for one in reader.of(Audio)]


async def test_empty_answer_after_a_trip_is_announced_and_not_counted_as_answered() -> None:
    script = [
        *READY,
        expect("response.create"),
        send(*spoken()[:2], words("It costs $5"), audio(pcm(240)), all_words("It costs $5.")),
        expect("response.cancel"),
        send(done(status="cancelled")),
        *answering(created("resp_2"), done("resp_2")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        agent = RealtimeAgent(name="Ada", output_guardrails=[no_prices])
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("How much?")
            ended = await reader.until(TurnEnd)
    assert ended.outcome != "answered"
    assert reader.of(Announcement) != [], "the user is not left in silence"


@input_guardrail
def no_secrets(context: RunContext[Any], agent: RealtimeAgent, text: str) -> bool:
    return "password" in text


async def test_tripped_input_guardrail_prevents_the_request_to_the_model() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        agent = RealtimeAgent(name="Ada", input_guardrails=[no_secrets])
        settings = RealtimeSessionSettings(transcription="whisper-1")
        async with talking(server.base_url, agent, settings) as (session, reader):
            session.send_message("My password is swordfish.")
            tripped = await reader.until(Guardrail)
            ended = await reader.until(TurnEnd)
        assert "response.create" not in server.connections[0].types
    assert (tripped.guardrail, tripped.side) == ("no_secrets", "input")
    assert ended.outcome == "refused"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        (RealtimeSessionSettings(), "set transcription"),
        (RealtimeSessionSettings(transcription="whisper-1", turn_detection=ServerVad()), "create_response=False"),
        (RealtimeSessionSettings(transcription="whisper-1", turn_detection={"type": "server_vad"}), "create_response"),
    ],
)
def test_input_guardrails_that_cannot_work_are_refused_with_the_remedy(
    settings: RealtimeSessionSettings, remedy: str
) -> None:
    with pytest.raises(SettingsError, match=remedy):
        RealtimeSession(RealtimeAgent(name="Ada", input_guardrails=[no_secrets]), settings, url="offline")


def test_duplicate_agent_name_is_refused_before_connecting() -> None:
    twin = RealtimeAgent(name="Ada")
    with pytest.raises(ToolError, match="two agents are named 'Ada'"):
        RealtimeSession(RealtimeAgent(name="Ada", handoffs=[twin]), url="offline")
