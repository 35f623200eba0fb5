"""The pipeline of the offline brain: speech to text → workflow → text to speech.

The workflow's text is split into sentences as it arrives, and each sentence is synthesised at once: the first audio is
ready when the first sentence is complete, not when the whole answer is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.errors import LanguageError, SpeechError
from appliance.speech.stages import (
    CallPart,
    Part,
    ResponseRequest,
    SpeechToText,
    SpokenPart,
    TextToSpeech,
    Transcript,
    Workflow,
    closed_after,
)
from appliance.wording import Wording, config_folder

if TYPE_CHECKING:
    from appliance.speech.phrases import PhraseBook

__all__ = ["ChainedPipeline", "SentenceSplitter", "build_pipeline"]

log = logging.getLogger(__name__)

_MAX_SENTENCE_CHARS = 240  # about 15 s of speech; longer sentences are split at a comma or a space
_END = re.compile(r"[.!?…]+[\"'”’)\]]*(?=\s)|\n|[。！？]")
_ABBREVIATIONS = frozenset(
    (
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "sr",
        "jr",
        "vs",
        "etc",
        "e.g",
        "i.e",
        "approx",
        "fig",
        "vol",
        "dept",
        "est",
    )
)  # without "a.m" and "no", which often end a sentence


class ChainedPipeline:
    """A `stages.VoicePipeline` of three stages; safe for several sessions at once if its stages are."""

    def __init__(self, *, stt: SpeechToText, workflow: Workflow, tts: TextToSpeech) -> None:
        self._stt = stt
        self._workflow = workflow
        self._tts = tts

    async def warm_up(self) -> None:
        """Load what the first utterance would load; skip stages without a ``warm_up`` method.

        Raises:
            SpeechError: A stage cannot run on this machine.
            SettingsError: The phrase book uses a word that the recogniser's dictionary does not have.
        """
        for stage in (self._stt, self._workflow, self._tts):
            if (warm_up := getattr(stage, "warm_up", None)) is not None:
                await warm_up()

    def close(self) -> None:
        """Stop the recogniser's child process, if any; the next utterance starts it again."""
        if (close := getattr(self._stt, "close", None)) is not None:
            close()

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `stages.SpeechToText.transcribe`."""
        return await self._stt.transcribe(pcm, tools=tools)

    async def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        """See `stages.VoicePipeline.respond`; the joined texts of all parts are the workflow's text."""
        splitter = SentenceSplitter()
        async with closed_after(self._workflow.respond(request)) as parts:
            async for part in parts:
                if isinstance(part, CallPart):
                    for sentence in splitter.flush():
                        yield await self._speak(sentence, voice, speed)
                    yield part
                elif not spoken:
                    yield part
                else:
                    for sentence in splitter.feed(part.text):
                        yield await self._speak(sentence, voice, speed)
        for sentence in splitter.flush():
            yield await self._speak(sentence, voice, speed)

    async def _speak(self, sentence: str, voice: str, speed: float) -> SpokenPart:
        return SpokenPart(sentence, await self._tts.synthesize(sentence.strip(), voice=voice, speed=speed))


