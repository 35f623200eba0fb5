"""A corpus of recorded conversations: the events given to `Conversation` and its commands, step by step.

A trace is a head (the arguments of the constructor) and steps of (now, event, commands, deadline, state). The corpus
stores each distinct head, event and command once, because hundreds of tests repeat much the same values: 700 traces are
half a megabyte as xz. ``python -m tests.support.corpus FILE`` records one from the tests. `Corpus.differences` replays
a recorded corpus.

A change of behaviour, or of a recorded class, needs the corpus recorded again: in the commit of the change.
"""

from __future__ import annotations

import json
import lzma
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from appliance.conversation.machine import Conversation
from appliance.conversation.policy import Policy
from appliance.service.trace import decode, encode

RECORDED = Path(__file__).parent.parent / "corpus" / "conversation.json.xz"
SOURCES = (
    "tests/unit/conversation/test_approval.py",
    "tests/unit/conversation/test_barge_in.py",
    "tests/unit/conversation/test_budget.py",
    "tests/unit/conversation/test_calls.py",
    "tests/unit/conversation/test_combinations.py",
    "tests/unit/conversation/test_combinations_of_calls.py",
    "tests/unit/conversation/test_device_events.py",
    "tests/unit/conversation/test_edges.py",
    "tests/unit/conversation/test_edges_links.py",
    "tests/unit/conversation/test_environment.py",
    "tests/unit/conversation/test_failover.py",
    "tests/unit/conversation/test_handoffs.py",
    "tests/unit/conversation/test_input_guardrails.py",
    "tests/unit/conversation/test_instructions.py",
    "tests/unit/conversation/test_interruption.py",
    "tests/unit/conversation/test_machine.py",
    "tests/unit/conversation/test_mcp_calls.py",
    "tests/unit/conversation/test_orders.py",
    "tests/unit/conversation/test_out_of_band.py",
    "tests/unit/conversation/test_output_guardrails.py",
    "tests/unit/conversation/test_program_turns.py",
    "tests/unit/conversation/test_responses.py",
    "tests/unit/conversation/test_rotation.py",
    "tests/unit/conversation/test_server_turn_detection.py",
    "tests/unit/test_app_at_odds.py",
    "tests/unit/test_known_failures.py",
    "tests/unit/test_known_failures_of_sessions.py",
    "tests/unit/test_session.py",
    "tests/unit/test_session_agents.py",
    "tests/unit/test_session_at_odds.py",
    "tests/unit/test_session_connecting.py",
    "tests/unit/test_session_questions.py",
)
LONGEST_OF_A_TEST = 20  # Hypothesis makes hundreds of conversations in one test


class Corpus:
    """A corpus read from a file.

    Args:
        path: A file written by `Recorder`.
    """

    def __init__(self, path: Path = RECORDED) -> None:
        recorded = json.loads(lzma.decompress(path.read_bytes()))
        self._values = recorded["values"]
        self.traces: dict[str, list[dict[str, Any]]] = recorded["traces"]
        self._events: dict[int, Any] = {}

    def __len__(self) -> int:
        return sum(len(traces) for traces in self.traces.values())

    def differences(self) -> Iterator[str]:
        """Replay every trace; yield the first difference of each that differs."""
        for test, traces in self.traces.items():
            for number, trace in enumerate(traces):
                if (found := self._replay(trace)) is not None:
                    yield f"{test} (trace {number}), {found}"

    def _replay(self, trace: dict[str, Any]) -> str | None:
        head = self._values[trace["head"]]
        conversation = Conversation(
            policy=Policy(**head["policy"]),
            specs=decode(head["specs"]),
            history=decode(head["history"]),
            seed=head["seed"],
            is_muted=head["is_muted"],
        )
        for at, (now, number, commands, deadline, state) in enumerate(trace["steps"]):
            wanted = [self._values[one] for one in commands]
            try:
                made = json.loads(json.dumps([encode(one) for one in conversation.handle(self._event(number), now)]))
            except Exception as exc:  # noqa: BLE001 - any exception is a difference
                return f"step {at}, {self._name(number)}: {exc!r}"
            where = f"step {at}, {self._name(number)}"
            for command, (a, b) in enumerate(zip(made, wanted, strict=False)):
                if a != b:
                    return f"{where}, command {command}: recorded {_short(b)}, replayed {_short(a)}"
            if len(made) != len(wanted):
                extra = made[len(wanted) :] or wanted[len(made) :]
                return f"{where}: {len(wanted)} commands recorded, {len(made)} replayed; {_short(extra[0])}"
            if (conversation.deadline, str(conversation.state)) != (deadline, state):
                seen = f"{conversation.deadline} {conversation.state}"
                return f"{where}: recorded {deadline} {state}, replayed {seen}"
        return None

    def _event(self, number: int) -> Any:
        if number not in self._events:
            self._events[number] = decode(self._values[number])
        return self._events[number]

    def _name(self, number: int) -> str:
        return str(self._values[number].get("@"))


class Recorder:
    """A pytest plug-in that records every `Conversation` the tests create."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, int] = {}
        self._traces: dict[str, list[dict[str, Any]]] = defaultdict(list)

    def pytest_configure(self, config: pytest.Config) -> None:
        make, handle = Conversation.__init__, Conversation.handle
        recorder = self
        running: dict[int, list[Any]] = {}

        def recorded_make(conversation: Any, **made_of: Any) -> None:
            make(conversation, **made_of)
            running[id(conversation)] = steps = []
            head = {"history": [], "seed": 0, "is_muted": False} | made_of
            policy = {one.name: getattr(made_of["policy"], one.name) for one in fields(Policy)}
            head |= {"policy": policy} | {key: list(head[key]) for key in ("specs", "history")}
            test = os.environ.get("PYTEST_CURRENT_TEST", "-").split(" ")[0]
            recorder._traces[test].append({"head": recorder._number(head), "steps": steps})

        def recorded_handle(conversation: Any, event: Any, now: float) -> Any:
            number = recorder._number(event)  # before handling, so that a change made by a handler shows
            commands = handle(conversation, event, now)
            numbers = [recorder._number(one) for one in commands]
            after = [conversation.deadline, str(conversation.state)]
            running[id(conversation)].append([now, number, numbers, *after])
            return commands

        Conversation.__init__, Conversation.handle = recorded_make, recorded_handle  # type: ignore[method-assign]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        kept, seen = {}, set()
        for test, traces in self._traces.items():
            distinct = []
            for one in sorted(traces, key=lambda one: -len(one["steps"]))[:LONGEST_OF_A_TEST]:
                if one["steps"] and (text := str(one)) not in seen:
                    seen.add(text)
                    distinct.append(one)
            if distinct:
                kept[test] = distinct
        used = {
            number
            for traces in kept.values()
            for one in traces
            for number in (one["head"], *(n for step in one["steps"] for n in (step[1], *step[2])))
        }
        values = [json.loads(text) if number in used else None for text, number in self._values.items()]
        text = json.dumps({"values": values, "traces": kept}, separators=(",", ":"))
        self._path.write_bytes(lzma.compress(text.encode(), preset=9))

    def _number(self, value: object) -> int:
        text = json.dumps(encode(value), separators=(",", ":"), sort_keys=True)
        return self._values.setdefault(text, len(self._values))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 300 else f"{text[:300]}…"


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else RECORDED
    sys.exit(pytest.main(["-q", "-p", "no:randomly", "--hypothesis-seed=0", *SOURCES], plugins=[Recorder(path)]))
