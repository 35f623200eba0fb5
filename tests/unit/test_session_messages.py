"""Messages of a program to a `RealtimeSession`: structured messages, addresses of images, messages that wait."""

from __future__ import annotations

from typing import Any

import pytest

from appliance.conversation.notices import Audio, AudioInterrupted, TurnEnd
from appliance.errors import SettingsError
from tests.support.scripted_server import ScriptedServer, expect, hold, send
from tests.support.sessions import READY, answering, arrived, spoken, talking

TEXT = {"type": "input_text", "text": "What is this?"}
IMAGE = {"type": "input_image", "image_url": "https://pictures.example/cat.png", "detail": "low"}


def given(*content: Any, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": list(content), **more}


async def test_structured_message_is_sent_with_all_its_parts() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            item_id = session.send_message(given(TEXT, IMAGE))
            await reader.until(TurnEnd)
            kept = session.history[0]
        item = server.connections[0].last("conversation.item.create")["item"]
    assert item == {"id": item_id, **given(TEXT, IMAGE)}
    assert (kept.text, kept.images) == ("What is this?", ("https://pictures.example/cat.png",))


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        (7, "not int"),
        ({"text": "Hi!"}, "expected 'message'"),
        (given(TEXT, role="assistant"), "role is 'assistant'"),
        (given(), "at least one part"),
        (given(role="user") | {"content": "Hi!"}, "content must be a list"),
        (given("Hi!"), r"content\[0\]: type is None"),
        (given(TEXT, {"type": "input_video"}), r"content\[1\]: type is 'input_video'"),
        (given(IMAGE, role="system"), "in a system message"),
        (given({"type": "input_text"}), "text must be a string"),
        (given({"type": "input_image", "image_url": "cat.png"}), "image_url must begin with"),
    ],
)
async def test_invalid_message_is_refused_and_the_error_names_the_part(message: Any, complaint: str) -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(SettingsError, match=complaint):
                session.send_message(message)


async def test_address_of_an_image_is_passed_on() -> None:
    async with ScriptedServer([*READY, expect("conversation.item.create"), hold()]) as server:
        async with talking(server.base_url) as (session, _):
            session.send_image(IMAGE["image_url"], text="What is this?", detail="low", respond=False)
            await arrived(server, "conversation.item.create")
        item = server.connections[0].last("conversation.item.create")["item"]
    assert item["content"] == [TEXT, IMAGE]


async def test_message_that_waits_is_answered_after_the_running_answer() -> None:
    answer = spoken()
    script = [
        *READY,
        expect("response.create"),
        send(*answer[:4]),
        expect("conversation.item.retrieve"),
        send(*answer[4:]),
        *answering(*spoken("Two.", "item_b", "resp_2")),
        *answering(*spoken("Three.", "item_c", "resp_3")),
        hold(),
    ]
    async with ScriptedServer(script) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_message("one")
            await reader.until(Audio)
            session.send_message("two", on_busy="wait")
            session.send_message("three", on_busy="wait")
            session.send_event({"type": "conversation.item.retrieve", "item_id": "item_a"})
            for _ in range(3):
                assert (await reader.until(TurnEnd)).outcome == "answered"
            texts = [one.text for one in session.history]
        server.assert_complete()
    assert reader.of(AudioInterrupted) == []
    assert texts == ["one", "Hello.", "two", "Two.", "three", "Three."]


async def test_message_that_may_wait_is_sent_at_once_when_nothing_runs() -> None:
    async with ScriptedServer([*READY, *answering(*spoken()), hold()]) as server:
        async with talking(server.base_url) as (session, reader):
            session.send_message("one", on_busy="wait")
            await reader.until(TurnEnd)


async def test_unknown_way_when_busy_is_refused() -> None:
    async with ScriptedServer([*READY, hold()]) as server:
        async with talking(server.base_url) as (session, _):
            with pytest.raises(SettingsError, match="on_busy"):
                session.send_message("Hi!", on_busy="later")  # type: ignore[arg-type]
