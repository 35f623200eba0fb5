"""Transports by name: the table, its use by a session, and an unknown name."""

from __future__ import annotations

import pytest

from appliance import RealtimeAgent, RealtimeSession
from appliance.errors import SettingsError
from appliance.realtime.transports import TRANSPORTS, open_transport
from appliance.realtime.transports.websocket import WebSocketTransport


class Recording(WebSocketTransport):
    """Records the links it connects."""

    links: list[int]

    def connect(self, link: int, endpoint: int = 0) -> None:
        self.__class__.links.append(link)
        super().connect(link, endpoint)


async def test_session_uses_the_named_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    Recording.links = []
    monkeypatch.setitem(TRANSPORTS, "recording", f"{__name__}:Recording")
    async with RealtimeSession(RealtimeAgent(name="Ada"), url="offline", transport="recording"):
        pass
    assert Recording.links == [1]


def test_unknown_transport_is_refused_with_the_available_names() -> None:
    with pytest.raises(SettingsError, match="no transport is called 'websockt'; available: websocket; did you mean"):
        open_transport("websockt", [], post=print)
