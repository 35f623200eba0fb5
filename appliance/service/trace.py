"""Traces for bug reports: record every event with the resulting commands, and replay the record.

A trace is a text file with one JSON object per line. The first line describes the conversation (policy, agents,
history, seed); each other line holds an event, its time and the commands. Because the conversation is a pure function
of these, `replay` runs it again on any machine and compares the commands. The trace contains audio, because turns
depend on it; the settings warn about that. Secrets are redacted in the values, not in the text of a line, which stays
valid JSON. A redacted text keeps its length, because decisions depend on it.
"""

from __future__ import annotations

import base64
import json
import logging
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, TextIO

import msgspec

from appliance.agents import spec
from appliance.agents.spec import AgentSpec
from appliance.conversation import commands as command_types
from appliance.conversation import events as event_types
from appliance.conversation import notices as notice_types
from appliance.conversation import policy as policy_types
from appliance.conversation.commands import Command
from appliance.conversation.events import Event, TracingFailed
from appliance.conversation.machine import Conversation
from appliance.conversation.policy import Policy
from appliance.conversation.support import prices as price_types
from appliance.conversation.support.feedback import View
from appliance.errors import SettingsError, StorageError, one_line
from appliance.realtime import protocol as wire
from appliance.realtime.items import HistoryItem
from appliance.safe_text import redact_json

__all__ = ["Divergence", "TraceRecorder", "replay"]

log = logging.getLogger(__name__)

FORMAT = 4  # incremented when a recorded class or field changes its name or meaning
_FLUSH_EVERY = 50  # lines, about one second of microphone audio: the most that a crash loses


def _classes(module: types.ModuleType) -> dict[str, type]:
    return {name: one for name, one in vars(module).items() if isinstance(one, type) and _field_names(one) is not None}


def _field_names(cls: type) -> tuple[str, ...] | None:
    """Return the field names of a Struct or a dataclass; None for any other class."""
    if issubclass(cls, msgspec.Struct):
        return cls.__struct_fields__
    return tuple(one.name for one in fields(cls)) if is_dataclass(cls) else None


_TYPES: dict[str, type] = {
    **_classes(wire),
    **_classes(spec),
    **_classes(event_types),  # HistoryItem among them
    **_classes(command_types),
    **_classes(notice_types),
    **_classes(policy_types),
    **_classes(price_types),  # the table in force is part of the policy
}


