"""The ring: against a list that does the same, across two threads, and when it is flushed."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from appliance.audio.ring import Int16, Ring


def _block(*values: int) -> Int16:
    return np.array(values, np.int16)


@given(
    st.integers(1, 40),
    st.lists(st.tuples(st.sampled_from(["write", "read"]), st.integers(0, 25)), max_size=80),
)
def test_what_is_written_is_read_once_in_order(size: int, steps: list[tuple[str, int]]) -> None:
    ring, model, count, refused = Ring(size), [], 0, 0
    for action, amount in steps:
        if action == "write":
            block = [(count + i) % 30_000 + 1 for i in range(amount)]
            stored = ring.write(_block(*block))
            if amount <= ring.capacity - len(model):
                assert stored == amount
                model += block
            else:
                assert stored == 0, "a block is stored whole or not at all"
                refused += amount
            count += amount
        else:
            out = np.full(amount, -1, np.int16)
            got = ring.read_into(out)
            assert got == min(amount, len(model))
            assert out.tolist() == model[:got] + [0] * (amount - got)
            del model[:got]
        assert ring.available == len(model)
    assert ring.overruns == refused


def test_the_capacity_is_a_power_of_two_that_is_enough() -> None:
    assert [Ring(frames).capacity for frames in (1, 2, 3, 480, 512, 513)] == [2, 2, 4, 512, 512, 1024]


def test_a_flush_fades_out_within_one_period_and_jumps() -> None:
    ring, out = Ring(64), np.empty(8, np.int16)
    ring.write(np.full(40, 1000, np.int16))
    ring.flush()
    ring.write(_block(7, 8, 9))
    assert ring.read_into(out) == 8
    assert out[0] == 1000
    assert out[-1] == 0
    assert (np.diff(out) <= 0).all(), "a fade, no click"
    ring.read_into(out)
    assert out.tolist() == [7, 8, 9, 0, 0, 0, 0, 0], "what was written after the flush follows at once"


def test_a_flush_of_nothing_is_nothing() -> None:
    ring, out = Ring(64), np.empty(4, np.int16)
    ring.flush()
    assert ring.read_into(out) == 0
    ring.write(_block(1, 2))
    assert ring.read_into(out) == 2


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 5))
def test_nothing_of_before_a_flush_is_heard_after_its_period(blocks: list[int], reads: int) -> None:
    ring, out = Ring(1024), np.empty(16, np.int16)
    for amount in blocks:
        ring.write(np.full(amount, 111, np.int16))
    for _ in range(reads):
        ring.read_into(out)
    ring.flush()
    ring.write(np.full(20, 222, np.int16))
    ring.read_into(out)
    heard = []
    for _ in range(3):
        ring.read_into(out)
        heard += out.tolist()
    assert 111 not in heard


@contextmanager
def _often_switched() -> Iterator[None]:
    """Let threads take turns as often as the interpreter can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_two_threads_lose_and_double_nothing() -> None:
    ring, total, heard = Ring(512), 60_000, []

    def produce() -> None:
        at = 0
        while at < total:
            block = (np.arange(at, at + 48) % 32_000).astype(np.int16)
            if ring.room >= 48:
                ring.write(block)
                at += 48

    with _often_switched():
        producer = threading.Thread(target=produce)
        producer.start()
        out = np.empty(37, np.int16)
        while len(heard) < total:
            got = ring.read_into(out)
            heard += out[:got].tolist()
        producer.join()
    assert heard == [i % 32_000 for i in range(total)]
    assert ring.overruns == 0
