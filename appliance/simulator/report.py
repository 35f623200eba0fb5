"""The report of one turn, built from the steps that the driver's observers see. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.conversation.commands import Command, Emit, Send
from appliance.conversation.events import Event, PlayoutProgress, ServerEventReceived
from appliance.conversation.notices import (
    AnswerText,
    Error,
    InputText,
    ToolEnd,
    ToolStart,
    TurnEnd,
    TurnStart,
)
from appliance.conversation.support.feedback import View, light_state
from appliance.realtime import protocol as wire
from appliance.wording import Wording

__all__ = ["TurnReport"]


@dataclass(slots=True)
class TurnReport:
    """An observer that follows the first turn that starts."""

    wording: Wording
    turn: str = ""
    heard: str = ""
    answers: list[str] = field(default_factory=list)
    tools: list[dict[str, Any]] = field(default_factory=list)
    lights: list[str] = field(default_factory=list)
    marks: dict[str, float] = field(default_factory=dict)
    """Monotonic seconds per step of the timeline."""
    usage: dict[str, int] = field(default_factory=dict)
    troubles: list[tuple[str, str]] = field(default_factory=list)
    outcome: str = ""

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Record one step of the driver."""
        light = light_state(view)
        if self.lights[-1:] != [light]:
            self.lights.append(light)
        for command in commands:
            self._take(now, command)
        if self.turn and not self.outcome:
            self._mark_event(now, event)

    @property
    def reply(self) -> str:
        return " ".join(self.answers)

    @property
    def timeline_ms(self) -> dict[str, int]:
        """Milliseconds from the press to each step that happened."""
        start = self.marks.get("press", 0.0)
        return {name: round((at - start) * 1000) for name, at in self.marks.items()}

    def _mark_event(self, now: float, event: Event) -> None:
        if isinstance(event, ServerEventReceived) and isinstance(event.event, wire.OutputAudioDelta):
            self.marks.setdefault("first_audio_back", now)
        elif isinstance(event, PlayoutProgress) and event.played_frames > 0 and "first_audio_back" in self.marks:
            self.marks.setdefault("first_frame_played", now)

    def _take(self, now: float, command: Command) -> None:
        if isinstance(command, Emit):
            self._take_notice(now, command.notice)
        elif isinstance(command, Send) and self.turn:
            if isinstance(command.event, wire.InputAudioBufferAppend):
                self.marks.setdefault("first_audio_on_wire", now)
            elif isinstance(command.event, wire.InputAudioBufferCommit):
                self.marks.setdefault("commit", now)

    def _take_notice(self, now: float, notice: object) -> None:
        match notice:
            case TurnStart() if not self.turn:
                self.turn = notice.turn
                self.marks.setdefault("press", now)
            case Error():
                self.troubles.append((notice.kind, self.wording.trouble(notice.kind, notice.detail)))
            case InputText(is_final=True, turn=turn) if turn == self.turn:
                self.heard = notice.text
            case AnswerText(turn=turn, is_final=True) if turn == self.turn:
                self.answers.append(notice.text)
            case ToolStart(turn=turn) if turn == self.turn:
                self.tools.append({"name": notice.name, "arguments": notice.arguments, "output": None})
                self.marks.setdefault(f"tool_{len(self.tools)}", now)
            case ToolEnd(turn=turn) if turn == self.turn:
                for tool in self.tools:
                    if tool["output"] is None and tool["name"] == notice.name:
                        tool["output"] = notice.output
                        break
            case TurnEnd(turn=turn) if turn == self.turn:
                self.outcome = notice.outcome
                self.usage = dict(notice.usage)
                self.marks.setdefault("end", now)
