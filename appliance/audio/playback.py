"""The loudspeaker: deque → pump → ring → callback; and the count of the frames that were heard."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from appliance.audio import pcm
from appliance.audio.backends import Backend, Stream
from appliance.audio.drift import Drift
from appliance.audio.loudness import Loudness
from appliance.audio.pcm import WIRE_RATE
from appliance.audio.prebuffer import Prebuffer
from appliance.audio.resample import Resampler
from appliance.audio.ring import Int16, Ring
from appliance.conversation.events import Event, PlayoutProgress

__all__ = ["PlaybackPump"]

_FRAMES_PER_MS = WIRE_RATE // 1000
_PERIOD = 20 * _FRAMES_PER_MS  # written at once


class _Heard:
    """Counts the answer frames (24 kHz) heard so far, from the ring position read one output latency ago."""

    def __init__(self) -> None:
        self.positions = deque([0], maxlen=1)
        """Ring positions read at the last callbacks, the oldest one latency ago; the card's thread appends."""
        self._marks = deque([(0, 0)])
        """(ring position, answer frames of this epoch before it), from the last one heard to the last one written."""
        self.tail = 0
        """Ring position behind what the resampler gave out at the end of the last answer: its last frames."""

    @property
    def written(self) -> int:
        return self._marks[-1][1]

    @property
    def is_all(self) -> bool:
        return len(self._marks) == 1

    def begin(self, position: int, answer_frames: int) -> None:
        """Restart the count at a ring position, with `answer_frames` already heard."""
        self._marks = deque([(position, answer_frames)])
        self.tail = position

    def wrote(self, position: int, answer_frames: int) -> None:
        """Record that the ring was filled up to a position with `answer_frames`; 0 for cues and announcements."""
        self._marks.append((position, self.written + answer_frames))

    @property
    def is_tail_heard(self) -> bool:
        return self.positions[0] >= self.tail

    def frames(self) -> int:
        position = self.positions[0]
        while len(self._marks) > 1 and self._marks[1][0] <= position:
            self._marks.popleft()
        start, heard = self._marks[0]
        if self.is_all or position <= start:
            return heard
        end, then = self._marks[1]
        return heard + int((position - start) / (end - start) * (then - heard))


