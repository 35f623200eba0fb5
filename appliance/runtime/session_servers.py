"""The servers of a `RealtimeSession`: their URLs in order, and the handshake headers of the first one."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack

from appliance.errors import LinkError, SettingsError
from appliance.realtime.transports.endpoints import Endpoint, endpoint_url
from appliance.safe_text import bare_address

__all__ = ["SessionServers"]

_OPENAI_URL = "wss://api.openai.com/v1"


class SessionServers:
    """Creates the endpoints of a transport; see `RealtimeSession` for the arguments."""

    def __init__(
        self,
        url: str | Sequence[str] | None,
        *,
        api_key: str | Callable[[], str] | None,
        headers: Mapping[str, str] | None,
    ) -> None:
        self._api_key = api_key
        self._headers = dict(headers or {})
        if url is None:
            url = _OPENAI_URL if api_key is not None or os.environ.get("OPENAI_API_KEY") else "offline"
        self._urls = [url] if isinstance(url, str) else list(url)

    @property
    def names(self) -> tuple[str, ...]:
        """Names for errors and the program: URLs without secrets."""
        return tuple("offline brain" if url == "offline" else bare_address(url) for url in self._urls)

    @property
    def offline(self) -> int | None:
        """Index of the offline brain; None without one."""
        return self._urls.index("offline") if "offline" in self._urls else None

    async def open(self, stack: AsyncExitStack, model: str) -> list[Endpoint]:
        """Return the endpoints; start the offline brain, which `stack` then owns.

        Raises:
            SettingsError: A URL is not a server's address.
            ApplianceError: The offline brain cannot be started.
        """
        endpoints = []
        first = next((place for place, url in enumerate(self._urls) if url != "offline"), None)
        for place, (url, name) in enumerate(zip(self._urls, self.names, strict=True)):
            if url == "offline":
                from appliance.brain.offline import offline_brain

                server = await stack.enter_async_context(offline_brain())
                endpoints.append(Endpoint(endpoint_url(server.url, "offline"), server.headers, name))
            else:
                headers = self.handshake if place == first else dict
                endpoints.append(Endpoint(endpoint_url(url, model), headers, name))
        return endpoints

    def handshake(self) -> dict[str, str]:
        """Return the headers for the first server; called at each connect.

        Raises:
            LinkError: The function that fetches the key failed.
            SettingsError: It did not return a string.
        """
        key, problem = None, ""
        try:
            key = self._api_key() if callable(self._api_key) else self._api_key or os.environ.get("OPENAI_API_KEY")
        except Exception as exc:  # noqa: BLE001 - application code; drop its message, which may quote a secret
            problem = type(exc).__name__
        if problem:  # outside of `except`, so that no context holds the message
            raise LinkError(f"the key could not be fetched: {problem}")
        if key is not None and not isinstance(key, str):
            raise SettingsError(f"api_key returned {type(key).__name__}, expected a string")
        return {**({"Authorization": f"Bearer {key}"} if key else {}), **self._headers}
