"""The stages of the offline brain, as interfaces: speech to text → workflow → text to speech.

Pure: types only. A stage is chosen by name in the settings; `pipeline.py` chains them, `server.py` puts the chain
behind the Realtime protocol (`model.py`). All stages run on the event loop's thread pool where they block.

Audio between stages is PCM16 mono little-endian; each stage says its rate.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

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
]


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was understood of one utterance."""

    text: str
    """As heard, lower case, "" for nothing."""
    is_command: bool = False
    """True only where the grammar and the open language model agree that a phrase of the phrase book was said."""


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """Everything that a workflow may know when it answers."""

    items: Sequence[Mapping[str, Any]]
    """The conversation in order, as wire items; user audio carries its transcript."""
    tools: Sequence[Mapping[str, Any]]
    """Function tools of the session or of this response, flat wire shape."""
    instructions: str = ""
    tool_choice: str | Mapping[str, Any] = "auto"
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextPart:
    """A piece of the answer's text, as the workflow produces it."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """A call of one of the request's tools."""

    name: str
    arguments: str
    """A JSON object as text."""


@dataclass(frozen=True, slots=True)
class SpokenPart:
    """One sentence of the answer with its audio."""

    text: str
    pcm: bytes = field(repr=False)
    """24 kHz."""


Part: TypeAlias = TextPart | CallPart | SpokenPart


class SpeechToText(Protocol):
    """Speech to text. MUST be usable from several sessions at once (one utterance at a time may be serialised)."""

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """Understand one whole utterance.

        Args:
            pcm: 24 kHz, as the session's input buffer held it.
            tools: The session's tools: they decide which phrases are live.

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
            SpeechError: The engine is missing or failed; the text names the Debian package to install.
        """


class VoicePipeline(Protocol):
    """The chain, as the server uses it."""

    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        """See `SpeechToText.transcribe`."""

    def respond(self, request: ResponseRequest, *, spoken: bool, voice: str, speed: float) -> AsyncIterator[Part]:
        """Stream the answer: `SpokenPart`s by sentence (or `TextPart`s where not `spoken`), and `CallPart`s.

        The first sentence leaves as soon as it is synthesised. Closing the iterator cancels the rest.
        """
