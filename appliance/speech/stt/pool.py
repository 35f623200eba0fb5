"""Several recognisers behind one interface: each processes one utterance at a time, and the others wait in a queue."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from appliance.errors import SpeechBusy
from appliance.speech.stages import SpeechToText, Transcript

__all__ = ["RecogniserPool"]

_MAX_WAIT_S = 30.0  # a speaker has given up by then
_MAX_WAITING = 32  # utterances per recogniser; each holds its audio


class RecogniserPool:
    """A `stages.SpeechToText` over engines of the same kind. On the event loop's thread only.

    Args:
        engines: At least one.
        max_wait_s: How long an utterance may wait for an engine.
        max_waiting: Utterances that may wait, beside those that find an engine idle; None allows 32 per engine.
    """

    def __init__(
        self, engines: Sequence[SpeechToText], *, max_wait_s: float = _MAX_WAIT_S, max_waiting: int | None = None
    ) -> None:
        self._engines = tuple(engines)
        self._idle = list(reversed(engines))
        self._max_wait_s = max_wait_s
        self._max_waiting = _MAX_WAITING * len(engines) if max_waiting is None else max_waiting
        self._free = asyncio.Semaphore(len(engines))
        self._waiting = 0
        self._running: set[asyncio.Future[Transcript]] = set()

    def __repr__(self) -> str:
        return f"<RecogniserPool {len(self._engines)} engines, {self._waiting} utterances waiting>"

    async def warm_up(self) -> None:
        """Load the models of all engines; see `SpeechToText`."""
        loads = [load for one in self._engines if (load := getattr(one, "warm_up", None)) is not None]
        await asyncio.gather(*(load() for load in loads))

    def close(self) -> None:
        """Close all engines."""
        for one in self._engines:
            if (close := getattr(one, "close", None)) is not None:
                close()

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `stages.SpeechToText.transcribe`.

        Raises:
            SpeechBusy: Too many utterances wait, or this one has waited too long.
            SpeechError: The engine failed.
        """
        if not self._idle and self._waiting >= self._max_waiting:
            raise SpeechBusy(f"the speech recogniser is busy: {self._waiting} utterances wait; try again in a moment")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._max_wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise SpeechBusy(
                f"the speech recogniser is busy: it was not free for {self._max_wait_s:g} s; try again in a moment"
            ) from None
        finally:
            self._waiting -= 1
        engine = self._idle.pop()
        work = asyncio.ensure_future(engine.transcribe(pcm, tools=tools))
        self._running.add(work)
        work.add_done_callback(lambda done: self._give_back(engine, done))
        return await asyncio.shield(work)  # an engine is free when it is done, even if its caller has gone

    def _give_back(self, engine: SpeechToText, work: asyncio.Future[Transcript]) -> None:
        self._running.discard(work)
        if not work.cancelled():
            work.exception()  # the caller that would read it may have gone
        self._idle.append(engine)
        self._free.release()
