"""Tests of the log formats for the journal and for terminals, and of the masking of keys."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from appliance.service.logging_setup import is_journal, print_error, set_up_logging

SECRET = "sk-proj-" + "Zz9_-x" * 6


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, hook = root.handlers[:], root.level, sys.excepthook
    yield
    sys.excepthook = hook
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    logging.getLogger("websockets").setLevel(logging.NOTSET)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[TextIO]:
    with (tmp_path / "journal").open("w+", encoding="utf-8") as stream:
        yield stream


def journal_environ(stream: TextIO) -> dict[str, str]:
    status = os.fstat(stream.fileno())
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def written(stream: TextIO) -> str:
    stream.seek(0)
    return stream.read()


def test_each_journal_line_starts_with_its_priority(journal: TextIO) -> None:
    set_up_logging("debug", journal_environ(journal), stream=journal)
    log = logging.getLogger("appliance.test")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    log.critical("e")
    assert written(journal).splitlines() == [
        "<7>appliance.test: a",
        "<6>appliance.test: b",
        "<4>appliance.test: c",
        "<3>appliance.test: d",
        "<2>appliance.test: e",
    ]


def test_every_line_of_a_traceback_carries_the_priority(journal: TextIO) -> None:
    set_up_logging("info", journal_environ(journal), stream=journal)
    try:
        raise ValueError(f"bad {SECRET}")
    except ValueError:
        logging.getLogger("appliance.test").exception("it broke")
    lines = written(journal).splitlines()
    assert len(lines) > 3
    assert all(line.startswith("<3>") for line in lines)
    assert SECRET not in "\n".join(lines)


def test_the_error_that_ends_the_process_has_priority_err_in_the_journal_and_no_key(journal: TextIO) -> None:
    print_error(f"first: {SECRET}\nsecond", journal_environ(journal), stream=journal)
    assert written(journal) == "<3>first: sk-***\n<3>second\n"
    terminal = io.StringIO()
    print_error(f"first: {SECRET}\nsecond", journal_environ(journal), stream=terminal)
    assert terminal.getvalue() == "first: sk-***\nsecond\n"


def test_a_terminal_gets_time_and_level_and_no_prefix() -> None:
    stream = io.StringIO()
    set_up_logging("info", {"JOURNAL_STREAM": "1:2"}, stream=stream)
    logging.getLogger("appliance.test").info("hello %s", "there")
    logging.getLogger("appliance.test").debug("not this")
    assert stream.getvalue().endswith("INFO    appliance.test: hello there\n")
    assert len(stream.getvalue().splitlines()) == 1


def test_journal_stream_must_match_the_stream(journal: TextIO) -> None:
    assert is_journal(journal_environ(journal), journal)
    assert not is_journal({"JOURNAL_STREAM": "1:2"}, journal)
    assert not is_journal({}, journal)
    assert not is_journal(journal_environ(journal), io.StringIO())


def test_setting_up_twice_leaves_one_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    set_up_logging("info", {}, stream=first)
    set_up_logging("info", {}, stream=second)
    logging.getLogger("appliance.test").info("once")
    assert first.getvalue() == ""
    assert second.getvalue().count("once") == 1


@pytest.mark.parametrize("said", ["a\x00<0>forged", "a\n<0>forged", "a\r\x1b[2J", "a\x9b31m", "a\u202eb"])
def test_text_from_outside_is_one_journal_line_of_its_own_priority(journal: TextIO, said: str) -> None:
    set_up_logging("info", journal_environ(journal), stream=journal)
    logging.getLogger("appliance.test").warning("the server says: %s", said)
    text = written(journal)
    assert text.removesuffix("\n").isprintable()
    assert text.startswith("<4>appliance.test: the server says: a\\u")


def test_control_characters_in_a_traceback_are_escaped_and_its_lines_stay(journal: TextIO) -> None:
    set_up_logging("info", journal_environ(journal), stream=journal)
    try:
        raise ValueError("bad\x00<0>\x1b[2J")
    except ValueError:
        logging.getLogger("appliance.test").exception("it broke")
    *lines, last = written(journal).removesuffix("\n").split("\n")
    assert last == "<3>ValueError: bad\\u0000<0>\\u001b[2J"
    assert lines[:2] == ["<3>appliance.test: it broke", "<3>Traceback (most recent call last):"]


def test_the_error_that_ends_the_process_is_redacted_and_escaped_too(journal: TextIO) -> None:
    set_up_logging("info", journal_environ(journal), stream=journal)
    try:
        try:
            raise OSError(f"no such key: {SECRET}\x00")
        except OSError as exc:
            raise ValueError("bad\x1b[2J\n<0>forged") from exc
    except ValueError as exc:
        sys.excepthook(ValueError, exc, exc.__traceback__)
    text = written(journal)
    assert SECRET not in text
    assert "\x00" not in text and "\x1b" not in text
    lines = text.removesuffix("\n").split("\n")
    assert lines[0] == "<2>appliance.service.logging_setup: unexpected error"
    assert lines[-2:] == ["<2>ValueError: bad\\u001b[2J", "<2><0>forged"]
    assert "<2>OSError: no such key: sk-***\\u0000" in lines


def test_a_warning_of_python_is_logged_without_its_last_line_feed() -> None:
    stream = io.StringIO()
    set_up_logging("info", {}, stream=stream)
    logging.getLogger("py.warnings").warning("%s", "file.py:1: UserWarning: odd\n")
    assert stream.getvalue().endswith("UserWarning: odd\n")


def test_a_key_in_the_arguments_of_a_record_never_reaches_the_stream() -> None:
    stream = io.StringIO()
    set_up_logging("debug", {}, stream=stream)
    logging.getLogger("appliance.test").warning("headers %s and %r", {"Authorization": f"Bearer {SECRET}"}, SECRET)
    assert SECRET not in stream.getvalue()
    assert "***" in stream.getvalue()


def test_the_client_library_never_logs_frames_and_headers() -> None:
    stream = io.StringIO()
    set_up_logging("debug", {}, stream=stream)
    logging.getLogger("websockets.client").debug("> TEXT '{\"audio\": …}'")
    assert stream.getvalue() == ""
