"""pocketsphinx: English speech to text with two searches, a grammar of the live phrases and an open language model."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from appliance.audio.pcm import WIRE_RATE
from appliance.errors import LanguageError, SettingsError, SpeechError
from appliance.speech.phrases import LivePhrases, PhraseBook
from appliance.speech.stages import Transcript
from appliance.speech.stt.agreement import Hypothesis, Pronouncer, Segment, agree
from appliance.speech.stt.grammar import Automaton

__all__ = ["SphinxSpeechToText"]

logger = logging.getLogger(__name__)

_RATE = 16_000
_PADDING = bytes(2 * _RATE * 3 // 10)  # 0.3 s before and after: the model expects silence around speech
_MIN_PEAK = 100  # of 32,768: audio whose peak is below -50 dBFS is not speech
_MIN_MS = 100
_GRAMMARS = 8  # kept in the decoder, one for each of the most recently used tool sets
_OPEN = "open"
_BEST = 30  # costs a millisecond; the true sentence is often among them
_NARROW = {"fwdflat": False, "maxhmmpf": 3_000, "maxwpf": 20}
"""One pass with a narrow beam: the same commands in the accuracy tests, for two thirds of the processor time."""
_FILLERS = ("<", "[", "+", "(")
_LEAST_SCORE = 1e-300  # the score of a long segment that fits badly underflows to 0
_PROBABILITY = 1.0  # all sentences of the book are equally likely


class SphinxSpeechToText:
    """The engine that `worker` runs in a child process. One decoder, loaded once, one utterance at a time.

    Args:
        book: The phrases, and the pronunciations of words that the dictionary does not have.
        language: Must be English; the wheel includes no other model.

    Raises:
        SpeechError: pocketsphinx is not installed.
        LanguageError: The language is not English.
    """

    def __init__(self, book: PhraseBook, *, language: str = "en") -> None:
        if not language.lower().startswith("en"):
            raise LanguageError(f"pocketsphinx understands English only, not {language!r}; choose another brain.stt")
        if find_spec("pocketsphinx") is None:
            raise SpeechError(
                "speech to text needs the Python package pocketsphinx; "
                "install it: pip install 'voice-appliance[offline]'"
            )
        self._book = book
        self._lock = threading.Lock()
        self._decoder: Any = None
        self._pronounce: Pronouncer | None = None
        self._grammars: OrderedDict[LivePhrases, tuple[str, Automaton]] = OrderedDict()
        self._count = 0

    def __repr__(self) -> str:
        return f"<SphinxSpeechToText {'loaded' if self._decoder else 'not loaded'} grammars={len(self._grammars)}>"

    def load(self) -> None:
        """Load the model and the dictionary (0.3 s, 90 MB) and check the book's words.

        Raises:
            SpeechError: The model cannot be loaded.
            SettingsError: The book uses a word that has no pronunciation.
        """
        with self._lock:
            self._loaded()

    def _loaded(self) -> Any:
        if self._decoder is None:
            self._decoder = _open_decoder()
            for word, phones in self._book.pronunciations.items():
                self._decoder.add_word(word, phones, True)
            self._pronounce = Pronouncer(self._decoder.lookup_word)
            _check_words(self._book, self._pronounce)
        return self._decoder

    def understand(self, pcm: bytes, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `stages.SpeechToText.transcribe`; returns "" for silence. Blocks, and holds the GIL."""
        live = self._book.live(tools)
        speech = _prepare(pcm)
        if not speech:
            return Transcript("")
        with self._lock:
            decoder = self._loaded()
            started = time.monotonic()
            name, grammar = self._grammar(live)
            command = _decode(decoder, name, speech) if grammar.arcs else Hypothesis()
            half = time.monotonic()
            heard = _decode(decoder, _OPEN, speech, best=_BEST)
            logger.debug(
                "decoded %.1f s: grammar %.0f ms, open %.0f ms",
                len(speech) / 2 / _RATE,
                1000 * (half - started),
                1000 * (time.monotonic() - half),
            )
            assert self._pronounce is not None
            # A search that does not reach the end of the grammar still returns its best partial sentence.
            is_whole = grammar.accepts(command.text.split())
            is_command = is_whole and agree(command, heard, self._pronounce)
        return Transcript(command.text, is_command=True) if is_command else Transcript(heard.text)

    def _grammar(self, live: LivePhrases) -> tuple[str, Automaton]:
        """Return the decoder's search for these phrases and its grammar; evicts the least recently used search.

        A tool's own phrase with a word that the dictionary does not have is left out, with a warning.
        """
        if live in self._grammars:
            self._grammars.move_to_end(live)
            return self._grammars[live]
        assert self._pronounce is not None
        known, unknown = live.heard_by(self._pronounce.knows)
        for tool, missing in unknown.items():
            words = ", ".join(map(repr, missing))
            logger.warning("the phrases of the tool %r cannot be heard: unknown to the recogniser: %s", tool, words)
        self._count += 1
        name, grammar = f"phrases-{self._count}", known.grammar
        arcs = [(start, to, _PROBABILITY, word) for start, to, word in grammar.arcs]
        if arcs:
            self._decoder.add_fsg(name, self._decoder.create_fsg(name, 0, grammar.final, arcs))
        self._grammars[live] = name, grammar
        if len(self._grammars) > _GRAMMARS:
            old, forgotten = self._grammars.popitem(last=False)[1]
            if forgotten.arcs:
                self._decoder.activate_search(_OPEN)
                self._decoder.remove_search(old)
        return name, grammar


