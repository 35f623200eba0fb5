"""The ring: compared with a list, shared by two threads, and flushed."""

from __future__ import annotations

import sys
import threading
from collections import deque
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
def test_written_samples_are_read_once_and_in_order(size: int, steps: list[tuple[str, int]]) -> None:
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


def test_capacity_is_rounded_up_to_a_power_of_two() -> None:
    assert [Ring(frames).capacity for frames in (1, 2, 3, 480, 512, 513)] == [2, 2, 4, 512, 512, 1024]


def test_flush_fades_out_within_one_period_and_skips_the_rest() -> None:
    ring, out = Ring(64), np.empty(8, np.int16)
    ring.write(np.full(40, 1000, np.int16))
    ring.flush()
    ring.write(_block(7, 8, 9))
    assert ring.read_into(out) == 8
    assert out[0] == 1000
    assert out[-1] == 0
    assert (np.diff(out) <= 0).all(), "a fade, no click"
    ring.read_into(out)
    assert out.tolist() == [7, 8, 9, 0, 0, 0, 0, 0], "samples written after the flush follow at once"


def test_flush_of_an_empty_ring_has_no_effect() -> None:
    ring, out = Ring(64), np.empty(4, np.int16)
    ring.flush()
    assert ring.read_into(out) == 0
    ring.write(_block(1, 2))
    assert ring.read_into(out) == 2


@given(st.lists(st.integers(1, 30), min_size=1, max_size=20), st.integers(0, 5))
def test_samples_from_before_a_flush_are_not_heard_after_its_period(blocks: list[int], reads: int) -> None:
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


@given(
    st.integers(2, 40),
    st.lists(st.tuples(st.sampled_from(["write", "read", "flush"]), st.integers(1, 25)), max_size=80),
)
def test_after_any_flushes_only_later_samples_are_read(size: int, steps: list[tuple[str, int]]) -> None:
    ring, count, oldest = Ring(size), 0, 0
    model: deque[int] = deque()
    for action, amount in steps:
        if action == "write":
            block = [count % 30_000 + 100 + i for i in range(amount)]
            if ring.write(_block(*block)):
                model.extend(block)
                count += amount
        elif action == "flush":
            ring.flush()
            oldest = len(model)
        else:
            out = np.full(amount, -1, np.int16)
            got = ring.read_into(out)
            if oldest:
                dying = [model.popleft() for _ in range(oldest)]
                assert got == min(amount, oldest)
                assert all(abs(new) <= abs(old) for new, old in zip(out[:got].tolist(), dying, strict=False))
                assert not any(out[got:]), "silence after the fade, in the same period"
                oldest = 0
            else:
                assert got == min(amount, len(model))
                assert out.tolist() == [model.popleft() for _ in range(got)] + [0] * (amount - got)
        assert ring.available == len(model)
        assert 0 <= ring.room <= ring.capacity


def test_block_longer_than_the_ring_is_refused_whole() -> None:
    ring, out = Ring(8), np.empty(8, np.int16)
    ring.write(_block(1, 2, 3))
    assert ring.write(np.full(9, 7, np.int16)) == 0
    assert ring.overruns == 9
    assert ring.read_into(out) == 3
    assert out.tolist() == [1, 2, 3, 0, 0, 0, 0, 0]


def test_block_is_read_in_order_across_the_end_of_the_memory() -> None:
    ring, out = Ring(8), np.empty(6, np.int16)
    for turn in range(20):
        block = _block(*range(6 * turn, 6 * turn + 6))
        assert ring.write(block) == 6
        assert ring.read_into(out) == 6
        assert out.tolist() == block.tolist()
    assert ring.overruns == 0


def test_flush_makes_no_room_until_the_reader_has_skipped() -> None:
    ring, out = Ring(8), np.empty(4, np.int16)
    ring.write(np.full(8, 5, np.int16))
    ring.flush()
    assert ring.write(_block(7)) == 0, "the reader may still be copying"
    ring.read_into(out)
    assert ring.room == 8
    assert ring.write(_block(7)) == 1


def test_two_flushes_before_a_read_act_as_one() -> None:
    ring, out = Ring(64), np.empty(8, np.int16)
    ring.write(np.full(20, 5, np.int16))
    ring.flush()
    ring.write(np.full(10, 6, np.int16))
    ring.flush()
    ring.write(_block(9))
    ring.read_into(out)
    assert 6 not in out.tolist()
    assert ring.read_into(out) == 1
    assert out[0] == 9


@contextmanager
def _often_switched() -> Iterator[None]:
    """Make the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_two_threads_neither_lose_nor_repeat_samples() -> None:
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


def test_flushes_during_reads_never_bring_back_old_samples() -> None:
    ring, generations = Ring(512), 400
    is_over = threading.Event()
    heard: list[int] = []
    most = 32_000 // generations

    def consume() -> None:
        out = np.empty(64, np.int16)
        while True:
            was_over = is_over.is_set()
            target = ring.flush_to
            is_fading = target > ring.read
            got = ring.read_into(out)
            if got and not is_fading and ring.flush_to == target:
                heard.extend(out[:got].tolist())
            if was_over and not ring.available:
                return

    with _often_switched():
        consumer = threading.Thread(target=consume)
        consumer.start()
        for generation in range(1, generations + 1):
            ring.flush()
            while ring.room < 200:
                pass
            ring.write(np.full(100, generation * most, np.int16))
            while generation % 3 == 0 and ring.available > 20:
                pass
        ring.write(np.full(100, 32_767, np.int16))
        is_over.set()
        consumer.join(20)
    assert not consumer.is_alive()
    assert heard == sorted(heard)
    assert len(set(heard)) > 100, "many were heard between the flushes"
    assert heard.count(32_767) == 100, "a block without a flush after it is heard whole"
    assert ring.overruns == 0
