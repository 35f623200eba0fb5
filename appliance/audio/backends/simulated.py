"""A sound card made of two threads and a clock: for CI, for the terminal, for machines without a card.

It is paced like a card: one callback per period of an absolute schedule, at the card's rate. A callback that runs more
than a period late counts as such; the schedule then restarts from that callback, as a card's does.
"""

from __future__ import annotations

import random
import threading
import time
import wave
from collections import deque
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from appliance.audio.backends import Consume, Fill, Presence
from appliance.audio.pcm import WIRE_RATE, from_bytes, peak
from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16
from appliance.conversation.events import Direction
from appliance.errors import CardMissing, StorageError

__all__ = ["Loudspeaker", "Microphone", "SimulatedBackend"]

_NOISE_PEAK = 6  # a quiet room; digital silence would be reported as a dead microphone
_KEPT_S = 180.0


class Microphone:
    """The simulated microphone: hears queued speech, else a quiet room."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._queue: deque[Int16] = deque()
        noise = np.frombuffer(random.Random(1).randbytes(rate), np.uint8) % (2 * _NOISE_PEAK + 1)  # numpy's takes 3 MB
        self._noise: Int16 = noise.astype(np.int16) - np.int16(_NOISE_PEAK)
        self._at = 0
        self.is_dead = False
        """True: deliver digital silence, as a switched-off microphone does."""
        self.is_plugged = True
        self.is_stalled = False

    def say(self, pcm: bytes) -> None:
        """Queue speech: PCM16 mono at 24 kHz, after what is already queued."""
        resampler = Resampler(WIRE_RATE, self._rate)
        self._queue.append(np.concatenate([resampler.process(from_bytes(pcm)), resampler.finish()]))

    @property
    def is_quiet(self) -> bool:
        """True once all queued speech was captured."""
        return not self._queue

    def hear(self, frames: int) -> Int16:
        """Return one captured period; called on the card's thread."""
        if self.is_dead:
            return np.zeros(frames, np.int16)
        start = self._at % (len(self._noise) - frames)
        self._at += frames
        block = self._noise[start : start + frames].copy()
        filled = 0
        while filled < frames and self._queue:
            speech = self._queue[0]
            count = min(frames - filled, len(speech))
            block[filled : filled + count] = speech[:count]
            filled += count
            if count == len(speech):
                self._queue.popleft()
            else:
                self._queue[0] = speech[count:]
        return block


class Loudspeaker:
    """The simulated loudspeaker: keeps each period that was played, with its time."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.is_plugged = True
        self.is_stalled = False
        self.frames = 0
        """Frames kept since the first sound, silence included."""
        self._periods: deque[tuple[float, Int16]] = deque()
        self._silence = cache(lambda frames: np.zeros(frames, np.int16))
        """One array for all silent periods: else the first sound would cost 17 MB of silence."""

    def take(self, at: float, block: Int16) -> None:
        """Keep one period; called on the card's thread. Silence before the first sound is not kept."""
        if not self._periods and not block.any():
            return
        self._periods.append((at, block.copy() if block.any() else self._silence(len(block))))
        self.frames += len(block)
        while self.frames > _KEPT_S * self.rate:
            self.frames -= len(self._periods.popleft()[1])

    @property
    def periods(self) -> list[tuple[float, Int16]]:
        """Monotonic seconds and samples of each kept period."""
        return list(self._periods)

    def recorded(self) -> Int16:
        """Return all kept samples as one array at `rate`, without trailing silence."""
        blocks = [block for _, block in list(self._periods)]
        while blocks and not blocks[-1].any():
            blocks.pop()
        return np.concatenate(blocks) if blocks else np.zeros(0, np.int16)

    def clear(self) -> None:
        self._periods.clear()
        self.frames = 0

    @property
    def has_sounded(self) -> bool:
        """True if anything but silence was played."""
        return peak(self.recorded()) > 0

    def save(self, path: Path) -> None:
        """Write a WAV file.

        Raises:
            StorageError: The file cannot be written.
        """
        try:
            # Not wave.open(path): if it cannot open the file, it leaves a half-initialised object behind.
            with path.open("wb") as file, wave.open(file, "wb") as out:
                out.setnchannels(1)
                out.setsampwidth(2)
                out.setframerate(self.rate)
                out.writeframes(self.recorded().astype("<i2").tobytes())
        except OSError as exc:
            raise StorageError(f"{path}: the recording cannot be written: {exc.strerror or exc}") from None


class _SimulatedStream:
    """One direction: a thread that calls `work` once per period until the stream is closed or unplugged."""

    def __init__(
        self, device: Microphone | Loudspeaker, rate: int, period: int, work: Callable[[float], None], *, name: str
    ) -> None:
        self.rate = rate
        self.period = period
        self.latency = period
        self.xruns = 0
        self.late_callbacks = 0
        self.last_callback_at = time.monotonic()
        self._device = device
        self._work = work
        self._is_open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def is_active(self) -> bool:
        return self._is_open and self._thread.is_alive()

    def close(self) -> None:
        self._is_open = False
        self._thread.join()

    def _run(self) -> None:
        period_s = self.period / self.rate
        # Both directions follow one clock, half a period apart: so their threads seldom wait for each other.
        phase_s = period_s / 2 if isinstance(self._device, Microphone) else 0.0
        due = (time.monotonic() // period_s + 1) * period_s + phase_s
        while True:
            time.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if now - due > period_s:
                self.late_callbacks += 1
                due = now
            due += period_s
            if not (self._is_open and self._device.is_plugged):
                return
            if not self._device.is_stalled:
                self._work(now)
                self.last_callback_at = now


class SimulatedBackend:
    """A card with a `Microphone` and a `Loudspeaker`; either can be unplugged or stalled."""

    def __init__(self, *, rate: int = 48_000, period_ms: int = 20) -> None:
        self.rate = rate
        self.period = rate * period_ms // 1000
        self.microphone = Microphone(rate)
        self.loudspeaker = Loudspeaker(rate)

    def open_capture(self, consume: Consume) -> _SimulatedStream:
        if not self.microphone.is_plugged:
            raise CardMissing("capture: the simulated microphone is unplugged; plug it in")

        def work(_: float) -> None:
            consume(self.microphone.hear(self.period))

        return _SimulatedStream(self.microphone, self.rate, self.period, work, name="simulated microphone")

    def open_playback(self, fill: Fill) -> _SimulatedStream:
        if not self.loudspeaker.is_plugged:
            raise CardMissing("playback: the simulated loudspeaker is unplugged; plug it in")
        block = np.zeros(self.period, np.int16)

        def work(now: float) -> None:
            fill(block)
            self.loudspeaker.take(now, block)

        return _SimulatedStream(self.loudspeaker, self.rate, self.period, work, name="simulated loudspeaker")

    def open_mixer(self) -> None:
        """Return None: all of the volume is set in software."""

    def look(self, direction: Direction) -> Presence:
        device = self.microphone if direction == "capture" else self.loudspeaker
        return "listed" if device.is_plugged else "absent"

    def reset(self) -> None:
        """Do nothing: no list of cards is cached, so the next opening finds a card that was plugged in."""

    close = reset
