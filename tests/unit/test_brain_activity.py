"""When the offline brain has its recogniser in memory: in virtual time, with a pipeline that counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from appliance.brain.activity import Activity
from appliance.brain.offline import keep_models
from appliance.errors import SpeechError
from tests.support.virtual_time import in_virtual_time

MINUTE, HOUR = 60.0, 3600.0


class Pipeline:
    """Counts what `keep_models` does."""

    def __init__(self) -> None:
        self.loads = 0
        self.closes = 0
        self.error: Exception | None = None

    async def warm_up(self) -> None:
        self.loads += 1
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        self.closes += 1


def scene(play: Callable[[Activity, Pipeline], Coroutine[Any, Any, None]]) -> Pipeline:
    pipeline = Pipeline()

    async def run() -> None:
        activity = Activity()
        kept: Any = pipeline
        keeping = asyncio.create_task(keep_models(kept, activity))
        await play(activity, pipeline)
        keeping.cancel()

    in_virtual_time(run())
    return pipeline


def test_device_whose_server_answers_never_loads_the_recogniser() -> None:
    async def play(activity: Activity, pipeline: Pipeline) -> None:
        await asyncio.sleep(24 * HOUR)

    assert scene(play).loads == 0


def test_recogniser_is_loaded_at_the_connection_and_given_back_after_an_idle_hour() -> None:
    async def play(activity: Activity, pipeline: Pipeline) -> None:
        activity.joined()
        await asyncio.sleep(50 * MINUTE)
        activity.used()
        await asyncio.sleep(59 * MINUTE)
        assert (pipeline.loads, pipeline.closes) == (1, 0)
        await asyncio.sleep(2 * MINUTE)
        assert (pipeline.loads, pipeline.closes) == (1, 1)
        await asyncio.sleep(24 * HOUR)
        assert (pipeline.loads, pipeline.closes) == (1, 1)

    scene(play)


def test_first_sound_of_the_next_press_loads_it_again() -> None:
    async def play(activity: Activity, pipeline: Pipeline) -> None:
        activity.joined()
        await asyncio.sleep(2 * HOUR)
        assert (pipeline.loads, pipeline.closes) == (1, 1)
        activity.used()
        await asyncio.sleep(0.02)
        activity.used()
        await asyncio.sleep(1.0)
        assert (pipeline.loads, pipeline.closes) == (2, 1)

    scene(play)


def test_recogniser_is_given_back_soon_after_the_connection_is_back() -> None:
    async def play(activity: Activity, pipeline: Pipeline) -> None:
        activity.joined()
        await asyncio.sleep(10 * MINUTE)
        activity.left()
        await asyncio.sleep(4 * MINUTE)
        assert (pipeline.loads, pipeline.closes) == (1, 0)
        await asyncio.sleep(2 * MINUTE)
        assert (pipeline.loads, pipeline.closes) == (1, 1)

    scene(play)


def test_connection_that_comes_and_goes_keeps_the_recogniser() -> None:
    async def play(activity: Activity, pipeline: Pipeline) -> None:
        for _ in range(20):
            activity.joined()
            await asyncio.sleep(MINUTE)
            activity.left()
            await asyncio.sleep(4 * MINUTE)
        assert (pipeline.loads, pipeline.closes) == (1, 0)

    scene(play)


def test_recogniser_that_cannot_be_loaded_is_one_line_and_is_tried_again_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play(activity: Activity, pipeline: Pipeline) -> None:
        pipeline.error = SpeechError("the speech recogniser's process exited (out of memory?)")
        activity.joined()
        await asyncio.sleep(2 * HOUR)
        activity.used()
        await asyncio.sleep(1.0)
        assert pipeline.loads == 2

    scene(play)
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert warnings == ["the offline brain: the speech recogniser's process exited (out of memory?)"] * 2
