"""`HistoryItem.content`: the parts of a message, as in the Realtime API."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.conversation.commands import Emit
from appliance.conversation.events import Started
from appliance.conversation.notices import HistoryGrew
from appliance.realtime.items import HistoryItem, ItemContent
from appliance.service.store import ConversationStore
from tests.support.stage import Stage

PICTURE = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    ("item", "content"),
    [
        (HistoryItem(id="1", role="user", text="Hi."), [ItemContent(type="input_text", text="Hi.")]),
        (HistoryItem(id="1", role="system", text="Late."), [ItemContent(type="input_text", text="Late.")]),
        (HistoryItem(id="1", role="assistant", text="Yes."), [ItemContent(type="output_text", text="Yes.")]),
        (
            HistoryItem(id="1", role="user", text="Hi.", is_spoken=True),
            [ItemContent(type="input_audio", transcript="Hi.")],
        ),
        (
            HistoryItem(id="1", role="user", is_spoken=True, is_transcribed=False),
            [ItemContent(type="input_audio", transcript=None)],
        ),
        (
            HistoryItem(id="1", role="assistant", text="Yes.", is_spoken=True),
            [ItemContent(type="output_audio", transcript="Yes.")],
        ),
        (
            HistoryItem(id="1", role="user", text="What is it?", images=(PICTURE,)),
            [ItemContent(type="input_text", text="What is it?"), ItemContent(type="input_image", image_url=PICTURE)],
        ),
        (
            HistoryItem(id="1", role="user", images=(PICTURE,)),
            [ItemContent(type="input_image", image_url=PICTURE)],
        ),
        (HistoryItem(id="1", role="user"), []),
        (HistoryItem(id="1", type="function_call", name="lamp", call_id="c"), []),
        (HistoryItem(id="1", type="function_call_output", call_id="c", output="on"), []),
    ],
)
def test_content_has_the_parts_of_a_message(item: HistoryItem, content: list[ItemContent]) -> None:
    assert list(item.content) == content


def test_image_is_not_in_the_repr_of_its_part() -> None:
    assert "AAAA" not in repr(ItemContent(type="input_image", image_url=PICTURE))


def test_content_is_restored_from_the_store(tmp_path: Path) -> None:
    items = [
        HistoryItem(id="1", role="user", text="Hi.", is_spoken=True),
        HistoryItem(id="2", role="user", is_spoken=True, is_transcribed=False),
        HistoryItem(id="3", role="assistant", text="Yes.", is_spoken=True),
        HistoryItem(id="4", role="user", text="Typed."),
    ]
    store = ConversationStore(tmp_path / "conversation.db")
    store.open()
    view = Stage().conversation.view
    store(0.0, Started(), [Emit(HistoryGrew(one, "")) for one in reversed(items)], view)
    restored = store.load()
    store.close()
    assert [one.content for one in restored] == [one.content for one in items]