def encode(value: Any) -> Any:
    """Return an event or a command as JSON values; ``"@"`` is its class, ``{"#": …}`` holds bytes."""
    if isinstance(value, bytes):
        return {"#": base64.b64encode(value).decode("ascii")}
    if (names := _field_names(type(value))) is not None:
        return {"@": type(value).__name__} | {name: encode(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): encode(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [encode(one) for one in value]
    return value


def decode(value: Any, *, inside_object: bool = False) -> Any:
    """Return the inverse of `encode`; lists that are fields of an event or a command come back as tuples.

    Raises:
        KeyError: The value names a class that this version does not have.
    """
    if isinstance(value, dict):
        if set(value) == {"#"}:
            return base64.b64decode(value["#"])
        if "@" in value:
            cls = _TYPES[value["@"]]
            return cls(**{key: decode(one) for key, one in value.items() if key != "@"})
        return {key: decode(one, inside_object=True) for key, one in value.items()}
    if isinstance(value, list):
        items = [decode(one, inside_object=inside_object) for one in value]
        return items if inside_object else tuple(items)
    return value


class TraceRecorder:
    """An observer of the driver that writes a trace.

    A write error, such as a full disk, ends the trace and posts ``TracingFailed`` once; the conversation continues.
    """

    def __init__(self, path: Path, *, post: Callable[[Event], None]) -> None:
        self._path = path
        self._post = post
        self._file: TextIO | None = None
        self._lines = 0

    def open(
        self,
        *,
        policy: Policy,
        specs: Sequence[AgentSpec],
        history: Sequence[HistoryItem] = (),
        seed: int = 0,
        is_muted: bool = False,
    ) -> None:
        """Create the file and write the arguments of the `Conversation` to its first line.

        Raises:
            StorageError: The file cannot be written.
        """
        head = {
            "trace": FORMAT,
            "policy": {key: one for key, one in encode(policy).items() if key != "@"},
            "specs": encode(specs),
            "history": encode(history),
            "seed": seed,
            "is_muted": is_muted,
        }
        try:
            self._file = self._path.open("w", encoding="utf-8")
            self._write(head)
            self._file.flush()
        except OSError as exc:
            self.close()
            raise StorageError(f"{self._path}: the trace cannot be written: {exc.strerror or exc}") from None

    def __call__(self, now: float, event: Event, commands: Sequence[Command], view: View) -> None:
        """Record one step; called on the event loop's thread."""
        if self._file is None:
            return
        try:
            self._write({"t": now, "event": encode(event), "commands": encode(commands), "state": view.state})
            if self._lines % _FLUSH_EVERY == 0:
                self._file.flush()
        except OSError as exc:
            self.close()
            self._post(TracingFailed(f"{self._path}: {exc.strerror or exc} after {self._lines} lines"))

    def close(self) -> None:
        """Close the file; idempotent."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as exc:
                log.warning("%s: cannot close the trace, its end may be lost: %s", self._path, exc.strerror or exc)

    def _write(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None
        # ASCII: model text may contain a lone surrogate, which is not valid UTF-8, or a Unicode line separator.
        self._file.write(json.dumps(redact_json(line, keeps_length=True), separators=(",", ":")) + "\n")
        self._lines += 1


@dataclass(frozen=True, slots=True)
class Divergence:
    """A step where the replay and the record differ."""

    line: int
    event: Any
    recorded: Any
    replayed: Any


def read(path: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the lines of a trace; skip a truncated last line.

    Raises:
        SettingsError: The file is not a trace, or has another format.
        StorageError: The file cannot be read.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")
    except OSError as exc:
        raise StorageError(f"{path}: the trace cannot be read: {exc.strerror or exc}") from None
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines) and number > 1:
                return
            raise SettingsError(f"{path}, line {number}: not JSON: this is not a trace of the appliance") from None
        if number == 1:
            _check_format(path, value)
        yield value


def _check_format(path: Path, head: Any) -> None:
    found = head.get("trace") if isinstance(head, dict) else None
    if type(found) is not int:
        raise SettingsError(f"{path}: not a trace of the appliance: its first line has no format number")
    if found != FORMAT:
        raise SettingsError(
            f"{path}: the trace has format {found}, and this version reads format {FORMAT} only; "
            "replay it with the version of the appliance that recorded it"
        )


def replay(path: Path) -> tuple[int, list[Divergence]]:
    """Run a recorded conversation again.

    Returns:
        The number of events, and the steps whose commands differ from the record (empty if identical).

    Raises:
        SettingsError: The file is not a trace, or was written by another version of the appliance.
        StorageError: The file cannot be read.
    """
    lines = read(path)
    with _understood(path, 1):
        head = next(lines)
        conversation = Conversation(
            policy=Policy(**decode(head["policy"])),
            specs=decode(head["specs"]),
            history=decode(head["history"]),
            seed=head["seed"],
            is_muted=head["is_muted"],
        )
    divergences = []
    count = 0
    event: Any
    for count, line in enumerate(lines, start=1):
        with _understood(path, count + 1):
            event, now, recorded = decode(line["event"]), line["t"], line["commands"]
            if type(event) not in _TYPES.values():
                raise ValueError("not an event")
            if not isinstance(now, (int, float)):
                raise ValueError("its time is not a number")
            commands = redact_json(encode(conversation.handle(event, now)), keeps_length=True)
            replayed = json.loads(json.dumps(commands))
        if replayed != recorded:
            divergences.append(Divergence(count + 1, line["event"], recorded, replayed))
    return count, divergences


@contextmanager
def _understood(path: Path, line: int) -> Iterator[None]:
    """Turn errors of decoding or replaying a line into a `SettingsError` that names the line."""
    try:
        yield
    except Exception as exc:  # a trace that was changed can fail anywhere in the conversation
        if isinstance(exc, (SettingsError, StorageError)):
            raise
        reason = one_line(f"{type(exc).__name__}: {exc}", 200)
        raise SettingsError(
            f"{path}, line {line}: not written by this version of the appliance, or changed since ({reason}); "
            "replay the trace as it was recorded, with the version that recorded it"
        ) from exc
