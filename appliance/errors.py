"""Every error that the appliance raises on purpose.

::

    ApplianceError                 str() is one line: the value, the limit, the remedy
     ├─ SettingsError (ValueError)     a key, type or value in the configuration; exit status 2
     ├─ ProtocolError
     │   ├─ LocalProtocolError         we broke the protocol: our bug, crash
     │   └─ RemoteProtocolError        they broke it: report, and reconnect if it continues
     ├─ LinkError (ConnectionError)    the connection to the model could not be made or was lost
     │   └─ SessionNotOpen             a call to a session that is not open, or from another thread
     ├─ AudioError (OSError)
     │   ├─ CardMissing                no such card, or it was unplugged
     │   ├─ CardBusy                   another process holds it
     │   └─ RateUnsupported            the card refuses the requested sampling rate
     ├─ HardwareError                  exit status 2
     │   ├─ BadPin (ValueError)        no such pin, or the pin is taken
     │   └─ PinFactoryUnavailable      the named pin factory cannot work here
     │       └─ PinLibraryMissing (SettingsError)   its Python package is missing or unusable
     ├─ ToolError                      a tool was declared or called wrongly
     ├─ SpeechError                    an engine of the offline brain is missing or failed; exit status 2
     │  ├─ LanguageError               a phrase book, an engine or a voice does not have the language
     │  └─ SpeechBusy                  all recognisers are busy, and too many utterances wait
     └─ StorageError (OSError)         a file could not be written (disk full, no permission)

Errors are raised where the cause is known, and reported once, where the program can act on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import ClassVar, Final

from appliance.safe_text import escape, redact

__all__ = [
    "ApplianceError",
    "AudioError",
    "BadPin",
    "CardBusy",
    "CardMissing",
    "HardwareError",
    "LanguageError",
    "LinkError",
    "LocalProtocolError",
    "PinFactoryUnavailable",
    "PinLibraryMissing",
    "ProtocolError",
    "RateUnsupported",
    "RemoteProtocolError",
    "SessionNotOpen",
    "SettingsError",
    "SpeechBusy",
    "SpeechError",
    "StorageError",
    "ToolError",
    "did_you_mean",
    "first_error",
    "first_of",
    "is_loopback",
    "one_line",
    "reason_of",
    "shown",
]


_LONGEST_SHOWN: Final = 60  # characters of a value in a message


def is_loopback(host: str) -> bool:
    """Tell whether a host is "localhost" or a loopback IP address."""
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def one_line(text: str, most: int | None = None) -> str:
    """Return printable text on one line, of at most `most` characters, with secrets redacted."""
    line = escape(" ".join(redact(text).split()))
    return line if most is None or len(line) <= most else line[: most - 1] + "…"


def shown(value: object) -> str:
    """Return a value as in TOML, shortened, on one line, and with secrets redacted."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "a list"
    line = one_line(str(value), _LONGEST_SHOWN)
    return f'"{line}"' if isinstance(value, str) else line


def reason_of(error: Exception) -> str:
    """Return the reason of an operating system error, without the file name; the text of any other error."""
    return getattr(error, "strerror", None) or str(error)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" if a known word is close, else ""; ignores case."""
    from difflib import get_close_matches

    folded = {one.casefold(): one for one in known}
    near = get_close_matches(word[:100].casefold(), folded, n=1)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


class ApplianceError(Exception):
    """Base class of every error that the appliance raises on purpose."""

    exit_status: ClassVar[int] = 1
    """Of a command that this error ends. 2: a restart does not help, and systemd does not repeat it."""


class SettingsError(ApplianceError, ValueError):
    """The configuration names an unknown key, a wrong type or an impossible value."""

    exit_status = 2


class ProtocolError(ApplianceError):
    """One side broke the Realtime protocol."""


class LocalProtocolError(ProtocolError):
    """We are about to send what the protocol forbids: our bug."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""


class LinkError(ApplianceError, ConnectionError):
    """The connection to the model could not be made or was lost."""


class SessionNotOpen(LinkError):
    """A program called a session that is not open, or from a thread other than that of its event loop."""


class AudioError(ApplianceError, OSError):
    """A sound card could not be used."""


class CardMissing(AudioError):
    """No card matches, or the card was unplugged."""


class CardBusy(AudioError):
    """Another process holds the card."""


class RateUnsupported(AudioError):
    """The card refuses the requested sampling rate."""


class HardwareError(ApplianceError):
    """A button, a light or a pin could not be used."""

    exit_status = 2


class BadPin(HardwareError, ValueError):
    """The pin does not exist, or is in use."""


class PinFactoryUnavailable(HardwareError):
    """The named pin factory cannot work on this machine."""


class PinLibraryMissing(PinFactoryUnavailable, SettingsError):
    """The Python package of the named pin factory is missing or unusable: a restart does not help."""


class ToolError(ApplianceError):
    """A tool was declared wrongly, or called with invalid arguments."""


class SpeechError(ApplianceError):
    """An engine of the offline brain (speech to text, text to speech) is missing or failed."""

    exit_status = 2


class LanguageError(SpeechError):
    """A phrase book, an engine or a voice does not have the language."""


class SpeechBusy(SpeechError):
    """All recognisers are busy, and too many utterances wait."""


class StorageError(ApplianceError, OSError):
    """A file could not be written: the disk is full, or permission is missing."""


def first_of(error: BaseException) -> BaseException:
    """Return the first error of a group, however deep; any other error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextmanager
def first_error() -> Iterator[None]:
    """Replace a group that holds only `ApplianceError`s by its first error: one line for the user instead of a tree.

    ``except*`` cannot do this: what it raises is wrapped in a group again.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(ApplianceError)
        if ours is None or others is not None:
            raise
        raise first_of(ours) from None
