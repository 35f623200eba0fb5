"""The stages of the offline brain, as interfaces: speech to text → workflow → text to speech.

Pure. The settings select each stage by name; `pipeline.py` chains them, and `server.py` serves the pipeline
over the Realtime protocol (`model.py`). A stage MUST NOT block the event loop: blocking work runs on a thread or in a
child process.

Audio between stages is PCM16 mono little-endian at 24 kHz.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

__all__ = [
    "CallPart",
    "Part",
    "ResponseRequest",
    "SpeechToText",
    "SpokenPart",
    "TextPart",
    "TextToSpeech",
    "Transcript",
    "VoicePipeline",
    "Workflow",
    "closed_after",
]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transcript:
    """The result of speech to text for one utterance."""

    text: str
    """The words, lower case; "" if no speech was recognised."""
    is_command: bool = False
    """True only if the grammar and the open language model agree on a phrase of the phrase book."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """Everything that a workflow gets to produce an answer."""

    items: Sequence[Mapping[str, Any]]
    """The conversation in order, as wire items; user audio carries its transcript."""
    tools: Sequence[Mapping[str, Any]]
    """Function tools of the session or of this response, in the flat wire shape."""
    instructions: str = ""
    tool_choice: str | Mapping[str, Any] = "auto"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of the answer's text, as the workflow produces it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A call to one of the request's tools."""

    name: str
    arguments: str
    """A JSON object as text."""


@dataclass(frozen=True, slots=True)
class SpokenPart:
    """One sentence of the answer with its audio."""

    text: str
    pcm: bytes = field(repr=False)
    """PCM16 mono at 24 kHz."""


Part: TypeAlias = TextPart | CallPart | SpokenPart


@asynccontextmanager
async def closed_after(parts: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close an answer at the end of the block; async generators can be closed, other iterators need not."""
    try:
        yield parts
    finally:
        if (close := getattr(parts, "aclose", None)) is not None:
            await close()


class SpeechToText(Protocol):
    """Speech to text. MUST be safe for several sessions at once; MAY process one utterance at a time.

    MAY have ``async warm_up()``, which loads what the first utterance would load, and ``close()``.
    """

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """Recognise one whole utterance.

        Args:
            pcm: PCM16 mono at 24 kHz, from the session's input buffer.
            tools: The session's tools; they determine which phrases are live.

        Raises:
            SpeechError: The engine failed; the server reports ``…transcription.failed``.
        """


class Workflow(Protocol):
    """Decides what to say and which tools to call."""

    def respond(self, request: ResponseRequest) -> AsyncIterator[TextPart | CallPart]:
        """Stream the answer; closing the iterator cancels it."""


class TextToSpeech(Protocol):
    """Text to speech."""

    async def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0) -> bytes:
        """Speak one sentence.

        Returns:
            PCM16 mono at 24 kHz.

        Raises:
            SpeechError: The engine is missing or failed; if missing, the message names the Debian package to install.
        """


class VoicePipeline(Protocol):
    """The interface of the pipeline that the server uses."""

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `SpeechToText.transcribe`."""

    def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        """Stream the answer: one `SpokenPart` a sentence (`TextPart`s if not `spoken`), and `CallPart`s.

        Each sentence is yielded as soon as it is synthesised. Closing the iterator cancels the rest.
        """
