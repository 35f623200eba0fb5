"""Capture and playback of one card on the loop: pumps over rings, losses as events.

Theory of operation
-------------------
*Playback*: `play` appends any amount of answer audio to a deque on the loop. The playback pump resamples it, applies
the volume and keeps the short ring (200 to 400 ms) filled; the card's callback empties the ring. The stream always
runs and plays zeros when the ring is empty, so that an amplifier does not cut off the first syllable.

*Capture*: the card's callback writes each period into the capture ring, which holds the longest turn. The capture pump
reads it, resamples to 24 kHz and posts 20 ms periods. While the network is stalled (`has_room` is False) the audio
waits in the ring.

*Frames heard*: at each period the callback records how far the ring was read. The frames heard are those read one
output latency ago. Each write records how many answer frames the ring has received so far. No clock is used.

*Losses*: PortAudio raises no error when a card disappears. A stream that is not active, or whose last callback is older
than `stall_s`, is lost: it is closed and `CardLost` is posted. A retry with backoff closes both directions (PortAudio
lists cards again only when no stream is open) and opens them again. Everything here runs on the loop, except the
callbacks and the opening and closing of streams, which block.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from appliance.audio import pcm
from appliance.audio.backends import Backend, Stream
from appliance.audio.earcons import earcon
from appliance.audio.pcm import WIRE_RATE
from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16, Ring
from appliance.conversation.commands import Earcon
from appliance.conversation.events import (
    AudioCaptured,
    CaptureOverrun,
    CardFound,
    CardLost,
    Direction,
    Event,
    PlayoutProgress,
)
from appliance.errors import AudioError

__all__ = ["AudioStreams", "Xruns"]

log = logging.getLogger(__name__)

PERIOD = WIRE_RATE // 50  # frames posted or written at once: 20 ms
_RETRY_S = (0.5, 1.0, 2.0, 5.0)
_CHECK_S = 0.25
_WAKE_MARGIN_S = 0.001  # after the time at which the next callback is due


@dataclass(frozen=True, slots=True)
class Xruns:
    """Counts of late and lost audio since the start."""

    capture_overruns: int = 0
    """Microphone frames dropped because the ring was full."""
    playback_underruns: int = 0
    """Periods that the ring could not fill although audio was queued: this machine was too slow."""
    answer_gaps: int = 0
    """Times that an answer paused because its audio had not arrived: the network was too slow."""
    late_periods: int = 0
    """Periods that the card itself reports as late or lost."""

    @property
    def total(self) -> int:
        return self.capture_overruns + self.playback_underruns + self.late_periods


class _Heard:
    """Counts the answer frames (24 kHz) heard so far, from the ring position read one output latency ago."""

    def __init__(self) -> None:
        self.positions = deque([0], maxlen=1)
        """Ring positions read at the last callbacks, the oldest one latency ago; the card's thread appends."""
        self._marks = deque([(0, 0)])
        """(ring position, answer frames of this epoch before it), from the last one heard to the last one written."""

    @property
    def written(self) -> int:
        return self._marks[-1][1]

    @property
    def is_all(self) -> bool:
        return len(self._marks) == 1

    def begin(self, position: int, answer_frames: int) -> None:
        """Restart the count at a ring position, with `answer_frames` already heard."""
        self._marks = deque([(position, answer_frames)])

    def wrote(self, position: int, answer_frames: int) -> None:
        """Record that the ring was filled up to a position with `answer_frames`; 0 for cues and announcements."""
        self._marks.append((position, self.written + answer_frames))

    def frames(self) -> int:
        position = self.positions[0]
        while len(self._marks) > 1 and self._marks[1][0] <= position:
            self._marks.popleft()
        start, heard = self._marks[0]
        if self.is_all or position <= start:
            return heard
        end, then = self._marks[1]
        return heard + int((position - start) / (end - start) * (then - heard))


