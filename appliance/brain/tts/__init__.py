"""Text to speech: a table of engines by name, each imported when it is first asked for.

An engine is a `stages.TextToSpeech`. Both that are here are programs of Debian's, run once per sentence:

========== ================== ===========================================================
Name       Debian package     Voice
========== ================== ===========================================================
flite      ``flite``          English; pleasant, and the one that recognisers understand
espeak-ng  ``espeak-ng``      about a hundred languages; robotic
========== ================== ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TypeAlias

from appliance.brain.engines import named
from appliance.brain.stages import TextToSpeech

__all__ = ["ENGINES", "Factory", "open_tts"]

Factory: TypeAlias = Callable[[str, str], TextToSpeech]
"""(language, default voice) → engine. MUST do no I/O."""


def open_tts(name: str, *, language: str = "en", voice: str = "") -> TextToSpeech:
    """Return the engine of a name; its program is looked for at the first sentence.

    Raises:
        SettingsError: There is no such engine.
        SpeechError: It cannot speak the language.
    """
    return named(ENGINES, name, stage="text to speech")(language, voice)


def _flite(language: str, voice: str) -> TextToSpeech:
    engine: TextToSpeech = import_module("appliance.brain.tts.programs").flite(language, voice)
    return engine


def _espeak(language: str, voice: str) -> TextToSpeech:
    engine: TextToSpeech = import_module("appliance.brain.tts.programs").espeak(language, voice)
    return engine


ENGINES: Mapping[str, Factory] = {"flite": _flite, "espeak-ng": _espeak}
