"""Speech to text: a table of engines by name, each imported on first use.

An engine is a `stages.SpeechToText`. The only one so far is ``pocketsphinx`` (English; its wheel includes the model).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

from appliance.plugins import named
from appliance.speech.stages import SpeechToText
from appliance.speech.stt.pool import RecogniserPool

if TYPE_CHECKING:
    from appliance.speech.phrases import PhraseBook

__all__ = ["ENGINES", "Factory", "open_stt"]


class Factory(Protocol):
    """Creates an engine; called once for each recogniser. MUST NOT do I/O."""

    def __call__(self, book: PhraseBook, *, language: str) -> SpeechToText: ...


def open_stt(name: str, book: PhraseBook, *, language: str = "en", recognisers: int = 1) -> RecogniserPool:
    """Return engines with this name; their models are loaded at the first utterance, or by ``warm_up``.

    Args:
        recognisers: How many utterances are recognised at once.

    Raises:
        SettingsError: There is no such engine.
        SpeechError: Its package is missing, or it does not support the language.
    """
    factory: Factory = named(ENGINES, name, kind="speech to text", group="voice_appliance.stt")
    return RecogniserPool([factory(book, language=language) for _ in range(recognisers)])


ENGINES: Mapping[str, str] = {"pocketsphinx": "appliance.speech.stt.worker:WorkerSpeechToText"}
"""Import path of each `Factory`; a package adds one with an entry point in the group ``voice_appliance.stt``."""
