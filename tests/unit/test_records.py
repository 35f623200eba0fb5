"""The base class of frozen data: its repr and its comparison."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from appliance.realtime.items import HistoryItem
from appliance.records import Record


class Login(Record, frozen=True):
    unprinted = ("key",)

    user: str
    key: str = "secret"


def test_repr_omits_unprinted_fields() -> None:
    assert repr(Login("eve")) == "Login(user='eve')"


def test_unprinted_field_still_counts_in_comparisons() -> None:
    assert Login("eve") != Login("eve", "another")
    assert replace(Login("eve"), key="another") == Login("eve", "another")


def test_record_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Login("eve").user = "adam"  # type: ignore[misc]


def test_repr_of_an_item_omits_images() -> None:
    item = HistoryItem(id="item_1", text="Look!", images=("data:image/png;base64,AAAA",))

    assert "Look!" in repr(item)
    assert "AAAA" not in repr(item)