class _Capture:
    """The microphone: callback → ring → pump → events."""

    def __init__(self, seconds: float, post: Callable[[Event], None], has_room: Callable[[], bool]) -> None:
        self._seconds = seconds
        self._post = post
        self._has_room = has_room
        self._reported = 0
        self.stream: Stream | None = None
        self.ring = Ring(1)
        self.overruns = 0
        self._resampler = Resampler(WIRE_RATE, WIRE_RATE)
        self._rest = np.zeros(0, np.int16)

    def open(self, backend: Backend) -> None:
        """Start the stream. Blocks."""
        ring = Ring(1)

        def consume(block: Int16) -> None:
            ring.write(block)

        stream = backend.open_capture(consume)
        # A ring of the right size needs the stream's rate. The periods before it, one or two, are lost.
        ring = Ring(int(self._seconds * stream.rate))
        self.ring = ring
        self._reported = 0
        self._resampler = Resampler(stream.rate, WIRE_RATE)
        self._rest = np.zeros(0, np.int16)
        self.stream = stream

    def pump(self) -> None:
        """Post the captured audio; called on the loop."""
        self._report_overruns()
        stream = self.stream
        if stream is None:
            return
        block = np.empty(stream.period, np.int16)
        while self.ring.available >= stream.period and self._has_room():
            self.ring.read_into(block)
            self._emit(self._resampler.process(block))

    def skip(self) -> None:
        """Drop audio that was captured but not posted; called on the loop, the ring's consumer."""
        self.ring.read = self.ring.written
        self._resampler.reset()
        self._rest = np.zeros(0, np.int16)

    def _emit(self, block: Int16) -> None:
        self._rest = np.concatenate([self._rest, block])
        while len(self._rest) >= PERIOD:
            period, self._rest = self._rest[:PERIOD], self._rest[PERIOD:]
            self._post(AudioCaptured(period.astype("<i2").tobytes(), pcm.peak(period), pcm.level_db(period)))

    def _report_overruns(self) -> None:
        lost = self.ring.overruns
        if lost > self._reported:
            frames = lost - self._reported
            self._reported = lost
            self.overruns += frames
            self._post(CaptureOverrun(frames))


