"""A day in virtual time; run by ``scripts/test-soak``.

Growth is measured from the first quarter on: by then the history, the caches and the allocator are full.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from tests.soak.day import Day
from tests.support.virtual_time import ThreadlessLoop, virtual_clocks

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]

_MORNING = datetime(2026, 3, 2, 7, tzinfo=UTC)
_WARM_UP_TURNS = 40
_MOST_OBJECTS = 20  # of a class; a leak of one object a turn would be some 300
_MOST_BLOCKS = 3000  # 10 a turn
_MOST_RSS_MB = 16.0  # the allocator takes and returns 10 MB; blocks are the finer measure
_MOST_TASKS = 1  # the offline brain has a task until it is used for the first time


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Day:
    hours, seed = pytestconfig.getoption("--hours"), pytestconfig.getoption("--seed")
    folder = tmp_path_factory.mktemp("state")
    loop = ThreadlessLoop()

    async def live() -> Day:
        lived = Day(loop, wall, folder, seed=seed, hours=hours)
        try:
            await lived.run()
        finally:
            print(f"\nseed {seed}: {lived.report()}")  # noqa: T201 - the table is what the command is for
        return lived

    with asyncio.Runner(loop_factory=lambda: loop) as runner, virtual_clocks(loop, _MORNING, "appliance") as wall:
        return runner.run(live())


def test_every_press_had_an_effect_and_every_turn_an_outcome(day: Day) -> None:
    """`Day` raises for each one that had none, and for a device that did not come to rest; here: there were some."""
    assert day.outcomes["answered"] > day.presses // 2
    assert day.outcomes.total() >= day.presses - day.faults["muted"]


def test_the_log_reports_no_bug(day: Day) -> None:
    assert day.log.bugs == []


def test_server_refused_nothing_that_the_device_sent(day: Day) -> None:
    refusals = ("item_refused", "settings_refused", "server_error", "bad_frame")
    assert {kind: day.troubles[kind] for kind in refusals if day.troubles[kind]} == {}


def test_memory_tasks_and_files_are_flat(day: Day) -> None:
    if len(day.samples) < 5 or day.samples[1].turns < _WARM_UP_TURNS:
        pytest.skip("too short: the history, the caches and the allocator are not full after a quarter")
    before, after = day.samples[1], day.samples[-1]
    grown = after.objects - before.objects
    assert {name: count for name, count in grown.items() if count > _MOST_OBJECTS} == {}
    assert after.blocks - before.blocks <= _MOST_BLOCKS
    assert after.rss_mb - before.rss_mb <= _MOST_RSS_MB
    assert abs(after.tasks - before.tasks) <= _MOST_TASKS
    assert after.fds == before.fds
