"""Speech to text: a table of engines by name, each imported when it is first asked for.

An engine is a `stages.SpeechToText`. There is one so far: ``pocketsphinx`` (English; its wheel carries the model).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, TypeAlias

from appliance.brain.engines import named
from appliance.brain.stages import SpeechToText

if TYPE_CHECKING:
    from appliance.brain.phrases import PhraseBook

__all__ = ["ENGINES", "Factory", "Loadable", "open_stt"]


class Loadable(Protocol):
    """What an engine MAY have: loading its models before the first utterance."""

    async def warm_up(self) -> None:
        """Load what `transcribe` would load at its first call."""


Factory: TypeAlias = "Callable[[PhraseBook, str], SpeechToText]"
"""(phrase book, language) → engine. MUST do no I/O."""


def open_stt(name: str, book: PhraseBook, *, language: str = "en") -> SpeechToText:
    """Return the engine of a name; its models are loaded at the first utterance, or by `Loadable.warm_up`.

    Raises:
        SettingsError: There is no such engine.
        SpeechError: Its package is missing, or it does not know the language.
    """
    return named(ENGINES, name, stage="speech to text")(book, language)


def _pocketsphinx(book: PhraseBook, language: str) -> SpeechToText:
    engine: SpeechToText = import_module("appliance.brain.stt.worker").WorkerSpeechToText(book, language=language)
    return engine


ENGINES: Mapping[str, Factory] = {"pocketsphinx": _pocketsphinx}
