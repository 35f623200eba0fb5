"""Transports: ways to carry the Realtime protocol, in a table by name; each is imported when it is opened.

========= =====================================================================
websocket one WebSocket for each connection (`transports.websocket`)
========= =====================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from appliance.conversation.events import Event, FrameRefused, LinkDown, ServerEventReceived
from appliance.plugins import named
from appliance.realtime.protocol import ClientEvent
from appliance.safe_text import mapped, redact

if TYPE_CHECKING:
    from appliance.realtime.transports.endpoints import Endpoint

__all__ = ["TRANSPORTS", "RunningTransport", "open_transport"]


class RunningTransport(Protocol):
    """What a transport must offer. Everything is called on the event loop.

    It MUST post `LinkUp` when a link is ready, `ServerEventReceived` for each frame of the server, and `LinkDown`
    exactly once when a link ends, whatever ended it.
    """

    def connect(self, link: int, endpoint: int = 0) -> None:
        """Start link number `link` to an endpoint of the list; return at once. Before `run`, `run` starts it."""

    def disconnect(self, link: int) -> None:
        """End a link; MUST NOT raise for a link that is gone."""

    def send(self, link: int, event: ClientEvent) -> None:
        """Queue a frame; MUST NOT raise for a link that is gone."""

    @property
    def has_room(self) -> bool:
        """False while so much audio waits to be sent that the microphone must wait."""

    async def run(self) -> None:
        """Serve the links until cancelled."""

    async def said_goodbye(self) -> None:
        """Wait until the links that were disconnected are closed."""


def open_transport(
    name: str, endpoints: Sequence[Endpoint], *, post: Callable[[Event], None], **options: Any
) -> RunningTransport:
    """Return the transport of a name; `Connect` commands make it connect. Its events are redacted.

    Args:
        name: A key of `TRANSPORTS`, or an entry point of the group ``voice_appliance.transports``.
        endpoints: The servers, the best first.
        post: Takes the transport's events, on the event loop.
        options: ``tap``, ``connect_timeout_s``, ``ping_interval_s``, ``ping_timeout_s``: see `WebSocketTransport`.

    Raises:
        SettingsError: There is no such transport.
    """
    factory: Callable[..., RunningTransport] = named(
        TRANSPORTS, name, kind="transport", group="voice_appliance.transports"
    )
    return factory(endpoints, post=lambda event: post(_redacted(event)), **options)


def _redacted(event: Event) -> Event:
    """Return a transport's event without secrets; a server may quote the key in any text, also in an id."""
    try:
        match event:
            case ServerEventReceived():
                return mapped(event, partial(redact, shapes=False))
            case LinkDown() | FrameRefused():
                return mapped(event, redact)
    except RecursionError:
        assert isinstance(event, ServerEventReceived)
        return FrameRefused(event.link, "a frame nests too deeply")
    return event


TRANSPORTS: Mapping[str, str] = {"websocket": "appliance.realtime.transports.websocket:WebSocketTransport"}
"""Where each class is; a package adds one by an entry point in the group ``voice_appliance.transports``."""
