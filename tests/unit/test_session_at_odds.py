"""Edge cases of the session: closing, failing functions, secrets."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from appliance.agents.agent import RealtimeAgent
from appliance.agents.context import ToolContext
from appliance.agents.guardrails import output_guardrail
from appliance.agents.hooks import RealtimeRunHooks
from appliance.agents.mcp_servers import HostedMcp
from appliance.agents.spec import AgentSpec
from appliance.agents.tools import tool
from appliance.conversation.commands import PrepareAgent
from appliance.conversation.events import ServerEventReceived, TurnKey
from appliance.conversation.notices import AnswerText, Audio, Connected, Guardrail, ToolEnd, TurnEnd, TurnStart
from appliance.conversation.policy import Policy
from appliance.errors import LinkError, SessionNotOpen, SettingsError
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from appliance.realtime.payload import RealtimeSessionSettings
from appliance.runtime.agent_preparer import AgentPreparer
from appliance.runtime.agent_tool import ask_agent
from appliance.runtime.session import RealtimeSession
from appliance.runtime.session_servers import SessionServers
from appliance.runtime.tool_runner import called
from appliance.service.trace import TraceRecorder
from tests.support.scripted_server import ScriptedServer, close, expect, hold, refuse, send, stall_handshake
from tests.support.sessions import READY, answering, audio, calling, committed, done, pcm, spoken, talking, words


async def test_barge_in_by_turn_begin_can_be_committed_later() -> None:
    """`turn.begin()` during an answer, then streamed audio, then `commit()`: the second turn is committed."""
    script = [
        *READY,
        expect("input_audio_buffer.commit"),
        send(committed()),
        expect("response.create"),
        send(*spoken()[:2], audio(pcm(24_000))),
        expect("response.cancel"),
        send(done(status="cancelled")),
        expect("input_audio_buffer.commit"),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            session.turn.begin()
            await reader.until(TurnStart)  # like every program that streams
            session.send_audio(pcm(4800))
            session.turn.commit()
            await reader.until(Audio)
            session.turn.begin()  # barge in
            await reader.until(TurnEnd)  # of the first turn, while the program streams its microphone
            assert session.turn.is_open, "the end of the interrupted turn closed the new one"
            session.send_audio(pcm(4800))
            session.turn.commit()
            async with asyncio.timeout(3):
                while server.connections[0].types.count("input_audio_buffer.commit") < 2:
                    await asyncio.sleep(0.01)


async def test_message_just_before_a_turn_does_not_close_it() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_message("Hi!")
            session.turn.begin()
            await reader.until(TurnEnd)
            assert session.turn.is_open


async def test_question_during_close_fails_instead_of_hanging() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            closing = asyncio.create_task(session.close())
            await asyncio.sleep(0)
            asking = asyncio.create_task(session.ask("Are you there?"))
            await closing
            with pytest.raises(LinkError):
                await asyncio.wait_for(asking, 1)


async def test_question_fails_instead_of_hanging_when_the_session_breaks() -> None:
    def observer(now: float, event: Any, commands: Any, view: Any) -> None:
        if type(event).__name__ == "FrameGiven":
            raise RuntimeError("an observer's bug")

    async with ScriptedServer([*READY, expect("response.create"), hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url, observers=[observer])
        await session.__aenter__()
        asking = asyncio.create_task(session.ask("Are you there?"))
        await asyncio.sleep(0.05)
        session.send_event({"type": "x"})
        try:
            with pytest.raises(LinkError):
                await asyncio.wait_for(asking, 1)
        finally:
            with pytest.raises(BaseException):  # noqa: B017
                await session.close()


async def test_frame_that_is_not_json_is_refused_and_the_session_continues() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            with pytest.raises(SettingsError):
                session.send_event({"type": "conversation.item.create", "item": {"when": Path("x")}})
            session.send_message("Hi!")
            await reader.until(TurnEnd)


async def test_question_that_is_not_json_is_refused_and_the_session_continues() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            with pytest.raises((SettingsError, LinkError)):
                await asyncio.wait_for(session.ask.ask({"instructions": Path("x")}), 1)
            session.send_message("Hi!")
            await reader.until(TurnEnd)


async def test_key_function_that_raises_is_a_failed_connection_and_is_retried() -> None:
    """The key function fails once at a reconnection: the session retries."""
    asked = 0

    def key() -> str:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise RuntimeError("the key server answers 503")
        return "sesame"

    script = [*READY, close(1001)]
    async with ScriptedServer(script, every_other=[*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, api_key=key, policy=Policy(backoff_initial_s=0.01)) as (session, reader):
            await reader.until(Connected)
            await asyncio.wait_for(_until(lambda: asked >= 3), 5)
            session.send_message("Hi!")
            end = await reader.until(TurnEnd)
    assert (end.outcome, asked) == ("answered", 3)
    assert (len(reader.of(Connected)), len(server.connections)) == (2, 2)


async def _until(is_it: Any) -> None:
    while not is_it():
        await asyncio.sleep(0.01)


async def test_password_in_a_url_is_in_no_log_and_no_event(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with ScriptedServer([*READY, hold()]) as server:
        url = server.base_url.replace("://", "://ada:opensesame@")
        async with talking(url) as (session, reader):
            event = await reader.until(Connected)
            assert "opensesame" not in repr(event)
            assert "opensesame" not in repr(session)
    assert not [one for one in caplog.records if one.name.startswith("appliance") and "opensesame" in one.getMessage()]


async def test_password_in_a_url_is_in_no_error() -> None:
    with pytest.raises(LinkError) as caught:
        async with RealtimeSession(
            RealtimeAgent(name="Ada"), url="ws://ada:opensesame@127.0.0.1:1/v1", connect_timeout_s=0.2
        ):
            pass
    assert "opensesame" not in str(caught.value)


class _Odd:
    def __bool__(self) -> bool:
        raise ValueError("the truth value of an array is ambiguous")


async def test_guardrail_whose_verdict_is_not_a_bool_counts_as_tripped() -> None:
    @output_guardrail
    def odd(context: Any, agent: Any, text: str) -> Any:
        return _Odd()

    agent = RealtimeAgent(name="Ada", output_guardrails=[odd])
    script = [*READY, *answering(*spoken()), *answering(*spoken(item_id="b", response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, agent) as (session, reader):
            session.send_message("Hi!")
            end = await reader.until(TurnEnd)
    assert [(one.guardrail, one.item_id) for one in reader.of(Guardrail)] == [("odd", "item_a"), ("odd", "b")]
    assert end.outcome == "refused"


class _Hooks(RealtimeRunHooks):
    def __init__(self, first: Any) -> None:
        self.called: list[str] = []
        self.first = first

    async def on_tool_start(self, context: Any, agent: Any, tool: Any) -> None:
        self.called.append("tool_start")
        await self.first()

    async def on_tool_end(self, context: Any, agent: Any, tool: Any, result: Any) -> None:
        self.called.append("tool_end")

    async def on_agent_end(self, context: Any, agent: Any, output: Any) -> None:
        await asyncio.sleep(0.05)  # like a write to a database
        self.called.append("agent_end")


@tool
async def mark() -> str:
    """Mark."""
    return "marked"


async def test_hook_that_cancels_itself_does_not_stop_later_hooks() -> None:
    async def cancelled() -> None:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel()
        await task

    hooks = _Hooks(cancelled)
    agent = RealtimeAgent(name="Ada", tools=[mark])
    script = [*READY, *answering(*calling("mark")), *answering(*spoken(response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, agent, hooks=hooks) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
            await asyncio.sleep(0.1)
    assert hooks.called == ["tool_start", "tool_end", "agent_end"]


async def test_close_does_not_hang_on_a_hook_that_swallows_its_cancellation() -> None:
    async def stubborn() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    agent = RealtimeAgent(name="Ada", tools=[mark])
    script = [*READY, *answering(*calling("mark")), *answering(*spoken(response_id="resp_2")), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url, agent, hooks=_Hooks(stubborn)) as (session, reader):
            session.send_message("Hi!")
            await reader.until(ToolEnd)
            closing = asyncio.create_task(session.close())
            finished, _ = await asyncio.wait({closing}, timeout=5)
            for task in asyncio.all_tasks():  # otherwise this test would hang too
                if task.get_name() == "hooks":
                    task.cancel()
            assert finished, "close() hangs"


async def test_pending_hooks_are_called_before_close_returns() -> None:
    async def nothing() -> None: ...

    hooks = _Hooks(nothing)
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url, hooks=hooks) as (session, reader):
            session.send_message("Hi!")
            await reader.until(TurnEnd)
    assert hooks.called == ["agent_end"]


async def test_closed_session_works_again_or_is_refused_with_a_clear_error() -> None:
    async with ScriptedServer(every_other=[*READY, *answering(*spoken()), hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)
        async with session:
            pass
        try:
            async with asyncio.timeout(5):
                async with session:
                    session.send_message("Hi!")
                    types = [event.type async for event in _up_to(session, "turn_end")]
        except LinkError as exc:
            pytest.fail(f"a misleading error: {exc}")
        except (RuntimeError, SettingsError):
            return
        assert "turn_end" in types


async def _up_to(session: RealtimeSession, kind: str) -> Any:
    async for event in session:
        yield event
        if event.type == kind:
            return


class _McpServer:
    """Follows `agents.mcp_servers.McpServer`: connect is a no-op when connected, close is idempotent."""

    name = "house"

    def __init__(self) -> None:
        self.is_connected = False

    async def connect(self) -> None:
        self.is_connected = True

    async def close(self) -> None:
        self.is_connected = False

    async def list_tools(self) -> list[Any]:
        return []


async def test_ending_one_session_does_not_disconnect_the_mcp_servers_of_another() -> None:
    server_of_tools = _McpServer()
    agent = RealtimeAgent(name="Ada", mcp_servers=[server_of_tools])
    async with ScriptedServer(every_other=[*READY, hold()]) as server:
        async with talking(server.base_url, agent):
            async with talking(server.base_url, agent):
                pass
            assert server_of_tools.is_connected


async def test_tool_may_close_the_session() -> None:
    sessions: list[RealtimeSession] = []

    @tool
    async def hang_up() -> str:
        """Hang up."""
        await sessions[0].close()
        return "bye"

    agent = RealtimeAgent(name="Ada", tools=[hang_up])
    async with ScriptedServer([*READY, *answering(*calling("hang_up")), hold()]) as server:
        async with asyncio.timeout(5):
            async with RealtimeSession(agent, url=server.base_url) as session:
                sessions.append(session)
                session.send_message("Hi!")
                async for _ in session:
                    pass
            await asyncio.wait_for(server.connections[0].ended.wait(), 3)
        assert server.connections[0].close_code == 1000


async def test_close_while_connecting_stops_connecting() -> None:
    async with ScriptedServer([stall_handshake()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)
        entering = asyncio.create_task(session.__aenter__())
        await asyncio.sleep(0.1)
        await session.close()
        finished, _ = await asyncio.wait({entering}, timeout=3)
        entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        assert finished, "close() was ignored, and the session kept connecting"


async def test_update_history_function_sees_input_given_just_before() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            session.send_message("The door is open.", respond=False)
            session.update_history(lambda items: [*items, HistoryItem(id="", role="system", text="It is late.")])
            await asyncio.wait_for(_until(lambda: any(one.role == "system" for one in session.history)), 3)
            assert [one.text for one in session.history] == ["The door is open.", "It is late."]


async def test_unchanged_history_does_not_delete_the_answer_that_is_streaming() -> None:
    script = [*READY, expect("response.create"), send(*spoken()[:3]), hold()]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_message("Hi!")
            await reader.until(AnswerText)
            assert session._input.live is not None
            session._input.live.driver.post(
                ServerEventReceived(1, wire.decode(json.dumps(words(" Ada."))))
            )  # waits in the inbox
            session.update_history(lambda items: items)
            await asyncio.sleep(0.05)
        assert "conversation.item.delete" not in server.connections[0].types


async def test_mcp_tokens_are_not_sent_to_fallback_servers() -> None:
    """docs/connections.md: the key goes to the first endpoint only."""
    hosted = HostedMcp(server_label="mail", server_url="https://mail.example/mcp", authorization="opensesame")
    agent = RealtimeAgent(name="Ada", mcp_servers=[hosted])
    async with ScriptedServer([refuse(503)]) as first, ScriptedServer([*READY, hold()]) as other:
        async with talking([first.base_url, other.base_url], agent):
            await asyncio.wait_for(_until(lambda: "session.update" in other.connections[0].types), 3)
        assert "opensesame" not in json.dumps(other.connections[0].last("session.update"))


async def test_mcp_token_is_in_no_log_line(caplog: pytest.LogCaptureFixture) -> None:
    """docs/mcp.md, Secrets: `authorization` is in no log line, error message or `repr`."""
    caplog.set_level(logging.DEBUG)
    mcp = HostedMcp(server_label="mail", server_url="https://mail.example/mcp", authorization="opensesame")
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            session.send_event({"type": "session.update", "session": {"type": "realtime", "tools": [mcp.definition()]}})
            await asyncio.wait_for(_until(lambda: server.connections[0].types.count("session.update") == 2), 3)
    assert not [one for one in caplog.records if one.name.startswith("appliance") and "opensesame" in one.getMessage()]


def test_query_of_an_mcp_url_is_not_in_the_trace(tmp_path: Path) -> None:
    hosted = HostedMcp(server_label="mail", server_url="https://ada:opensesame@mail.example/mcp?k=opensesame")
    recorder = TraceRecorder(tmp_path / "trace", post=lambda event: None)
    spec = AgentSpec(agent="Ada", session={"type": "realtime", "tools": [hosted.definition()]})
    recorder.open(policy=Policy(), specs=[spec])
    recorder.close()
    assert "opensesame" not in (tmp_path / "trace").read_text()


async def test_agent_as_tool_uses_its_own_time_limit() -> None:
    asked: list[float] = []

    async def ask(text: str, *, timeout_s: float = 30.0, **more: Any) -> list[HistoryItem]:
        asked.append(timeout_s)
        return [HistoryItem(id="a", role="assistant", text="Yes.")]

    librarian = RealtimeAgent(name="Librarian", instructions="You know books.").as_tool(timeout_s=90.0)
    context = ToolContext(
        context=None,
        agent=RealtimeAgent(name="Ada"),
        history=(),
        tool_name="ask_librarian",
        call_id="c",
        arguments='{"question": "?"}',
        ask=ask,
        ask_agent=ask_agent,
    )
    await called(librarian, context)
    assert asked[0] > 60


def test_guardrail_limit_above_15_seconds_is_used() -> None:
    session = RealtimeSession(RealtimeAgent(name="Ada"), url="ws://x/v1", policy=Policy(guardrail_s=60.0))
    assert session._runtime.preparer._timeout_s >= 60.0


async def test_session_cancelled_while_connecting_leaves_no_tasks() -> None:
    before = asyncio.all_tasks()
    async with ScriptedServer([stall_handshake()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)
        known = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(session.__aenter__(), 0.1)
        left = {one.get_name() for one in asyncio.all_tasks() - known}
    assert not {one for one in left if "session" in one or "link" in one}, left
    assert before


async def test_cancelling_the_task_of_a_session_during_an_answer_closes_it() -> None:
    script = [*READY, expect("response.create"), send(*spoken()[:2], audio(pcm(24_000))), hold()]
    async with ScriptedServer(script) as server:

        async def hold_it() -> None:
            async with RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url) as session:
                session.send_message("Hi!")
                async for event in session:
                    if event.type == "audio":
                        speaking.set()

        speaking = asyncio.Event()
        task = asyncio.create_task(hold_it())
        await asyncio.wait_for(speaking.wait(), 3)
        task.cancel()
        finished, _ = await asyncio.wait({task}, timeout=3)
        assert finished and task.cancelled()
        await asyncio.wait_for(server.connections[0].ended.wait(), 3)
        assert server.connections[0].close_code == 1000


async def test_provider_data_that_is_not_json_is_refused() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        settings = RealtimeSessionSettings(provider_data={"where": Path("x")})
        with pytest.raises(SettingsError):
            async with RealtimeSession(RealtimeAgent(name="Ada"), settings, url=server.base_url):
                await asyncio.sleep(0.1)


async def test_request_is_answered_if_instructions_cancel_themselves() -> None:
    """runtime.driver, `Agents`: each request MUST be answered by exactly one event with its key."""
    posted: list[Any] = []

    async def cancelled(context: Any, agent: Any) -> str:
        raise asyncio.CancelledError

    agent = RealtimeAgent(name="Ada", instructions=cancelled)
    preparer = AgentPreparer({"Ada": agent}, compose=lambda *of: {}, post=posted.append)
    task = asyncio.create_task(preparer.run())
    preparer.prepare_agent(PrepareAgent(TurnKey("turn_1", 0), "Ada", "turn"))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [one.key for one in posted] == [TurnKey("turn_1", 0)]


def test_key_function_that_does_not_return_a_string_is_refused() -> None:
    """The SDK's `api_key` may be async; here it would become the header ``Bearer <coroutine object …>``."""
    later: Any = asyncio.Future(loop=asyncio.new_event_loop())
    servers = SessionServers("ws://x/v1", api_key=lambda: later, headers=None)
    try:
        with suppress(SettingsError, LinkError):
            assert "Future" not in servers.handshake()["Authorization"]
    finally:
        later.get_loop().close()


