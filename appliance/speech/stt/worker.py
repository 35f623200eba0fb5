"""Speech to text in a child process.

pocketsphinx holds the GIL while it decodes a whole utterance: some hundred milliseconds on a PC, more on a Pi. On a
thread it would block the event loop and both audio callbacks for as long (measured: a dozen late periods a turn).
So it runs in a child process at lower priority, and its 90 MB are used only after `warm_up` or the first utterance.

The child is this module, run with ``-m``; `multiprocessing` would import the user's script a second time. Requests
and answers are pickles on its standard streams, because both ends are this program. The child exits at end of input.

When memory runs out, the kernel kills the child before the daemon. It has no state, so the utterance that finds it dead
is given to a new child.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

from appliance.errors import ApplianceError, SpeechError
from appliance.speech.children import child_environment
from appliance.speech.phrases import PhraseBook
from appliance.speech.stages import Transcript
from appliance.speech.stt.sphinx import SphinxSpeechToText

__all__ = ["WorkerSpeechToText"]

_NICENESS = 5  # a recogniser can wait; a sound card cannot
_OOM_SCORE = 500  # oom_score_adj, proc(5); the unit gives the daemon -500
_ATTEMPTS = 2  # an utterance that kills two children would kill a third


class WorkerSpeechToText:
    """A `stages.SpeechToText` that keeps a `SphinxSpeechToText` in a child process.

    Args:
        book: The phrases.
        language: See `SphinxSpeechToText`, also for the errors raised.
    """

    def __init__(self, book: PhraseBook, *, language: str = "en") -> None:
        SphinxSpeechToText(book, language=language)  # raise its errors now, not in the child
        self._book = book
        self._language = language
        self._lock = threading.Lock()
        self._child: Popen[bytes] | None = None
        self._end: Callable[[], Any] = lambda: None

    async def warm_up(self) -> None:
        """Start the child and load its model; see `SphinxSpeechToText.load`."""
        await asyncio.to_thread(self._ask, None)

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `stages.SpeechToText.transcribe`; returns "" for silence."""
        transcript: Transcript = await asyncio.to_thread(self._ask, (pcm, list(tools)))
        return transcript

    def close(self) -> None:
        """Kill the child at once, even in the middle of a request; the next utterance starts another."""
        self._child = None
        self._end()  # not under the lock: the waiting caller holds it and sees EOF

    def _ask(self, request: tuple[bytes, list[Mapping[str, Any]]] | None) -> Any:
        with self._lock:
            answer = self._exchange(request)
        if isinstance(answer, ApplianceError):
            raise answer
        return answer

    def _exchange(self, request: tuple[bytes, list[Mapping[str, Any]]] | None) -> Any:
        for _ in range(_ATTEMPTS):
            try:
                child = self._child or self._start()
                assert child.stdin is not None
                assert child.stdout is not None
                _put(child.stdin, request)
                return pickle.load(child.stdout)
            except (OSError, ValueError, EOFError, pickle.UnpicklingError):
                if self._child is None:
                    break  # by `close`
                self._child = None
                self._end()
        raise SpeechError("the speech recogniser's process exited (out of memory?); please say it again")

    def _start(self) -> Popen[bytes]:
        command = [sys.executable, "-m", "appliance.speech.stt.worker"]
        child = Popen(command, stdin=PIPE, stdout=PIPE, env=child_environment())
        self._end = weakref.finalize(self, _end, child)
        self._child = child
        assert child.stdin is not None
        _put(child.stdin, (self._book, self._language))
        return child


def _put(pipe: IO[bytes], value: Any) -> None:
    pickle.dump(value, pipe)
    pipe.flush()


def _end(child: Popen[bytes]) -> None:
    """Kill the child: it has no state to save."""
    child.kill()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
    child.wait()


def main() -> None:
    """Run the child: one engine, one request after another, until the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and kills this process
    with suppress(OSError):
        os.nice(_NICENESS)
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE), encoding="ascii")
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # only pickles may go to standard output
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
