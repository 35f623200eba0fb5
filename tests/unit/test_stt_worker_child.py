"""The recogniser's child process, run in this process: requests in, answers out, and its end."""

from __future__ import annotations

import io
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.errors import SpeechError
from appliance.speech.stages import Transcript
from appliance.speech.stt import worker


class Engine:
    """A recogniser that needs no model."""

    loaded = 0

    def __init__(self, book: Any, *, language: str) -> None:
        self.book, self.language = book, language

    def load(self) -> None:
        Engine.loaded += 1

    def understand(self, pcm: bytes, tools: Any) -> Transcript:
        sys.stdout.write("a remark of a library\n")
        if not pcm:
            raise SpeechError("no sound")
        return Transcript(f"{self.book} {self.language} {len(pcm)} {len(tools)}", is_command=True)


class Full(io.BytesIO):
    """A pipe whose reader is gone."""

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Leave the priority and the signals of this process as they are."""
    nice: list[int] = []
    monkeypatch.setattr(worker.os, "nice", nice.append)
    monkeypatch.setattr(worker, "SphinxSpeechToText", Engine)
    monkeypatch.setattr(Path, "write_text", lambda self, text, **options: nice.append(int(text)))
    handler = signal.getsignal(signal.SIGINT)
    yield nice
    signal.signal(signal.SIGINT, handler)


def run(monkeypatch: pytest.MonkeyPatch, *requests: Any, answers: io.BytesIO | None = None) -> list[Any]:
    """Run the child on requests until the end of its input; return its answers."""
    answers = answers or io.BytesIO()
    asked = io.BytesIO(b"".join(pickle.dumps(one) for one in requests))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=asked))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=answers))
    worker.main()
    answers.seek(0)
    found = []
    while answers.tell() < len(answers.getvalue()):
        found.append(pickle.load(answers))
    return found


def test_child_answers_each_request_in_turn_until_the_end_of_its_input(
    monkeypatch: pytest.MonkeyPatch, process: list[int]
) -> None:
    loaded = Engine.loaded
    found = run(monkeypatch, ("book", "de"), None, (b"1234", [{"name": "x"}]), (b"12", []))
    assert found == [None, Transcript("book de 4 1", is_command=True), Transcript("book de 2 0", is_command=True)]
    assert Engine.loaded == loaded + 1
    assert process == [5, 500], "it waits for the sound card, and the kernel kills it before the daemon"
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "Ctrl-C is the parent's"


def test_error_of_an_utterance_is_its_answer_and_the_child_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    error, transcript = run(monkeypatch, ("book", "en"), (b"", []), (b"1", []))
    assert isinstance(error, SpeechError)
    assert str(error) == "no sound"
    assert transcript.text == "book en 1 0"


@pytest.mark.parametrize("requests", [[], [("book", "en"), None]])
def test_child_of_a_parent_that_is_gone_ends_without_a_word(
    requests: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, *requests, answers=Full())[1:] == []
    assert capsys.readouterr().err == ""
