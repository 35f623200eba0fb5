"""Effort to read the code: the calls that one event makes in the conversation, and the size of the package.

::

    .venv/bin/python -m benchmarks.reading

For each event: the calls inside the package, the number of files they are in, and how often the next call is in another
file. A reader need not follow a call that returns nothing to understand what comes next: the first row of each event
omits those calls, the second counts all. The sizes are counted in the syntax trees.
"""

from __future__ import annotations

import ast
import sys
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import appliance
from appliance.agents.spec import AgentSpec
from appliance.conversation import events as ev
from appliance.conversation.machine import Conversation
from appliance.conversation.policy import Policy
from appliance.realtime import protocol as wire

PACKAGE = Path(appliance.__file__).parent
NOW = 100.0
PERIOD = array("h", [4000] * 480).tobytes()
SESSION = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}


def ready() -> Conversation:
    """Return a conversation whose session is created."""
    conversation = Conversation(policy=Policy(button_mode="hold"), specs=[AgentSpec(agent="a", session=SESSION)])
    conversation.handle(ev.Started(), NOW - 20)
    for event in (wire.SessionCreated(session={}), wire.SessionUpdated(session=SESSION)):
        conversation.handle(ev.ServerEventReceived(1, event), NOW - 19)
    return conversation


def listening() -> Conversation:
    conversation = ready()
    conversation.handle(ev.ButtonEdge(True), NOW - 10)
    for index in range(20):
        conversation.handle(ev.AudioCaptured(PERIOD, 4000, -18.0), NOW - 10 + index * 0.02)
    return conversation


def answering() -> Conversation:
    """Return a conversation whose turn is committed and whose response is created."""
    conversation = listening()
    conversation.handle(ev.ButtonEdge(False), NOW - 9)
    for index in range(20):
        conversation.handle(ev.AudioCaptured(PERIOD, 30, -60.0), NOW - 9 + index * 0.02)
        conversation.handle(ev.DeadlinePassed(), NOW - 9 + index * 0.02)
    response = wire.Response(id="resp_1", metadata={"turn": "turn_1"})
    for event in (wire.InputAudioBufferCommitted(item_id="item_u"), wire.ResponseCreated(response=response)):
        conversation.handle(ev.ServerEventReceived(1, event), NOW - 8)
    return conversation


def speaking() -> Conversation:
    """Return a conversation whose answer is playing."""
    conversation = answering()
    conversation.handle(ev.ServerEventReceived(1, delta()), NOW - 7)
    conversation.handle(ev.PlayoutProgress(conversation.epoch, 2400, False), NOW - 7)
    return conversation


def delta() -> wire.OutputAudioDelta:
    return wire.OutputAudioDelta(response_id="resp_1", item_id="item_a", delta=PERIOD * 50)


def function_call() -> wire.OutputItemDone:
    item = wire.Item(id="i", type="function_call", status="completed", name="get", call_id="c", arguments="{}")
    return wire.OutputItemDone(response_id="resp_1", item=item)


EVENTS: dict[str, tuple[Callable[[], Conversation], ev.Event]] = {
    "a barge-in press": (speaking, ev.ButtonEdge(True)),
    "a function call": (answering, ev.ServerEventReceived(1, function_call())),
    "an audio delta": (speaking, ev.ServerEventReceived(1, delta())),
    "a captured period": (listening, ev.AudioCaptured(PERIOD, 4000, -18.0)),
}


def followed(conversation: Conversation, event: ev.Event) -> list[tuple[str, bool]]:
    """Handle an event; return, for each call in order, its file and whether it returned a value."""
    calls: list[tuple[str, bool]] = []
    running: list[int] = []

    def profile(frame: FrameType, what: str, returned: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(PACKAGE):
            return
        if what == "call":
            running.append(len(calls))
            calls.append((str(path.relative_to(PACKAGE)), False))
        elif what == "return":
            at = running.pop()
            calls[at] = (calls[at][0], returned is not None)

    sys.setprofile(profile)
    try:
        conversation.handle(event, NOW)
    finally:
        sys.setprofile(None)
    return calls


def row(files: list[str]) -> str:
    changes = sum(one != other for one, other in pairwise(files))
    return f"{len(files)} | {len(set(files))} | {changes}"


def sizes() -> Iterator[tuple[str, int]]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in sorted(PACKAGE.rglob("*.py"))]
    yield "statements", sum(isinstance(node, ast.stmt) for tree in trees for node in ast.walk(tree))
    inside = [ast.parse(path.read_text(encoding="utf-8")) for path in (PACKAGE / "conversation").rglob("*.py")]
    classes = [node for tree in inside for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    yield "lines of the conversation's largest class", max((one.end_lineno or 0) - one.lineno + 1 for one in classes)
    methods = [sum(isinstance(sub, ast.FunctionDef) for sub in one.body) for one in classes]
    yield "methods of the conversation's class with the most methods", max(methods)


def main() -> int:
    print("| | calls | files | changes of file |\n|---|---:|---:|---:|")
    for name, (make, event) in EVENTS.items():
        calls = followed(make(), event)
        print(f"| {name} | {row([file for file, has_result in calls if has_result])} |")
        print(f"| {name}, in all | {row([file for file, _ in calls])} |")
    print()
    for name, size in sizes():
        print(f"{name}: {size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
