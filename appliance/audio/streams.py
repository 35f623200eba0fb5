"""Capture and playback of one card on the loop: pumps over rings, losses as events.

Theory of operation
-------------------
*Playback*: `play` appends any amount of answer audio to a deque on the loop. The playback pump resamples it, applies
the volume and keeps the short ring (200 to 400 ms) filled; the card's callback empties the ring. The stream always
runs and plays zeros when the ring is empty, so that an amplifier does not cut off the first syllable.

*Capture*: the card's callback writes each period into the capture ring. While somebody listens (`listen`), the capture
pump reads it, resamples to 24 kHz and posts 20 ms periods; at rest it only drops what is older than the pre-roll.

*Frames heard*: at each period the callback records how far the ring was read. The frames heard are those read one
output latency ago. Each write records how many answer frames the ring has received so far. No clock is used.

*Losses*: PortAudio raises no error when a card disappears. A stream is lost if it is not active, if its card is not in
the kernel's list (read when the kernel reports a change, and when no callback came for 100 ms), or if no callback came
for `stall_s`. It is closed, `CardLost` is posted, and it is opened again with a backoff, at once when the kernel
reports a card. `CardFound` follows at the first callback: a card that hangs can be opened. The other direction keeps
running. Only a card that was absent when the cards were listed needs a new list, for which both directions are closed;
this waits for the end of an answer. The output is also closed after
`idle_after_s` without sound; what is queued meanwhile waits in the deque until it is open. Everything here runs on the
loop, except the callbacks, and what blocks: it runs on one thread, the only one for which PortAudio keeps ALSA's error
texts.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from appliance.audio import pcm
from appliance.audio.backends import Backend, Stream
from appliance.audio.capture import CapturePump
from appliance.audio.card_events import CardEvents
from appliance.audio.earcons import earcon
from appliance.audio.loudness import Loudness
from appliance.audio.playback import PlaybackPump
from appliance.audio.prebuffer import Prebuffer
from appliance.conversation.commands import Earcon
from appliance.conversation.events import CardFound, CardLost, Direction, Event
from appliance.errors import AudioError

__all__ = ["AudioStreams", "Xruns"]

log = logging.getLogger(__name__)

T = TypeVar("T")

_RETRY_S = (0.5, 1.0, 2.0, 5.0)
_SUSPECT_S = 0.1  # without a callback for longer, a card may be gone
_WAKE_MARGIN_S = 0.001  # after the time at which the next callback is due
_REST_S = 0.25  # between two looks at the cards while nobody listens; much less than the capture ring holds


@dataclass(frozen=True, slots=True)
class Xruns:
    """Counts of late and lost audio since the start."""

    capture_overruns: int = 0
    """Microphone frames dropped because the ring was full."""
    playback_underruns: int = 0
    """Periods that the ring could not fill although audio was queued: this machine was too slow."""
    answer_gaps: int = 0
    """Times that an answer paused because its audio had not arrived: the network was too slow."""
    late_callbacks: int = 0
    """Periods lost because a callback of the card ran too late: this machine was too slow."""
    lost_periods: int = 0
    """Periods that the card itself lost, as far as it reports them."""

    @property
    def causes(self) -> dict[str, int]:
        """Xruns by cause: the network paused an answer, this program was late, the card lost a period."""
        program = self.playback_underruns + self.late_callbacks
        return {"network": self.answer_gaps, "program": program, "card": self.lost_periods}

    @property
    def total(self) -> int:
        return self.capture_overruns + self.playback_underruns + self.late_callbacks + self.lost_periods


class AudioStreams:
    """The appliance's microphone and loudspeaker; either may be missing, and is reopened when it returns."""

    def __init__(
        self,
        backend: Backend,
        *,
        post: Callable[[Event], None],
        pre_roll_s: float,
        max_turn_s: float,
        playback_ring_ms: int,
        prebuffer_ms: int,
        max_prebuffer_ms: int = 0,
        idle_after_s: float = 0.0,
        loudest: Callable[[], int] = lambda: 100,
        are_alarms_capped: bool = True,
        has_room: Callable[[], bool] = lambda: True,
        stall_s: float = 0.3,
        card_events: CardEvents | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the streams; no card is opened before `run`.

        Args:
            backend: Opens the streams.
            post: Takes events; called on the loop's thread.
            pre_roll_s: Sound from before a press that is posted at the press.
            max_turn_s: Captured sound that waits for `has_room` at most: the longest stall that loses no audio.
            playback_ring_ms: Size of the playback ring, between the loop and the card.
            prebuffer_ms: Answer audio queued before its first sample is played.
            max_prebuffer_ms: The most of it, after pauses of the network; 0 to keep it as it is.
            idle_after_s: The output is closed after so long without sound; 0 to keep it open.
            loudest: Returns the highest volume now, 0 to 100, whatever `volume` says.
            are_alarms_capped: `loudest` is for alarms too.
            has_room: Returns False while the network is stalled; captured audio then waits.
            stall_s: A stream without a callback for longer than this is lost.
            card_events: Reports that the kernel's cards changed; None to find losses without it.
            clock: Monotonic seconds.
        """
        self._backend = backend
        self._post = post
        self._stall_s = stall_s
        self._clock = clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cards")
        self._loudness = Loudness(self._thread, loudest)
        self._capture = CapturePump(pre_roll_s=pre_roll_s, max_turn_s=max_turn_s, post=post, has_room=has_room)
        self._listening = asyncio.Event()
        prebuffer = Prebuffer(prebuffer_ms, max_prebuffer_ms)
        self._playback = PlaybackPump(playback_ring_ms, prebuffer, self._loudness, post)
        self.are_alarms_capped = are_alarms_capped
        """`loudest` is for alarms too."""
        self._halves: dict[Direction, CapturePump | PlaybackPump] = {
            "playback": self._playback,
            "capture": self._capture,
        }
        self._is_capture_wanted = True
        self._idle_after_s = idle_after_s
        self._is_output_idle = False
        self._lost: dict[Direction, str] = {}
        self._attempts = 0
        self._suspects: dict[Direction, tuple[float, float]] = {}
        """Time of the last callback of a late stream, and when it was found late."""
        self._card_events = card_events
        self._has_news = False
        self._changed = asyncio.Event()
        self._late = self._lost_periods = 0
        """Xruns of the streams that are closed."""
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
        is_alarm = name == "alarm"
        samples = pcm.gain(pcm.from_bytes(earcon(name)), 1.0 if is_alarm else pcm.volume_gain(self.earcon_volume))
        is_capped = self.are_alarms_capped or not is_alarm
        self._playback.queue(epoch, samples, is_answer=False, is_capped=is_capped)

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

    def listen(self, since: float | None) -> None:
        """Post the microphone's audio from its pre-roll before `since` on, or keep it to itself for None.

        Args:
            since: When the button went down, monotonic seconds; ``inf`` to post no earlier sound.
        """
        self._capture.listen(since)
        if since is None:
            self._listening.clear()
        else:
            self._listening.set()

    # --- state --------------------------------------------------------------------------------------------------

    @property
    def is_hearing(self) -> bool:
        """The microphone is open, and sound has come from it."""
        return len(self._capture.newest()) > 0

    @property
    def microphone_db(self) -> float:
        """RMS of the microphone's newest period in dBFS, at least -96; for level meters."""
        return pcm.level_db(self._capture.newest())

    @property
    def volume(self) -> int:
        """0 (silence) to 100 (unchanged), in even steps of dB; never above what `loudest` returns now."""
        return self._loudness.percent

    @volume.setter
    def volume(self, percent: int) -> None:
        self._loudness.percent = percent

    @property
    def xruns(self) -> Xruns:
        """Counts of late and lost audio so far."""
        late = self._late + sum(stream.late_callbacks for _, stream in self._open_streams())
        lost = self._lost_periods + sum(stream.xruns for _, stream in self._open_streams())
        return Xruns(self._capture.overruns, self._playback.underruns, self._playback.gaps, late, lost)

    @property
    def callback_ages_s(self) -> dict[Direction, float]:
        """Seconds since the last callback of each open stream."""
        now = self._clock()
        return {direction: now - stream.last_callback_at for direction, stream in self._open_streams()}

    async def opened(self) -> None:
        """Wait for the first attempt to open the cards, successful or not."""
        await self._was_tried.wait()

    # --- running ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Open the card and pump audio until cancelled; then close it."""
        try:
            if self._card_events is not None:
                self._card_events.open(self._take_news)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._supervise(), name="cards")
                group.create_task(self._loudness.run(), name="volume")
                group.create_task(self._pump_capture(), name="capture pump")
                group.create_task(self._pump_playback(), name="playback pump")
        finally:
            if self._card_events is not None:
                self._card_events.close()
            self._thread.shutdown(cancel_futures=True)
            for _, stream in self._open_streams():
                self._close(stream)
            self._backend.close()

    def _take_news(self) -> None:
        """Look at the cards now: the kernel reported that one came or went."""
        self._has_news = True
        self._attempts = 0
        self._changed.set()

    async def _pump_capture(self) -> None:
        while True:
            if self._is_capture_wanted:
                self._capture.pump()
            self._suspect_stalls()
            if self._capture.is_listening:
                await asyncio.sleep(_until_callback(self._capture.stream, self._clock()))
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(_REST_S):
                    await self._listening.wait()

    async def _pump_playback(self) -> None:
        while True:
            await self._wait_for_sound()
            self._playback.pump()
            await asyncio.sleep(_until_callback(self._playback.stream, self._clock()))

    async def _wait_for_sound(self) -> None:
        """Return once sound is queued; the output is closed if none comes for long, and then opened again."""
        has_work = self._playback.has_work
        with suppress(TimeoutError):
            async with asyncio.timeout(self._idle_after_s or None):
                await has_work.wait()
                return
        self._is_output_idle = True
        self._changed.set()
        await has_work.wait()
        self._is_output_idle = False
        self._changed.set()

    async def _supervise(self) -> None:
        while True:
            self._changed.clear()
            for direction in self._halves:
                await self._keep(direction)
            self._has_news = False
            self._was_tried.set()
            is_retrying = any(self._is_wanted(direction) for direction in self._lost)
            pause_s = _RETRY_S[min(self._attempts, len(_RETRY_S) - 1)] if is_retrying else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._changed.wait()

    async def _keep(self, direction: Direction) -> None:
        """Bring one direction to the wanted state: closed, or open and running."""
        half = self._halves[direction]
        if not self._is_wanted(direction):
            await self._shut(half)
        elif half.stream is None:
            await self._try_open(direction)
        elif reason := await self._loss(direction, half.stream):
            self._post_lost(direction, reason)
            await self._shut(half)
            self._attempts = 0
            await self._try_open(direction)
        elif half.has_called:
            self._post_found(direction)

    def _is_wanted(self, direction: Direction) -> bool:
        if direction == "capture":
            return self._is_capture_wanted
        return not self._is_output_idle or direction in self._lost  # a lost card is reported until it is back

    def _open_streams(self) -> list[tuple[Direction, Stream]]:
        return [(direction, half.stream) for direction, half in self._halves.items() if half.stream is not None]

    def _suspect_stalls(self) -> None:
        """Wake the supervisor if a stream stopped, missed several callbacks, or had its first one after a loss."""
        now = self._clock()
        for direction, stream in self._open_streams():
            is_late = now - stream.last_callback_at > _SUSPECT_S
            if is_late or not stream.is_active or (direction in self._lost and self._halves[direction].has_called):
                self._changed.set()

    async def _loss(self, direction: Direction, stream: Stream) -> str:
        """Return why an open stream is lost, or ""."""
        if not stream.is_active:
            return "the card stopped: was it unplugged?"
        now, last = self._clock(), stream.last_callback_at
        is_late = now - last > _SUSPECT_S
        if (is_late or self._has_news) and await self._blocking(self._backend.look, direction) == "absent":
            return "the card was unplugged"
        if not is_late:
            return ""
        suspected, since = self._suspects.get(direction, (0.0, 0.0))
        if suspected != last:  # the loop itself may have been stopped: give the callback time to run
            suspected, since = self._suspects[direction] = last, now
        if now - since < self._stall_s - _SUSPECT_S:
            return ""
        return f"no audio for {now - last:.1f} s: the card or the sound server hangs"

    def _post_lost(self, direction: Direction, reason: str) -> None:
        """Report a loss once, and log each new reason, such as the program that holds the card when it is back."""
        if direction not in self._lost:
            self._post(CardLost(direction, reason))
        if self._lost.get(direction) != reason:
            log.warning("%s: %s", direction, reason.removeprefix(f"{direction}: "))
        self._lost[direction] = reason

    def _post_found(self, direction: Direction) -> None:
        """Report a card that was lost, once it has called: one that hangs can be opened, too."""
        if self._lost.pop(direction, None) is not None:
            self._attempts = 0
            log.info("%s: the card is back", direction)
            self._post(CardFound(direction))

    async def _try_open(self, direction: Direction) -> None:
        """Open one direction if its card is there; list the cards again if that is needed and nothing plays."""
        presence = await self._blocking(self._backend.look, direction)
        if direction in self._lost:
            self._attempts += 1
            if presence == "absent":
                return
        if presence != "unlisted":
            await self._open(direction)
        elif not (self._playback.stream is not None and self._playback.has_work.is_set()):
            for half in self._halves.values():
                await self._shut(half)
            await self._blocking(self._backend.reset)
            for one in self._halves:
                if self._is_wanted(one):
                    await self._open(one)

    async def _open(self, direction: Direction) -> None:
        if direction == "playback":
            await self._loudness.begin(self._backend.open_mixer)
        try:
            await self._blocking(self._halves[direction].open, self._backend)
        except AudioError as exc:
            self._post_lost(direction, str(exc))
            return
        if direction == "playback":
            self._playback.pump()  # what was queued while it was closed

    async def _blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(work, *arguments))

    async def _shut(self, half: CapturePump | PlaybackPump) -> None:
        """Close one direction if it is open. Its ring gets no sound from now on: that would be lost."""
        stream, half.stream = half.stream, None
        if half is self._playback:
            self._loudness.end()
        if stream is not None:
            try:
                await self._blocking(self._close, stream)
            finally:
                stream.close()  # if this was cancelled before the thread began

    def _close(self, stream: Stream) -> None:
        """Close a stream and keep its counts. Blocks."""
        self._late += stream.late_callbacks
        self._lost_periods += stream.xruns
        stream.close()


def _until_callback(stream: Stream | None, now: float) -> float:
    """Return the seconds until just after the next callback is due: one wake-up per period, little latency."""
    if stream is None:
        return 0.1
    period_s = stream.period / stream.rate
    return min(max(stream.last_callback_at + period_s + _WAKE_MARGIN_S - now, 0.002), period_s)
