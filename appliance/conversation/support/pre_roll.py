"""The last moments of the microphone, kept in memory for a press that comes a little late. Pure."""

from __future__ import annotations

from collections import deque

from appliance.conversation.events import AudioCaptured

__all__ = ["PreRoll"]


class PreRoll:
    """The newest periods: at least `frames` in all once they were heard, never more than a period over it."""

    def __init__(self, frames: int) -> None:
        self._wanted = frames
        self._periods: deque[AudioCaptured] = deque()
        self._frames = 0

    def keep(self, period: AudioCaptured) -> None:
        self._periods.append(period)
        self._frames += len(period.pcm) // 2
        while self._periods and self._frames - len(self._periods[0].pcm) // 2 >= self._wanted:
            self._frames -= len(self._periods.popleft().pcm) // 2

    def take(self) -> list[AudioCaptured]:
        """Return what is kept, oldest first, and keep nothing of it."""
        periods = list(self._periods)
        self.forget()
        return periods

    def forget(self) -> None:
        self._periods.clear()
        self._frames = 0
