"""`SessionInput`: what a program sends to its `RealtimeSession` — audio, messages, decisions, raw frames."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any, Literal

from appliance.conversation.events import ApprovalAnswered, FrameGiven, InterruptAsked, MuteSwitched
from appliance.conversation.notices import ToolApproval
from appliance.errors import SettingsError
from appliance.realtime.messages import image_of, structured_item
from appliance.realtime.payload import RealtimeSessionSettings, message_item
from appliance.runtime.agent_runtime import check_json
from appliance.runtime.live_session import ProgramInput
from appliance.runtime.session_body import PacedPlayback, ProgramAudio, RealtimeTurn, new_item_id

__all__ = ["ItemId", "Sent", "SessionInput"]


class Sent:
    """The result of a call that has sent something; ``await`` on it does nothing: the Agents SDK's calls need one."""

    def __await__(self) -> Generator[None, None, None]:
        yield from ()


class ItemId(str):
    """The id of the item that a call has sent; ``await`` on it returns it at once."""

    def __await__(self) -> Generator[None, None, ItemId]:
        yield from ()
        return self


_SENT = Sent()


class SessionInput:
    """The calls by which a program sends something; `RealtimeSession` has them all.

    None of them blocks; each may be awaited, as in the Agents SDK. Each raises `SessionNotOpen` before ``async with``,
    after the end of the session and on another thread.

    Args:
        settings: The session's audio formats.
        is_paced: See `PacedPlayback`.
    """

    def __init__(self, settings: RealtimeSessionSettings, *, is_paced: bool) -> None:
        self._input = ProgramInput()
        self.turn = RealtimeTurn(self._input.give, has_turn_detection=self._input.has_turn_detection)
        self._audio = ProgramAudio(settings.input_audio_format, settings.output_audio_format)
        self._playback = PacedPlayback(self._input.post, is_paced=is_paced)
        self._is_muted = False

    def send_audio(self, audio: bytes, *, commit: bool = False) -> Sent:
        """Send audio of the user.

        Outside a turn it begins one, as `turn.begin` does, unless the server detects the turns. While muted, audio
        is dropped.

        Args:
            audio: In the session's `input_audio_format`; any number of whole samples.
            commit: Commit the turn after this audio.

        Raises:
            SettingsError: The audio ends in half a sample.
        """
        self._input.opened()
        periods = self._audio.captured(audio) if not self._is_muted else []
        if periods:
            self.turn.hear()
        for period in periods:
            self._input.give(period)
        if commit:
            self.turn.commit()
        return _SENT

    def mute(self, muted: bool = True) -> None:
        """Mute or unmute the user: while muted, `send_audio` sends nothing; an open turn is discarded.

        The running answer continues, and messages are sent as always.
        """
        self._input.give(MuteSwitched(muted))
        if muted and not self._is_muted:
            self.turn.is_open = False
        self._is_muted = muted

    @property
    def muted(self) -> bool:
        """Whether the user is muted."""
        return self._is_muted

    def send_message(
        self,
        message: str | Mapping[str, Any],
        *,
        role: Literal["user", "system"] = "user",
        respond: bool = True,
        on_busy: Literal["interrupt", "wait"] = "interrupt",
    ) -> ItemId:
        """Send a message; returns the id of its item.

        Args:
            message: A text, or a structured message; see `realtime.messages.structured_item`.
            role: The author of a text.
            respond: Ask for an answer.
            on_busy: Interrupt a running answer, as a press does, or send the message once that has ended.

        Raises:
            SettingsError: A structured message or `on_busy` is invalid.
        """
        return ItemId(self._input.write(structured_item(new_item_id(), message, role), respond, on_busy))

    def send_image(
        self,
        image: bytes | str | Path,
        *,
        text: str = "",
        detail: Literal["auto", "low", "high"] | None = None,
        respond: bool = True,
    ) -> ItemId:
        """Send an image; returns the id of its item.

        Args:
            image: The bytes of a PNG or JPEG file, its path, or its ``https`` address, which the server fetches.
            text: A text to send with it.
            detail: How much detail the model sees; None uses the server's default.
            respond: Ask for an answer.

        Raises:
            SettingsError: The image is neither PNG nor JPEG, or larger than `realtime.payload.MAX_IMAGE_BYTES`.
            OSError: The file cannot be read.
        """
        item = message_item(new_item_id(), "user", text, [image_of(image, detail=detail)])
        return ItemId(self._input.write(item, respond))

    def interrupt(self) -> Sent:
        """Stop the answer; an open turn of the user continues."""
        self._input.give(InterruptAsked())
        return _SENT

    def approve(self, call: ToolApproval | str, *, always: bool = False) -> Sent:
        """Approve a tool call that waits for approval.

        Args:
            call: The event, or its call id; ignored if that call does not wait.
            always: Also approve every later call of this tool in this session.
        """
        self._input.give(ApprovalAnswered(_call_id(call), True, always))
        return _SENT

    def reject(self, call: ToolApproval | str, *, always: bool = False, message: str = "") -> Sent:
        """Reject a tool call that waits for approval.

        Args:
            call: The event, or its call id; ignored if that call does not wait.
            always: Also reject every later call of this tool in this session.
            message: The output of the rejected call, for the model.
        """
        self._input.give(ApprovalAnswered(_call_id(call), False, always, message))
        return _SENT

    def send_event(self, frame: Mapping[str, Any]) -> Sent:
        """Send a frame unchanged; without a connection it is dropped, and an `error` event is yielded.

        In an open turn ``input_audio_buffer.commit`` is `turn.commit`, and ``input_audio_buffer.clear`` discards the
        audio of the turn so far. A ``response.create`` behind the commit requests no second answer; its options apply
        to the one that the commit requests.

        Raises:
            SettingsError: The frame has no ``type``, or JSON cannot express it.
        """
        if not isinstance(frame.get("type"), str):
            raise SettingsError(f"send_event: a frame needs a 'type'; this one has the keys {sorted(frame)}")
        check_json(frame, "send_event")
        self._input.give(FrameGiven(frame))
        if frame["type"] == "input_audio_buffer.commit":
            self.turn.is_open = False
        return _SENT

    def played(self, item_id: str, frames: int | None = None) -> None:
        """Report how many frames of an item were heard so far, at 24 kHz, with ``playback="reported"``.

        The items before it count as heard; an item of an older answer is ignored.

        Raises:
            SettingsError: `frames` is missing: the call has the form ``played(frames)``.
        """
        if frames is None:
            raise SettingsError("played(frames) has become played(item_id, frames): the frames heard of that item")
        self._input.opened()
        self._playback.report(item_id, frames)


def _call_id(call: ToolApproval | str) -> str:
    return call if isinstance(call, str) else call.call_id
