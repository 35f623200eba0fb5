"""The base of frozen data: what it prints, and what it does not."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from appliance.realtime.items import HistoryItem
from appliance.records import Record


class Login(Record, frozen=True):
    unprinted = ("key",)

    user: str
    key: str = "secret"


def test_a_repr_shows_the_fields_that_may_be_seen() -> None:
    assert repr(Login("eve")) == "Login(user='eve')"


def test_a_field_that_is_not_printed_still_counts_when_records_are_compared() -> None:
    assert Login("eve") != Login("eve", "another")
    assert replace(Login("eve"), key="another") == Login("eve", "another")


def test_a_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Login("eve").user = "adam"  # type: ignore[misc]


def test_images_are_not_in_the_repr_of_an_item() -> None:
    item = HistoryItem(id="item_1", text="Look!", images=("data:image/png;base64,AAAA",))

    assert "Look!" in repr(item)
    assert "AAAA" not in repr(item)