def _open_decoder() -> Any:
    import pocketsphinx

    model = Path(pocketsphinx.get_model_path("en-us"))
    try:
        decoder = pocketsphinx.Decoder(
            hmm=str(model / "en-us"),
            dict=str(model / "cmudict-en-us.dict"),
            samprate=float(_RATE),
            loglevel="FATAL",
            lm=None,
            **_NARROW,
        )
        decoder.add_lm_file(_OPEN, str(model / "en-us.lm.bin"))
        decoder.activate_search(_OPEN)
    except (RuntimeError, ValueError, OSError) as exc:
        raise SpeechError(f"pocketsphinx cannot load its English model from {model}: {exc}") from None
    return decoder


def _check_words(book: PhraseBook, pronounce: Pronouncer) -> None:
    unknown = sorted(word for word in book.words if not pronounce.knows(word))
    if unknown:
        raise SettingsError(
            f"{book.name}: the recogniser's dictionary does not have {', '.join(map(repr, unknown))}: "
            "give the phones under 'pronunciations', as in 'unmute: AH N M Y UW T'"
        )


def _prepare(pcm: bytes) -> bytes:
    """Return the utterance at 16 kHz, padded with silence; empty if it is too short or silent."""
    samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2")
    if samples.size < WIRE_RATE * _MIN_MS // 1000 or int(np.abs(samples.astype(np.int32)).max()) < _MIN_PEAK:
        return b""
    narrow = soxr.resample(samples.astype(np.int16), WIRE_RATE, _RATE, quality="LQ")
    speech: bytes = narrow.astype(np.int16).tobytes()
    return _PADDING + speech + _PADDING


def _decode(decoder: Any, search: str, speech: bytes, *, best: int = 1) -> Hypothesis:
    """Return the result of one search with its `best` next hypotheses; empty if nothing fits."""
    decoder.activate_search(search)
    decoder.start_utt()
    try:
        decoder.process_raw(speech, full_utt=True)  # all at once: the previous utterance has no effect
    finally:
        with suppress(RuntimeError):
            decoder.end_utt()
    if decoder.hyp() is None:
        return Hypothesis()
    frames = decoder.n_frames()
    segments = [_segment(one, frames) for one in decoder.seg() or () if one.start_frame < frames]
    guesses = islice(decoder.nbest(), best) if best > 1 else ()
    others = [_words_of(one.hypstr) for one in guesses if one is not None]  # None: a path without words
    return Hypothesis(segments, others)


def _words_of(text: str) -> str:
    return " ".join(word.partition("(")[0] for word in text.split() if not word.startswith(_FILLERS))


def _segment(one: Any, frames: int) -> Segment:
    """Convert a segment: ``the(2)`` is a second pronunciation of "the"; ``<sil>`` and ``[NOISE]`` are pauses."""
    is_filler = one.word.startswith(_FILLERS)
    end = max(one.start_frame, min(one.end_frame, frames - 1))
    score = math.log(max(one.ascore, _LEAST_SCORE))
    return Segment("" if is_filler else one.word.partition("(")[0], one.start_frame, end, score)
