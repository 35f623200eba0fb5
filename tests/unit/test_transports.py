"""Transports by name: the table, its use by a session, and a name that is not in it."""

from __future__ import annotations

import pytest

from appliance import RealtimeAgent, RealtimeSession
from appliance.errors import SettingsError
from appliance.realtime.transports import TRANSPORTS, open_transport
from appliance.realtime.transports.websocket import WebSocketTransport


class Recording(WebSocketTransport):
    """Remembers which links it was asked for."""

    links: list[int]

    def connect(self, link: int, endpoint: int = 0) -> None:
        self.__class__.links.append(link)
        super().connect(link, endpoint)


async def test_a_session_uses_the_transport_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    Recording.links = []
    monkeypatch.setitem(TRANSPORTS, "recording", f"{__name__}:Recording")
    async with RealtimeSession(RealtimeAgent(name="Ada"), url="offline", transport="recording"):
        pass
    assert Recording.links == [1]


def test_an_unknown_transport_is_refused_with_the_names_that_exist() -> None:
    with pytest.raises(SettingsError, match="no transport is called 'websockt'; available: websocket; did you mean"):
        open_transport("websockt", [], post=print)
