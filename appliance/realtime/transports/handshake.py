"""The opening handshake of the WebSocket library. The only module of the transports that loads the library."""

from __future__ import annotations

from urllib.request import getproxies, proxy_bypass  # websockets imports it too

from websockets.asyncio.client import connect

__all__ = ["Handshake", "proxy_of_the_environment"]


class Handshake(connect):
    """The library's opening handshake, without redirects: they would carry the key to another host."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def proxy_of_the_environment(secure: bool, host: str, port: int) -> str | None:
    """Return the proxy that the environment sets for this address (``https_proxy``, ``no_proxy``, …), if any."""
    proxies = getproxies()
    if not proxies or proxy_bypass(f"{host}:{port}"):
        return None
    names = ("wss", "socks", "https", "all") if secure else ("ws", "socks", "http", "all")
    return next((proxies[name] for name in names if name in proxies), None)
