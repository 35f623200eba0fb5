"""Speech to text: a table of engines by name, each imported when it is first asked for.

An engine is a `stages.SpeechToText`. There is one so far: ``pocketsphinx`` (English; its wheel carries the model).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from appliance.plugins import named
from appliance.speech.stages import SpeechToText

if TYPE_CHECKING:
    from appliance.speech.phrases import PhraseBook

__all__ = ["ENGINES", "Factory", "Loadable", "open_stt"]


class Loadable(Protocol):
    """What an engine MAY have: loading its models before the first utterance."""

    async def warm_up(self) -> None:
        """Load what `transcribe` would load at its first call."""


class Factory(Protocol):
    """What makes an engine. MUST do no I/O."""

    def __call__(self, book: PhraseBook, *, language: str) -> SpeechToText: ...


def open_stt(name: str, book: PhraseBook, *, language: str = "en") -> SpeechToText:
    """Return the engine of a name; its models are loaded at the first utterance, or by `Loadable.warm_up`.

    Raises:
        SettingsError: There is no such engine.
        SpeechError: Its package is missing, or it does not know the language.
    """
    factory: Factory = named(ENGINES, name, kind="speech to text", group="voice_appliance.stt")
    return factory(book, language=language)


ENGINES: Mapping[str, str] = {"pocketsphinx": "appliance.speech.stt.worker:WorkerSpeechToText"}
"""Where each `Factory` is; a package adds one by an entry point in the group ``voice_appliance.stt``."""