class SentenceSplitter:
    """Splits a stream of text into sentences; the joined sentences are the text that was fed.

    A sentence ends at ``.``, ``!``, ``?`` or ``…`` before white space, at the end of a line, or, if longer than 240
    characters, at a comma or a space. The full stop of a decimal (3.5), an abbreviation ("Dr. Watt") or an
    initial ("J. Watt") does not end a sentence.
    """

    def __init__(self) -> None:
        self._text = ""

    def feed(self, text: str) -> Iterator[str]:
        """Add text; yield the sentences that are now complete."""
        self._text += text
        while (end := self._first_end()) is not None:
            sentence, self._text = self._text[:end], self._text[end:]
            yield sentence

    def flush(self) -> Iterator[str]:
        """Yield the remaining text, complete or not, unless it is blank."""
        rest, self._text = self._text, ""
        if rest.strip():
            yield rest

    def _first_end(self) -> int | None:
        for found in _END.finditer(self._text):
            end = found.end()
            if self._text[:end].strip() and not self._is_inside(found):
                return end + len(self._text[end:]) - len(self._text[end:].lstrip())
        if len(self._text) > _MAX_SENTENCE_CHARS:
            cuts = (self._text.rfind(mark, 0, _MAX_SENTENCE_CHARS) + len(mark) for mark in (", ", "; ", " "))
            return next((cut for cut in cuts if cut > _MAX_SENTENCE_CHARS // 3), _MAX_SENTENCE_CHARS)
        return None

    def _is_inside(self, found: re.Match[str]) -> bool:
        """Return whether this full stop belongs to an abbreviation, an initial or a list number."""
        if found[0] != ".":
            return False
        word = (self._text[: found.start()].split() or [""])[-1].lstrip("(\"'“‘")
        is_initial = len(word) == 1 and word.isupper() and word != "I"
        is_item_number = word.isdigit() and self._text[: found.start()].strip() == word
        return is_initial or is_item_number or word.lower() in _ABBREVIATIONS


def build_pipeline(
    *,
    stt: str = "pocketsphinx",
    workflow: str = "phrases",
    tts: str = "auto",
    language: str = "en",
    phrases_dir: Path | None = None,
    chat_url: str = "",
    chat_model: str = "",
    chat_key: str = "",
    voice: str = "",
    recognisers: int = 1,
    wording: Wording | None = None,
    remark: Callable[[str], None] = log.warning,
) -> ChainedPipeline:
    """Build the pipeline from engine names; reads the phrase book. `warm_up` or first use loads the models.

    In a language without a phrase book or a recogniser, the offline brain answers that it knows no commands.

    Args:
        phrases_dir: Folder of ``<language>.yaml``; None uses the installed phrase books.
        chat_url: Base URL of the endpoint of the ``chat`` workflow.
        voice: Default voice for text to speech; "" uses the engine's default.
        recognisers: Utterances that are recognised at once, each in a process of its own.
        wording: The sentences of the language; None reads the installed ones.
        remark: Called with one line for each part that the language lacks.

    Raises:
        SettingsError: An unknown name, an invalid phrase book, or a missing chat endpoint.
        SpeechError: A package is missing.
    """
    from appliance.speech.stt import open_stt
    from appliance.speech.tts import open_tts
    from appliance.speech.workflows import ChatEndpoint, open_workflow

    wording = wording or Wording(language)
    book = _load_book(phrases_dir or config_folder("phrases"), language, wording, remark)
    try:
        ears: SpeechToText = open_stt(stt, book, language=language, recognisers=recognisers)
    except LanguageError as exc:
        remark(f"the offline brain does not understand speech: {exc}")
        ears, workflow, book = _Deaf(), "phrases", _empty_book(language, wording)
    try:
        speaker = open_tts(tts, language=language, voice=voice)
    except LanguageError as exc:
        remark(f"the offline brain has no voice: {exc}")
        speaker = _Mute(str(exc))
    if workflow == "phrases" and not wording.has("brain.no_commands"):
        speaker = _Mute(f"no wording for language {language!r}, and its voice does not speak English")
    answers = open_workflow(workflow, book, ChatEndpoint(url=chat_url, model=chat_model, key=chat_key))
    return ChainedPipeline(stt=ears, workflow=answers, tts=speaker)


class _Deaf:
    """A `stages.SpeechToText` for a language that no engine understands."""

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        return Transcript("")


class _Mute:
    """A `stages.TextToSpeech` for a language that no engine speaks."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0) -> bytes:
        raise LanguageError(self._reason)


def _load_book(folder: Path, language: str, wording: Wording, remark: Callable[[str], None]) -> PhraseBook:
    try:
        from appliance.speech.phrases import PhraseBook
    except ImportError as exc:
        raise SpeechError(
            f"the offline brain needs Python packages that are missing ({exc.name}); "
            "install them: pip install 'voice-appliance[offline]'"
        ) from None
    try:
        book = PhraseBook.load(folder, language, wording)
    except LanguageError as exc:
        remark(f"the offline brain knows no commands: {exc}")
        return _empty_book(language, wording)
    if not wording.has("brain.done"):
        remark(f"the offline brain knows no commands: no wording for language {language!r}")
        return _empty_book(language, wording)
    return book


def _empty_book(language: str, wording: Wording) -> PhraseBook:
    from appliance.speech.phrases import PhraseBook

    return PhraseBook({"language": language, "phrases": []}, name="", wording=wording)
