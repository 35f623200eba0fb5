"""The restart that a changed API key, or another setting, needs: not in the middle of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from appliance.conversation.commands import Command
from appliance.conversation.events import Event, ShutdownRequested
from appliance.conversation.support.feedback import State, View

__all__ = ["RestartAtRest"]

_AT_REST = (State.READY, State.CONNECTING, State.OFFLINE, State.MUTED, State.FAILED)


class RestartAtRest:
    """An observer of the driver that, once asked, stops the device when no turn runs and no alarm rings.

    Args:
        post: Receives the event that stops the device.
    """

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._view = View()
        self._reason = ""

    def ask(self, reason: str) -> None:
        """Stop the device at its next rest, at once if it is at rest; called on the event loop's thread."""
        self._reason = reason
        self._stop_at_rest()

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Observe one step."""
        self._view = view
        self._stop_at_rest()

    def _stop_at_rest(self) -> None:
        if self._reason and self._view.state in _AT_REST and not self._view.is_ringing:
            reason, self._reason = self._reason, ""
            self._post(ShutdownRequested(reason))