class PlaybackPump:
    """Plays what is queued, and posts how much was heard."""

    def __init__(self, ring_ms: int, prebuffer: Prebuffer, loudness: Loudness, post: Callable[[Event], None]) -> None:
        self._ring_ms = ring_ms
        self._loudness = loudness
        self._prebuffer = prebuffer
        self._post = post
        self.stream: Stream | None = None
        self.has_called = False
        """The stream has had a callback; set on the card's thread."""
        self._is_capped = True
        """The sound that was written last is capped."""
        self.epoch = 0
        self.underruns = 0
        self.gaps = 0
        self.ring = Ring(1)
        self._resampler = Resampler(WIRE_RATE, WIRE_RATE)
        self._heard = _Heard()
        self._drift = Drift()
        self._looked_at = 0
        """Ring position at the last look at the depth."""
        self._is_expecting = False
        self._queue: deque[tuple[bool, bool, Int16]] = deque()
        """(is an answer, is capped, samples at 24 kHz), at most a period each."""
        self._waiting_answer = 0
        """Answer frames in the queue."""
        self._held_back = 0
        """Answer frames that the resampler took without output so far."""
        self._posted: tuple[int, bool] | None = None
        self._is_primed = False
        """The answer has begun to play, and goes on without a pre-buffer."""
        self._is_paused = False
        """The ring ran empty within the answer."""
        self._is_finished = True
        self.has_work = asyncio.Event()

    def open(self, backend: Backend) -> None:
        """Start the stream. Blocks. Audio in the ring of a lost stream is dropped."""
        ring: Ring | None = None

        def fill(block: Int16) -> bool:
            self.has_called = True
            if ring is None:
                block[:] = 0
                return False
            got = ring.read_into(block)
            if got < len(block) and self._is_expecting:
                self.underruns += 1
            positions.append(ring.read)
            return got > 0

        self.has_called = False
        stream = backend.open_playback(fill)
        delay = -(-stream.latency // stream.period)
        self._heard.positions = positions = deque([0] * (delay + 1), maxlen=delay + 1)
        self._heard.begin(0, self._heard.written + self._held_back)
        self._held_back = 0
        self._resampler = Resampler(WIRE_RATE, stream.rate)
        self._drift.reset()
        self._looked_at = 0
        self.ring = ring = Ring(self._ring_ms * stream.rate // 1000)
        self.stream = stream

    # --- commands -----------------------------------------------------------------------------------------------

    def queue(self, epoch: int, samples: Int16, *, is_answer: bool, is_capped: bool = True) -> None:
        if epoch != self.epoch or not len(samples):
            return
        self._note_pause()
        for start in range(0, len(samples), _PERIOD):
            self._queue.append((is_answer, is_capped, samples[start : start + _PERIOD]))
        if is_answer:
            if self._is_paused:
                self._is_paused = False
                self._drift.reset()
                self.gaps += 1
                self._prebuffer.answer_paused()
            if self._is_finished:
                self._drift.reset()
            self._waiting_answer += len(samples)
            self._is_finished = False
            self._posted = None
        self.has_work.set()
        self.pump()

    def finish(self, epoch: int) -> None:
        if epoch == self.epoch:
            if not self._is_finished:
                self._prebuffer.answer_ended()
            self._is_finished = True
            self._is_paused = False
            self.has_work.set()
            self.pump()

    def flush(self, epoch: int) -> None:
        self._queue.clear()
        self._is_expecting = False
        self.ring.flush()
        self._resampler.reset()
        self._heard.begin(self.ring.written, 0)
        self._waiting_answer = self._held_back = 0
        self._is_primed = self._is_paused = False
        self._is_finished = True
        self._posted = None
        self.epoch = epoch

    # --- the pump -----------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Fill the ring and post the progress."""
        if self.stream is None:
            return
        self._note_pause()
        self._look_at_depth(self.stream)
        self._fill_ring(self.stream)
        self._post_progress()

    def _look_at_depth(self, stream: Stream) -> None:
        """Report to `Drift` how much waits while an answer plays and more of it comes."""
        waiting, read = self.ring.available, self.ring.read
        if self._is_primed and not self._is_finished:
            depth = self._waiting_answer + self._held_back + waiting * WIRE_RATE // stream.rate
            self._drift.look(depth, (read - self._looked_at) * WIRE_RATE // stream.rate)
        self._looked_at = read

    def _note_pause(self) -> None:
        """Require a new pre-buffer if the ring ran empty within the answer."""
        is_empty = not (self._queue or self._held_back or self.ring.available)
        if self._is_primed and is_empty and not self._is_finished:
            self._is_primed, self._is_paused = False, True

    def _fill_ring(self, stream: Stream) -> None:
        is_enough = self._is_primed or self._is_finished or self._waiting_answer >= self._prebuffer.ms * _FRAMES_PER_MS
        if self._waiting_answer and not is_enough:
            return  # prebuffer first: an answer started now would stutter
        self._is_primed |= self._waiting_answer > 0
        longest = _PERIOD * stream.rate // WIRE_RATE + stream.period  # a period plus the resampler's delayed output
        while self._queue and self.ring.room >= 2 * longest:
            is_answer, self._is_capped, samples = self._queue.popleft()
            steered = self._drift.steer(samples) if is_answer else samples
            self._write(self._resampler.process(steered), len(samples) if is_answer else 0)
        if self._is_finished and not self._queue and self._resampler.is_holding and self.ring.room >= longest:
            self._write(self._resampler.finish(), 0, is_end=True)  # else the tail would play before the next answer
        self._is_primed &= bool(self._queue) or not self._is_finished
        self._is_expecting = bool(self._queue)

    def _write(self, samples: Int16, answer_frames: int, *, is_end: bool = False) -> None:
        self._waiting_answer -= answer_frames
        self._held_back += answer_frames
        if not len(samples) and not is_end:
            return  # still inside the resampler: it is output with the next block
        self.ring.write(pcm.gain(samples, self._loudness.factor(is_capped=self._is_capped)))
        self._heard.wrote(self.ring.written, self._held_back)
        self._held_back = 0
        if is_end:
            self._heard.tail = self.ring.written

    def _post_progress(self) -> None:
        heard = self._heard.frames()
        is_all = not (self._waiting_answer or self._held_back) and heard >= self._heard.written
        is_drained = is_all and self._heard.is_tail_heard
        progress = (heard, is_drained)
        if self._heard.written and progress != self._posted:
            self._posted = progress
            self._post(PlayoutProgress(self.epoch, heard, is_drained))
        if not self._queue and self._heard.is_all:
            self.has_work.clear()
