"""The recogniser's child process: its priority for the OOM killer, and what happens when it is killed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import SpeechError
from appliance.speech.phrases import PhraseBook
from appliance.speech.stages import Transcript
from appliance.speech.stt import worker
from appliance.speech.stt.worker import WorkerSpeechToText
from appliance.speech.tts import open_tts

BOOK = PhraseBook.load(Path(__file__).parents[2] / "config" / "phrases", "en")
TOOLS = [{"type": "function", "name": "set_lamp"}]


class Children:
    """Starts the child processes, and keeps them. `script` replaces the recogniser by other Python code."""

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self.script = ""

    def __call__(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        child = subprocess.Popen([sys.executable, "-c", self.script] if self.script else command, **options)
        self.started.append(child)
        return child


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    found = Children()
    monkeypatch.setattr(worker, "Popen", found)
    return found


@pytest.fixture
def recogniser(children: Children) -> Iterator[WorkerSpeechToText]:
    with closing(WorkerSpeechToText(BOOK)) as one:
        yield one


def oom_score(pid: int | str) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text(encoding="ascii"))


async def test_sentence_after_an_idle_recogniser_was_killed_is_recognised(
    recogniser: WorkerSpeechToText, children: Children
) -> None:
    pcm = await open_tts("flite").synthesize("turn on the lamp")
    await recogniser.warm_up()
    assert oom_score(children.started[0].pid) == max(500, oom_score("self")), "the kernel kills it before the daemon"
    children.started[0].kill()
    children.started[0].wait()
    assert await recogniser.transcribe(pcm, tools=TOOLS) == Transcript("turn on the lamp", is_command=True)
    assert len(children.started) == 2


async def test_utterance_that_kills_two_recognisers_is_an_error(
    recogniser: WorkerSpeechToText, children: Children
) -> None:
    children.script = "import sys; sys.stdin.buffer.read(1)"
    with pytest.raises(SpeechError, match="out of memory"):
        await recogniser.transcribe(bytes(48_000), tools=TOOLS)
    assert len(children.started) == 2


async def test_closing_during_an_utterance_starts_no_other_recogniser(
    recogniser: WorkerSpeechToText, children: Children, tmp_path: Path
) -> None:
    asked = tmp_path / "asked"
    children.script = (
        f"import pathlib, pickle, sys; pickle.load(sys.stdin.buffer); pickle.load(sys.stdin.buffer); "
        f"pathlib.Path({str(asked)!r}).touch(); sys.stdin.buffer.read()"
    )
    waiting = asyncio.create_task(recogniser.transcribe(bytes(48_000), tools=TOOLS))
    while not asked.exists():
        await asyncio.sleep(0.01)
    recogniser.close()
    with pytest.raises(SpeechError):
        await waiting
    assert len(children.started) == 1


async def test_recogniser_without_memory_for_its_model_is_one_error(
    recogniser: WorkerSpeechToText, children: Children
) -> None:
    children.script = (
        "import resource, runpy; resource.setrlimit(resource.RLIMIT_AS, (150 << 20, 150 << 20)); "
        "runpy.run_module('appliance.speech.stt.worker', run_name='__main__')"
    )
    with pytest.raises(SpeechError, match=r"out of memory|cannot load its English model"):
        await recogniser.warm_up()