async def test_update_history_function_on_an_ended_session_does_not_run() -> None:
    runs = 0

    def same(history: Any) -> Any:
        nonlocal runs
        runs += 1
        return history

    async with ScriptedServer([*READY, hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)
        async with session:
            pass
    with pytest.raises(SessionNotOpen):
        session.update_history(same)
    await asyncio.sleep(0.05)
    assert runs == 0


async def test_every_reader_of_a_session_ends() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)

        async def read() -> list[str]:
            return [event.type async for event in session]

        async with session:
            readers = [asyncio.create_task(read()) for _ in range(2)]
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            first, second = await asyncio.gather(*readers)
    assert [*first, *second].count("connected") == 1


async def test_session_whose_task_is_cancelled_before_its_first_step_is_over() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        session = RealtimeSession(RealtimeAgent(name="Ada"), url=server.base_url)

        async def cancel_it() -> None:
            while True:
                for task in asyncio.all_tasks():
                    if task.get_name() == "realtime session":
                        task.cancel()
                        return
                await asyncio.sleep(0)

        cancelling = asyncio.create_task(cancel_it())
        with pytest.raises((asyncio.CancelledError, LinkError)):
            async with asyncio.timeout(5):
                await session.__aenter__()
        await cancelling
        assert [event async for event in session] == []
