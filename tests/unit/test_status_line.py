"""The line of `systemctl status`, over a real notification socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.events import DeadlinePassed
from appliance.conversation.support.feedback import State, View
from appliance.service.status_line import StatusLine
from appliance.service.systemd import Notifier
from appliance.wording import Wording


class Manager:
    """The service manager, and a status line that notifies it."""

    def __init__(self, end: socket.socket, language: str = "en") -> None:
        self._end = end
        notifier = Notifier({"NOTIFY_SOCKET": end.getsockname()})
        self.xruns = {"network": 0, "program": 0, "card": 0}
        servers = ["wss://api.example.org/v1", ""]
        self.line = StatusLine(notifier, Wording(language), servers, lambda: self.xruns)

    def see(self, **view: Any) -> list[str]:
        """Show a view to the line; return the datagrams of this step."""
        self.line(0.0, DeadlinePassed(), (), View(**view))
        sent = []
        while True:
            try:
                sent.append(self._end.recv(4096).decode())
            except BlockingIOError:
                return sent


@pytest.fixture
def end(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.setblocking(False)
        yield one


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (
            {"state": State.READY, "endpoint": 0},
            "waiting for a press; connected to wss://api.example.org/v1; sound card ready; microphone on",
        ),
        (
            {"state": State.SPEAKING, "endpoint": 1},
            "speaking; offline, without a server; sound card ready; microphone on",
        ),
        (
            {"state": State.OFFLINE, "is_link_lost": True, "cards_lost": ("playback",)},
            "waiting for a press; no connection; no loudspeaker; microphone on",
        ),
        (
            {"state": State.FAILED, "cards_lost": ("capture", "playback")},
            "waiting for a press; no connection; no microphone and no loudspeaker; microphone on",
        ),
        (
            {"state": State.MUTED, "is_muted": True, "cards_lost": ("capture",)},
            "waiting for a press; connecting; no microphone; muted",
        ),
        (
            {"state": State.READY, "endpoint": 1, "is_ringing": True, "is_button_stuck": True},
            "an alarm rings; offline, without a server; sound card ready; microphone on; the button is stuck",
        ),
        (
            {"state": State.FAILED, "trouble": "no_credit"},
            "waiting for a press; no connection; sound card ready; microphone on; "
            "My account has no credit left. Please add credit to it.",
        ),
    ],
)
def test_line_names_turn_connection_card_mute_and_what_is_wrong(
    end: socket.socket, view: dict[str, Any], line: str
) -> None:
    assert Manager(end).see(**view) == [f"STATUS={line}"]


@pytest.mark.parametrize("language", ["en", "de", "es", "fr"])
def test_every_state_has_words(end: socket.socket, language: str) -> None:
    manager = Manager(end, language)
    lines = {state: (manager.see(state=state), manager.line.text)[1] for state in State}
    assert all(line.count("; ") == 3 for line in lines.values())
    assert len(set(lines.values())) == 7, "five states of a turn, and waiting while connecting and without a connection"


def test_line_is_sent_only_when_it_changes(end: socket.socket) -> None:
    manager = Manager(end)
    assert len(manager.see(state=State.THINKING, endpoint=0)) == 1
    assert manager.see(state=State.THINKING, endpoint=0) == []
    assert manager.see(state=State.COMMITTING, endpoint=0, has_error=True) == [], "the same words"
    assert len(manager.see(state=State.SPEAKING, endpoint=0)) == 1


def test_xruns_since_the_start_are_named_by_cause_once_there_are_any(end: socket.socket) -> None:
    manager = Manager(end)
    (quiet,) = manager.see(state=State.THINKING)
    manager.xruns |= {"network": 2, "card": 1}
    (line,) = manager.see(state=State.SPEAKING)
    assert "gaps" not in quiet
    assert line.endswith("; microphone on; sound gaps since the start: network 2, program 0, card 1")


@pytest.mark.parametrize("language", ["de", "es", "fr"])
def test_xruns_have_words_in_every_language(end: socket.socket, language: str) -> None:
    manager = Manager(end, language)
    manager.xruns |= {"network": 3, "program": 4, "card": 5}
    (line,) = manager.see(state=State.SPEAKING)
    assert re.findall(r"\d+", line.split("; ")[-1]) == ["3", "4", "5"]
