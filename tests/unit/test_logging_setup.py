"""Tests of the log formats for the journal and for terminals, and of the masking of keys."""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from appliance.service.logging_setup import is_journal, mask_secrets, print_error, set_up_logging

SECRET = "sk-proj-" + "Zz9_-x" * 6


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
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
    assert written(journal) == "<3>first: ***\n<3>second\n"
    terminal = io.StringIO()
    print_error(f"first: {SECRET}\nsecond", journal_environ(journal), stream=terminal)
    assert terminal.getvalue() == "first: ***\nsecond\n"


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


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        (f"key {SECRET} was refused", "key *** was refused"),
        ("ek_68af296e8e408191a1120ab6383263c2", "***"),
        ("openai-insecure-api-key.ek_68af296e8e40", "openai-insecure-api-key.***"),
        ("> Authorization: Bearer abc.DEF-123456", "> Authorization: Bearer ***"),
        ("authorization=Bearer abcdef123456", "authorization=Bearer ***"),
        ("{'api-key': '0123456789abcdef'}", "{'api-key': '***'}"),
        ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "{'Authorization': 'Basic ***'}"),
        ("ws://h/v1?api_key=0123456789&model=m", "ws://h/v1?api_key=***&model=m"),
        ("client_secret: abcdef123456", "client_secret: ***"),
    ],
)
def test_text_that_looks_like_a_key_is_masked(text: str, masked: str) -> None:
    assert mask_secrets(text) == masked


@pytest.mark.parametrize(
    "text", ["task-force-10 is ready", "the desk-lamp-on tool", "tokens: 1234567", "bearer of news"]
)
def test_text_that_only_resembles_a_key_is_kept(text: str) -> None:
    assert mask_secrets(text) == text


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
