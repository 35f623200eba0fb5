"""A stage with several endpoints and links: failover, failback, rotation, and a spare beside the link in use."""

from __future__ import annotations

import json
from typing import Any, Self

from appliance.conversation.commands import Command, Connect, Disconnect, Emit, Send
from appliance.conversation.events import Event, LinkDown, LinkFailure, LinkUp, ServerEventReceived
from appliance.conversation.notices import Connected
from appliance.realtime import protocol as wire
from tests.support.stage import SESSION, Stage

__all__ = ["CLOUD", "HOUSE", "MAIN", "MODEL", "OFFLINE", "SPARE", "TURN_SENT", "LinkStage"]

CLOUD, HOUSE, OFFLINE = 0, 1, 2
"""Endpoints."""
MAIN, SPARE = 2, 3
"""Links after `LinkStage.with_spare`."""
MODEL = "gpt-realtime-2.1"
TURN_SENT = ["input_audio_buffer.clear", "input_audio_buffer.append", "input_audio_buffer.commit", "response.create"]
"""The frames of one turn."""


class LinkStage(Stage):
    """A stage with several links; with a spare, the newest link is not the one in use (see `speaks_on`)."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self.endpoint_of: dict[int, int] = {}
        """The endpoint of every link that was requested and is not down."""
        self.main = 0
        """The link in use, according to the ``Connected`` notices; 0 for none."""

    def do(self, event: Event) -> list[Command]:
        if isinstance(event, LinkDown):
            self._gone(event.link)
        commands = super().do(event)
        for command in commands:
            match command:
                case Connect(link=link, endpoint=endpoint):
                    self.endpoint_of[link] = endpoint
                case Disconnect(link=link):
                    self._gone(link)
                case Emit(notice=Connected(link=link, endpoint=endpoint)):
                    assert endpoint == self.endpoint_of[link]
                    self.main = link
                case Send(link=link):
                    assert link == self.main, f"sent on link {link}, but {self.main} is in use"
        return commands

    def _gone(self, link: int) -> None:
        self.endpoint_of.pop(link, None)
        self.main = 0 if link == self.main else self.main

    def open(self, link: int = 0, *, model: str = MODEL) -> None:
        """Create the session of a link: the newest, or the given one."""
        self.speaks_on = link
        self.do(LinkUp(self.link))
        self.server({"type": "session.created", "session": {"type": "realtime", "model": model}})
        self.confirm()

    def confirm(self, transcriber: str = "gpt-transcribe") -> None:
        """Let the server confirm the session; a spare has not sent one."""
        session = {"type": "realtime", "audio": {"input": {"transcription": {"model": transcriber}}}}
        self.session_updated(session)

    def down(self, link: int, kind: LinkFailure = "refused", code: int | None = None) -> None:
        self.do(LinkDown(link, kind, code, "nobody there"))

    def on(self, endpoint: int) -> Self:
        """Fail over until the conversation is on this endpoint, then clear the commands."""
        self.start()
        for _ in range(endpoint):
            self.down(self.link)
            self.advance(0.0)
        self.open()
        self.advance(2.0)
        assert self.using() == endpoint
        self.commands.clear()
        return self

    def start_with(self, kind: LinkFailure) -> Self:
        """Start; the first endpoint fails for this reason, and the next one is used."""
        self.start()
        self.down(self.link, kind)
        self.advance(0.0)
        self.open()
        self.advance(2.0)
        self.commands.clear()
        return self

    def until_connecting(self) -> float:
        """Advance until a link is requested; return the seconds passed."""
        began, made = self.now, len(self.connects())
        while len(self.connects()) == made:
            assert self.now < began + 900.0, "no link was requested"
            self.advance(0.05)
        return self.now - began

    def using(self) -> int:
        """Return the endpoint of the link in use."""
        return self.endpoint_of[self.main]

    def tried(self) -> list[int]:
        """Return the endpoints of the requested links, in order."""
        return [one.endpoint for one in self.connects()]

    def closed(self) -> list[int]:
        return [one.link for one in self.of(Disconnect)]

    def sent_on(self, link: int) -> list[dict[str, Any]]:
        return [one.event.to_wire() for one in self.of(Send) if one.link == link]

    def types_on(self, link: int) -> list[str]:
        """Return the types of the frames sent on one link, with each run of appends as one."""
        return self.sent_types([one for one in self.of(Send) if one.link == link])

    def finish(self, response_id: str = "resp_1", **more: Any) -> None:
        """Receive the whole answer and play it to its end."""
        self.audio(response_id, f"item_{response_id}", 200)
        self.done(response_id, self.conversation.turn_id, **more)
        self.played_frames = 4800
        self.play(0, drained=True)

    def whole_turn(self, response_id: str = "resp_1", **more: Any) -> None:
        self.asked(f"item_of_{response_id}", response_id)
        self.finish(response_id, **more)
        assert self.conversation.turn_id is None

    # --- a spare --------------------------------------------------------------------------------------------------

    def with_spare(self) -> Self:
        """Fail over to the second endpoint, then start a spare to the first."""
        self.start()
        self.do(LinkDown(1, "refused", None, "nobody there"))
        self.link_ready()
        self.session_updated(SESSION)
        self.speaks_on = MAIN
        self.advance(60.0)
        assert self.connects() == [Connect(1, 0), Connect(MAIN, 1), Connect(SPARE, 0)]
        self.commands.clear()
        return self

    def on_spare(self, frame: dict[str, Any]) -> list[Command]:
        return self.do(ServerEventReceived(SPARE, wire.decode(json.dumps({"event_id": "event_s"} | frame))))

    def spare_error(self, code: str | None, kind: str = "invalid_request_error") -> list[Command]:
        error = {"type": kind, "code": code, "message": "no", "param": None, "event_id": None}
        return self.on_spare({"type": "error", "error": error})