class _Playback:
    """The loudspeaker: deque → pump → ring → callback."""

    def __init__(self, ring_ms: int, prebuffer_ms: int, post: Callable[[Event], None]) -> None:
        self._ring_ms = ring_ms
        self._prebuffer = prebuffer_ms * WIRE_RATE // 1000
        self._post = post
        self.stream: Stream | None = None
        self.gain = 1.0
        self.epoch = 0
        self.underruns = 0
        self.gaps = 0
        self.ring = Ring(1)
        self._resampler = Resampler(WIRE_RATE, WIRE_RATE)
        self._heard = _Heard()
        self._is_expecting = False
        self._queue: deque[tuple[bool, Int16]] = deque()
        """(is an answer, samples at 24 kHz), at most a period each."""
        self._waiting_answer = 0
        """Answer frames in the queue."""
        self._held_back = 0
        """Answer frames that the resampler took without output so far."""
        self._posted: tuple[int, bool] | None = None
        self._is_primed = False
        self._is_finished = True
        self.has_work = asyncio.Event()

    def open(self, backend: Backend) -> None:
        """Start the stream. Blocks. Audio in the ring of a lost stream is dropped."""
        ring: Ring | None = None

        def fill(block: Int16) -> None:
            if ring is None:
                block[:] = 0
                return
            got = ring.read_into(block)
            if got < len(block) and self._is_expecting:
                self.underruns += 1
            positions.append(ring.read)

        stream = backend.open_playback(fill)
        delay = -(-stream.latency // stream.period)
        self._heard.positions = positions = deque([0] * (delay + 1), maxlen=delay + 1)
        self._heard.begin(0, self._heard.written + self._held_back)
        self._held_back = 0
        self._resampler = Resampler(WIRE_RATE, stream.rate)
        self.ring = ring = Ring(self._ring_ms * stream.rate // 1000)
        self.stream = stream

    # --- commands -----------------------------------------------------------------------------------------------

    def queue(self, epoch: int, samples: Int16, *, is_answer: bool) -> None:
        if epoch != self.epoch or not len(samples):
            return
        for start in range(0, len(samples), PERIOD):
            self._queue.append((is_answer, samples[start : start + PERIOD]))
        if is_answer:
            self._waiting_answer += len(samples)
            self._is_finished = False
            self._posted = None
        self.has_work.set()
        self.pump()

    def finish(self, epoch: int) -> None:
        if epoch == self.epoch:
            self._is_finished = True
            self.has_work.set()
            self.pump()

    def flush(self, epoch: int) -> None:
        self._queue.clear()
        self._is_expecting = False
        self.ring.flush()
        self._resampler.reset()
        self._heard.begin(self.ring.written, 0)
        self._waiting_answer = self._held_back = 0
        self._is_primed = False
        self._is_finished = True
        self._posted = None
        self.epoch = epoch

    # --- the pump -----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Fill the ring and post the progress."""
        if self.stream is None:
            return
        self._fill_ring(self.stream)
        self._post_progress()

    def _fill_ring(self, stream: Stream) -> None:
        is_enough = self._is_primed or self._is_finished or self._waiting_answer >= self._prebuffer
        if self._waiting_answer and not is_enough:
            return  # prebuffer first: an answer started now would stutter
        self._is_primed = bool(self._queue)
        longest = PERIOD * stream.rate // WIRE_RATE + stream.period  # a period plus the resampler's delayed output
        while self._queue and self.ring.room >= 2 * longest:
            is_answer, samples = self._queue.popleft()
            self._write(self._resampler.process(samples), len(samples) if is_answer else 0)
        if self._is_finished and not self._queue and self._resampler.is_holding and self.ring.room >= longest:
            self._write(self._resampler.finish(), 0, is_end=True)  # else the tail would play before the next answer
        self._is_primed = bool(self._queue) or (self._is_primed and not self._is_finished)
        self._is_expecting = bool(self._queue)

    def _write(self, samples: Int16, answer_frames: int, *, is_end: bool = False) -> None:
        self._waiting_answer -= answer_frames
        self._held_back += answer_frames
        if not len(samples) and not is_end:
            return  # still inside the resampler: it is output with the next block
        self.ring.write(pcm.gain(samples, self.gain))
        self._heard.wrote(self.ring.written, self._held_back)
        self._held_back = 0

    def _post_progress(self) -> None:
        heard = self._heard.frames()
        is_drained = not (self._waiting_answer or self._held_back) and heard >= self._heard.written
        progress = (heard, is_drained)
        if self._heard.written and progress != self._posted:
            self._posted = progress
            self.gaps += is_drained and not self._is_finished
            self._post(PlayoutProgress(self.epoch, heard, is_drained))
        if not self._queue and self._heard.is_all:
            self.has_work.clear()


class AudioStreams:
    """The appliance's microphone and loudspeaker; either may be missing, and is reopened when it returns."""

    def __init__(
        self,
        backend: Backend,
        *,
        post: Callable[[Event], None],
        capture_ring_s: float,
        playback_ring_ms: int,
        prebuffer_ms: int,
        has_room: Callable[[], bool] = lambda: True,
        stall_s: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the streams; no card is opened before `run`.

        Args:
            backend: Opens the streams.
            post: Takes events; called on the loop's thread.
            capture_ring_s: Size of the capture ring: the longest stall that loses no audio.
            playback_ring_ms: Size of the playback ring, between the loop and the card.
            prebuffer_ms: Answer audio queued before its first sample is played.
            has_room: Returns False while the network is stalled; captured audio then waits in the ring.
            stall_s: A stream without a callback for longer than this is lost.
            clock: Monotonic seconds.
        """
        self._backend = backend
        self._post = post
        self._stall_s = stall_s
        self._clock = clock
        self._capture = _Capture(capture_ring_s, post, has_room)
        self._playback = _Playback(playback_ring_ms, prebuffer_ms, post)
        self._halves: dict[Direction, _Capture | _Playback] = {"capture": self._capture, "playback": self._playback}
        self._is_capture_wanted = True
        self._lost: dict[Direction, str] = {}
        self._attempts = 0
        self._changed = asyncio.Event()
        self._late = 0
        self._volume = 100
        self.earcon_volume = 100
        """Loudness of the cues, 0 to 100 percent of the volume."""
        self._was_tried = asyncio.Event()

    # --- the driver's commands ----------------------------------------------------------------------------------

    def play(self, epoch: int, item_id: str, pcm16: bytes) -> None:
        """Queue answer audio (PCM16 mono, 24 kHz); drop it unless `epoch` is the current one."""
        self._playback.queue(epoch, pcm.from_bytes(pcm16), is_answer=True)

    def finish(self, epoch: int) -> None:
        """Mark the answer's audio as complete, and play out its tail."""
        self._playback.finish(epoch)

    def flush(self, epoch: int) -> None:
        """Fade to silence within one period, drop what is queued, and start `epoch`."""
        self._playback.flush(epoch)

    def earcon(self, epoch: int, name: Earcon) -> None:
        """Queue a cue, as loud as `earcon_volume` says; an alarm has the full volume."""
        gain = 1.0 if name == "alarm" else pcm.volume_gain(self.earcon_volume)
        self._playback.queue(epoch, pcm.gain(pcm.from_bytes(earcon(name)), gain), is_answer=False)

    def say(self, epoch: int, pcm16: bytes) -> None:
        """Queue an announcement (PCM16 mono, 24 kHz); it does not count as answer audio."""
        self._playback.queue(epoch, pcm.from_bytes(pcm16), is_answer=False)

    def open_capture(self) -> None:
        """Open the microphone unless it is open; audio captured since `close_capture` is dropped."""
        if not self._is_capture_wanted:
            self._capture.skip()
        self._is_capture_wanted = True
        self._changed.set()

    def close_capture(self) -> None:
        """Close the microphone; none of its audio is posted after this."""
        self._is_capture_wanted = False
        self._changed.set()

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def volume(self) -> int:
        """0 (silence) to 100 (unchanged), in even steps of dB."""
        return self._volume

    @volume.setter
    def volume(self, percent: int) -> None:
        self._volume = min(max(int(percent), 0), 100)
        self._playback.gain = pcm.volume_gain(self._volume)

    @property
    def xruns(self) -> Xruns:
        """Counts of late and lost audio so far."""
        late = self._late + sum(stream.xruns for _, stream in self._open_streams())
        return Xruns(self._capture.overruns, self._playback.underruns, self._playback.gaps, late)

    @property
    def heartbeat_age_s(self) -> float:
        """Seconds since the older of the streams' last callbacks; 0 while none is open."""
        now = self._clock()
        return max((now - stream.last_callback_at for _, stream in self._open_streams()), default=0.0)

    async def opened(self) -> None:
        """Wait for the first attempt to open the cards, successful or not."""
        await self._was_tried.wait()

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open the card and pump audio until cancelled; then close it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._supervise(), name="cards")
                group.create_task(self._pump_capture(), name="capture pump")
                group.create_task(self._pump_playback(), name="playback pump")
        finally:
            for half in self._halves.values():
                self._close(half)
            self._backend.close()

    async def _pump_capture(self) -> None:
        while True:
            if self._is_capture_wanted:
                self._capture.pump()
            await asyncio.sleep(self._until_callback(self._capture.stream))

    async def _pump_playback(self) -> None:
        while True:
            await self._playback.has_work.wait()
            self._playback.pump()
            await asyncio.sleep(self._until_callback(self._playback.stream))

    def _until_callback(self, stream: Stream | None) -> float:
        """Return the seconds until just after the next callback is due: one wake-up per period, little latency."""
        if stream is None:
            return 0.1
        period_s = stream.period / stream.rate
        due = stream.last_callback_at + period_s + _WAKE_MARGIN_S - self._clock()
        return min(max(due, 0.002), period_s)

    async def _supervise(self) -> None:
        while True:
            self._changed.clear()
            if not self._was_tried.is_set():
                await self._reopen()
            elif self._is_capture_wanted and self._capture.stream is None and "capture" not in self._lost:
                await self._try_open("capture")
            elif not self._is_capture_wanted and self._capture.stream is not None:
                await asyncio.to_thread(self._close, self._capture)
            else:
                await self._drop_losses()
                if self._is_retry_due():
                    await self._reopen()
            self._was_tried.set()
            pause_s = _RETRY_S[min(self._attempts, len(_RETRY_S) - 1)] if self._lost else _CHECK_S
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    def _is_retry_due(self) -> bool:
        """True if a wanted card is lost and nothing is playing: a retry closes the other stream too."""
        wanted = set(self._lost) - (set() if self._is_capture_wanted else {"capture"})
        is_speaking = self._playback.stream is not None and self._playback.has_work.is_set()
        return bool(wanted) and not is_speaking

    def _open_streams(self) -> list[tuple[Direction, Stream]]:
        return [(direction, half.stream) for direction, half in self._halves.items() if half.stream is not None]

    async def _drop_losses(self) -> None:
        """Report and close every lost stream; the other one keeps running."""
        now = self._clock()
        for direction, stream in self._open_streams():
            age = now - stream.last_callback_at
            if not stream.is_active:
                self._post_lost(direction, "the card stopped: was it unplugged?")
            elif age > self._stall_s:
                self._post_lost(direction, f"no audio for {age:.1f} s: the card or the sound server hangs")
            else:
                continue
            await asyncio.to_thread(self._close, self._halves[direction])

    def _post_lost(self, direction: Direction, reason: str) -> None:
        if direction not in self._lost:
            log.warning("%s: %s", direction, reason)
            self._post(CardLost(direction, reason))
        self._lost[direction] = reason

    async def _reopen(self) -> None:
        """Close both streams, list the cards again, and open those found."""
        for half in self._halves.values():
            await asyncio.to_thread(self._close, half)
        await asyncio.to_thread(self._backend.reset)
        self._attempts += 1
        await self._try_open("playback")
        if self._is_capture_wanted:
            await self._try_open("capture")
        if not self._lost:
            self._attempts = 0

    async def _try_open(self, direction: Direction) -> None:
        try:
            await asyncio.to_thread(self._halves[direction].open, self._backend)
        except AudioError as exc:
            self._post_lost(direction, str(exc))
            return
        if self._lost.pop(direction, None) is not None:
            log.info("%s: the card is back", direction)
            self._post(CardFound(direction))

    def _close(self, half: _Capture | _Playback) -> None:
        """Close one direction if it is open. Blocks."""
        stream, half.stream = half.stream, None
        if stream is not None:
            self._late += stream.xruns
            stream.close()
