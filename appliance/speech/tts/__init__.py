"""Text to speech: a table of engines by name, each imported on first use.

An engine is a `stages.TextToSpeech`. The two built-in engines run a Debian program once per sentence:

========== ================== ===========================================================
Name       Debian package     Voice
========== ================== ===========================================================
flite      ``flite``          English; pleasant, and speech recognisers understand it
espeak-ng  ``espeak-ng``      about a hundred languages; robotic
========== ================== ===========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from appliance.plugins import named
from appliance.speech.stages import TextToSpeech

__all__ = ["ENGINES", "Factory", "open_tts"]

Factory: TypeAlias = Callable[[str, str], TextToSpeech]
"""(language, default voice) → engine. MUST NOT do I/O."""


def open_tts(name: str, *, language: str = "en", voice: str = "") -> TextToSpeech:
    """Return the engine with this name; its program is looked up at the first sentence.

    Args:
        name: "auto" is flite for English and espeak-ng for any other language.

    Raises:
        SettingsError: There is no such engine.
        LanguageError: It does not speak the language.
    """
    if name == "auto":
        name = "flite" if language.lower().startswith("en") else "espeak-ng"
    factory: Factory = named(ENGINES, name, kind="text to speech", group="voice_appliance.tts")
    return factory(language, voice)


ENGINES: Mapping[str, str] = {
    "flite": "appliance.speech.tts.programs:flite",
    "espeak-ng": "appliance.speech.tts.programs:espeak",
}
"""Import path of each `Factory`; a package adds one with an entry point in the group ``voice_appliance.tts``."""
