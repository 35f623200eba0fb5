"""Timers that have expired and ring until a press or a time limit. Pure."""

from __future__ import annotations

from appliance.conversation.commands import Sentence, SilenceAlarm
from appliance.conversation.support.outbox import Outbox

__all__ = ["Alarms"]


class Alarms:
    """The ringing alarms, and the time of the next ring."""

    def __init__(self, outbox: Outbox, *, length_s: float, every_s: float) -> None:
        self._outbox = outbox
        self._length_s = length_s
        self._every_s = every_s
        self.ringing: dict[str, str] = {}
        self._until = 0.0
        self.deadline: float | None = None

    @property
    def sentence(self) -> Sentence:
        labels = ", ".join(label for label in self.ringing.values() if label)
        return Sentence("alarm.time_up_for", {"labels": labels}) if labels else Sentence("alarm.time_up")

    def begin(self, alarm_id: str, label: str, now: float) -> None:
        self.ringing[alarm_id] = label
        self._until = now + self._length_s

    def sound(self, now: float) -> bool:
        """Schedule the next ring; returns whether to ring now, False after the time limit."""
        if not self.ringing or now >= self._until:
            return False
        self.deadline = now + self._every_s
        return True

    def silence(self) -> None:
        self._outbox.do(*(SilenceAlarm(alarm_id) for alarm_id in self.ringing))
        self.ringing.clear()
        self.deadline = None
