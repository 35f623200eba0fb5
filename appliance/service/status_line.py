"""The state of the device as one line for ``systemctl status``.

It names the turn, the connection, the sound card and the mute; then what is wrong, if anything is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from appliance.conversation.commands import Command
from appliance.conversation.events import Event
from appliance.conversation.support.feedback import State, View
from appliance.service.systemd import Notifier
from appliance.wording import Wording

__all__ = ["StatusLine"]

_TURN = {
    State.BOOTING: "starting",
    State.LISTENING: "listening",
    State.COMMITTING: "thinking",
    State.THINKING: "thinking",
    State.SPEAKING: "speaking",
    State.AWAITING_APPROVAL: "approval",
}
_CARDS = {(): "cards", ("capture",): "no_microphone", ("playback",): "no_speaker", ("capture", "playback"): "no_cards"}


class StatusLine:
    """An observer of the driver that sends each change of the line to the service manager.

    Args:
        notifier: Sends the line.
        wording: Source of the words.
        servers: Name of the server of each endpoint; "" is the offline brain.
        xruns: Returns the number of xruns since the start, by cause; the line names them once there are any.
    """

    def __init__(
        self, notifier: Notifier, wording: Wording, servers: Sequence[str], xruns: Callable[[], Mapping[str, int]]
    ) -> None:
        self._notifier = notifier
        self._wording = wording
        self._servers = servers
        self._xruns = xruns
        self._view = View()
        self._remarks: dict[str, str] = {}
        self.text = self._line(self._view)
        """The line as it was sent last."""

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Observe one step; called on the event loop's thread."""
        if view == self._view:
            return
        self._view = view
        self._send()

    def remark(self, about: str, key: str, **values: str) -> None:
        """Add a sentence about something to the line, by its key, in place of the previous one; "" for none."""
        self._remarks[about] = self._wording.say(key, **values) if key else ""
        self._send()

    def _send(self) -> None:
        line = self._line(self._view)
        if line != self.text:
            self.text = line
            self._notifier.status(line)

    def _line(self, view: View) -> str:
        turn = "ringing" if view.is_ringing else _TURN.get(view.state, "waiting")
        mute = "muted" if view.is_muted else "unmuted"
        card = _CARDS[view.cards_lost]
        words = [self._wording.say(f"status.{turn}"), self._link(view)]
        words += [self._wording.say(f"status.{key}") for key in (card, mute)]
        xruns = self._xruns()
        if any(xruns.values()):
            words.append(self._wording.say("status.xruns", **xruns))
        if view.is_button_stuck:
            words.append(self._wording.say("status.button_stuck"))
        if view.state is State.FAILED and view.trouble:  # why no connection is tried, and the remedy
            words.append(self._wording.trouble(view.trouble))
        return "; ".join(filter(None, [*words, *self._remarks.values()]))

    def _link(self, view: View) -> str:
        say = self._wording.say
        if view.endpoint is not None:
            server = self._servers[view.endpoint]
            return say("status.connected", server=server) if server else say("status.offline")
        return say("status.no_link") if view.is_link_lost or view.state is State.FAILED else say("status.connecting")
