"""Speech to text in a process of its own.

pocketsphinx holds the interpreter's lock while it decodes a whole utterance, some hundred milliseconds here and more on
a Pi: on a thread it would stop the event loop and both sound callbacks for as long (measured: a dozen late periods
for each turn). So it works beside us, at a lower priority, and its 90 MB are there only once somebody has spoken.

The child is this module, run with ``-m``: not `multiprocessing`, which would import a maker's script a second time. It
talks over its standard streams, in pickles, for both ends are ours; it ends when its input does.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from appliance.errors import ApplianceError, SpeechError
from appliance.speech.phrases import PhraseBook
from appliance.speech.stages import Transcript
from appliance.speech.stt.sphinx import SphinxSpeechToText

__all__ = ["WorkerSpeechToText"]

_NICENESS = 5  # a recogniser can wait; a sound card cannot


class WorkerSpeechToText:
    """A `stages.SpeechToText` that keeps a `SphinxSpeechToText` in a child process.

    Args:
        book: The phrases.
        language: See `SphinxSpeechToText`, which also says what is raised.
    """

    def __init__(self, book: PhraseBook, *, language: str = "en") -> None:
        SphinxSpeechToText(book, language=language)  # says at once what it would say later
        self._book = book
        self._language = language
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], Any] = lambda: None

    async def warm_up(self) -> None:
        """Start the process and load the model in it; see `SphinxSpeechToText.load`."""
        await asyncio.to_thread(self._ask, None)

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `stages.SpeechToText.transcribe`; silence is ""."""
        transcript: Transcript = await asyncio.to_thread(self._ask, (pcm, list(tools)))
        return transcript

    def close(self) -> None:
        """End the process, at once, whatever it is doing; the next utterance starts another."""
        self._child = None
        self._end()  # not under the lock: the waiting caller holds it and sees EOF

    def _ask(self, request: tuple[bytes, list[Mapping[str, Any]]] | None) -> Any:
        with self._lock:
            child = self._child or self._start()
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                _put(child.stdin, request)
                answer = pickle.load(child.stdout)
            except (OSError, ValueError, EOFError, pickle.UnpicklingError):
                self._child = None
                self._end()
                raise SpeechError(
                    "the speech recogniser's process ended (out of memory?); please say it again"
                ) from None
        if isinstance(answer, ApplianceError):
            raise answer
        return answer

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", "appliance.speech.stt.worker"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._end = weakref.finalize(self, _end, child)
        self._child = child
        assert child.stdin is not None
        _put(child.stdin, (self._book, self._language))
        return child


def _put(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe)
    pipe.flush()


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill it: it holds nothing that is worth a good-bye."""
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    child.wait()


def main() -> None:
    """The child: one engine, one request after another, until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    with suppress(OSError):
        os.nice(_NICENESS)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # nothing but pickles goes there
    try:
        book, language = pickle.load(requests)
        engine = SphinxSpeechToText(book, language=language)
        while True:
            _put(answers, _answer(engine, pickle.load(requests)))
    except (EOFError, BrokenPipeError):
        pass


def _answer(engine: SphinxSpeechToText, request: tuple[bytes, list[Mapping[str, Any]]] | None) -> Any:
    try:
        if request is None:
            engine.load()
            return None
        return engine.understand(*request)
    except ApplianceError as exc:
        return exc


if __name__ == "__main__":
    main()
