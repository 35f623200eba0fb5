"""Several recognisers behind one interface, with engines that the test steps."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from appliance.errors import SpeechBusy, SpeechError
from appliance.speech.stages import Transcript
from appliance.speech.stt.pool import RecogniserPool


class Engine:
    """Recognises an utterance when the test calls `finish`."""

    def __init__(self) -> None:
        self.now: bytes | None = None
        self.heard: list[bytes] = []
        self.loads = 0
        self.closes = 0
        self._done: asyncio.Future[Transcript] | None = None

    async def warm_up(self) -> None:
        self.loads += 1

    def close(self) -> None:
        self.closes += 1

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        assert self.now is None, "one utterance at a time"
        self.now = pcm
        self.heard.append(pcm)
        self._done = asyncio.get_running_loop().create_future()
        try:
            return await self._done
        finally:
            self.now = None

    def finish(self, *, error: Exception | None = None) -> None:
        assert self._done is not None
        assert self.now is not None
        if error is not None:
            self._done.set_exception(error)
        else:
            self._done.set_result(Transcript(self.now.decode()))


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def say(pool: RecogniserPool, text: str) -> asyncio.Task[Transcript]:
    return asyncio.create_task(pool.transcribe(text.encode(), tools=()))


async def test_as_many_utterances_run_at_once_as_there_are_engines_and_the_others_wait_in_order() -> None:
    engines = [Engine(), Engine()]
    pool = RecogniserPool(engines)
    said = [say(pool, text) for text in ("a", "b", "c", "d")]
    await settle()
    assert [one.now for one in engines] == [b"a", b"b"]
    engines[1].finish()
    await settle()
    assert [one.now for one in engines] == [b"a", b"c"]
    engines[0].finish()
    await settle()
    assert [one.now for one in engines] == [b"d", b"c"]
    for one in engines:
        one.finish()
    assert [(await one).text for one in said] == ["a", "b", "c", "d"]


async def test_one_speaker_at_a_time_uses_one_engine() -> None:
    engines = [Engine(), Engine()]
    pool = RecogniserPool(engines)
    for _ in range(3):
        said = say(pool, "a")
        await settle()
        engines[0].finish()
        await said
    assert [len(one.heard) for one in engines] == [3, 0]


async def test_utterance_beyond_the_queue_is_busy_at_once() -> None:
    engine = Engine()
    pool = RecogniserPool([engine], max_waiting=1)
    first, second = say(pool, "a"), say(pool, "b")
    await settle()
    with pytest.raises(SpeechBusy, match="1 utterances wait; try again"):
        await pool.transcribe(b"c", tools=())
    engine.finish()
    await first
    await settle()
    engine.finish()
    assert (await second).text == "b"


async def test_utterance_that_waits_past_the_deadline_is_busy_and_never_recognised() -> None:
    engine = Engine()
    pool = RecogniserPool([engine], max_wait_s=0.01)
    first = say(pool, "a")
    await settle()
    with pytest.raises(SpeechBusy, match=r"not free for 0\.01 s"):
        await pool.transcribe(b"b", tools=())
    engine.finish()
    await first
    await settle()
    assert engine.heard == [b"a"]


async def test_engine_of_a_cancelled_utterance_is_free_only_when_it_is_done() -> None:
    engine = Engine()
    pool = RecogniserPool([engine])
    gone, waits_too, next_one = say(pool, "a"), say(pool, "b"), say(pool, "c")
    await settle()
    gone.cancel()
    waits_too.cancel()
    await settle()
    assert engine.now == b"a"
    engine.finish()
    await settle()
    assert engine.now == b"c"
    engine.finish()
    assert (await next_one).text == "c"


async def test_failed_engine_recognises_the_next_utterance() -> None:
    engine = Engine()
    pool = RecogniserPool([engine])
    said = say(pool, "a")
    await settle()
    engine.finish(error=SpeechError("no memory"))
    with pytest.raises(SpeechError, match="no memory"):
        await said
    said = say(pool, "b")
    await settle()
    engine.finish()
    assert (await said).text == "b"


async def test_all_engines_are_loaded_and_closed() -> None:
    engines = [Engine(), Engine(), Engine()]
    pool = RecogniserPool(engines)
    await pool.warm_up()
    pool.close()
    assert [(one.loads, one.closes) for one in engines] == [(1, 1)] * 3
