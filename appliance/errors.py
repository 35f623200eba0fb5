"""Every error that the appliance raises on purpose.

::

    ApplianceError                 str() is one line: the value, the limit, the remedy
     ├─ SettingsError (ValueError)     a key, type or value in the configuration; exit status 2
     ├─ ProtocolError
     │   ├─ LocalProtocolError         we broke the protocol: our bug, crash
     │   └─ RemoteProtocolError        they broke it: report, and reconnect if it goes on
     ├─ LinkError (ConnectionError)    the connection to the model could not be made or was lost
     ├─ AudioError (OSError)
     │   ├─ CardMissing                no such card, or it was unplugged
     │   ├─ CardBusy                   another process holds it
     │   └─ RateUnsupported            the card refuses the asked sampling rate
     ├─ HardwareError
     │   ├─ BadPin (ValueError)        no such pin, or the pin is taken
     │   └─ PinFactoryUnavailable      the named pin factory cannot work here
     ├─ ToolError                      a tool was declared or called wrongly
     ├─ SpeechError                    an engine of the offline brain is missing or failed
     │  └─ LanguageError               a phrase book, an engine or a voice does not have the language
     └─ StorageError (OSError)         a file could not be written (disk full, no permission)

Errors are raised where the cause is known and reported once, where somebody can act on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Final

__all__ = [
    "KEY_SHAPE",
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
    "ProtocolError",
    "RateUnsupported",
    "RemoteProtocolError",
    "SettingsError",
    "SpeechError",
    "StorageError",
    "ToolError",
    "bare_address",
    "did_you_mean",
    "first_error",
    "is_loopback",
]


KEY_SHAPE: Final = re.compile(r"\b(sk|ek|rk)[-_][\w*.-]{6,}")
"""What API keys of OpenAI and its kin look like; whoever prints foreign text masks this in it."""


def bare_address(url: str) -> str:
    """Return an address without its query and user: some servers take their key there."""
    return re.sub(r"//[^/@]*@", "//", url.partition("?")[0])


def is_loopback(host: str) -> bool:
    """Tell whether a host name or an IP address is this machine."""
    from ipaddress import ip_address

    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" where something known is near, else ""; the case does not count."""
    from difflib import get_close_matches

    folded = {one.casefold(): one for one in known}
    near = get_close_matches(word[:100].casefold(), folded, n=1)
    return f"; did you mean {folded[near[0]]!r}?" if near else ""


class ApplianceError(Exception):
    """The root; catch it to catch every error that the appliance raises on purpose."""


class SettingsError(ApplianceError, ValueError):
    """The configuration names an unknown key, a wrong type or an impossible value."""


class ProtocolError(ApplianceError):
    """The Realtime protocol was broken by one side."""


class LocalProtocolError(ProtocolError):
    """We are about to send what the protocol forbids: a bug of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids."""


class LinkError(ApplianceError, ConnectionError):
    """The connection to the model could not be made or was lost."""


class AudioError(ApplianceError, OSError):
    """A sound card could not be used."""


class CardMissing(AudioError):
    """No card matches, or the card was unplugged."""


class CardBusy(AudioError):
    """Another process holds the card."""


class RateUnsupported(AudioError):
    """The card refuses the sampling rate that was asked of it."""


class HardwareError(ApplianceError):
    """A button, a light or the pins below them could not be used."""


class BadPin(HardwareError, ValueError):
    """The pin does not exist, or something else owns it."""


class PinFactoryUnavailable(HardwareError):
    """The pin factory that was named cannot work on this machine."""


class ToolError(ApplianceError):
    """A tool was declared wrongly, or called with arguments that do not fit."""


class SpeechError(ApplianceError):
    """An engine of the offline brain (speech to text, text to speech) is missing or failed."""


class LanguageError(SpeechError):
    """A phrase book, an engine or a voice does not have the language."""


class StorageError(ApplianceError, OSError):
    """A file could not be written: the disk is full, or the place is not ours."""


@contextmanager
def first_error() -> Iterator[None]:
    """Raise the first of a group of errors of ours alone: one line for the user instead of a tree.

    Not by ``except*``: what is raised in there comes out in a group again.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        ours, others = group.split(ApplianceError)
        if ours is None or others is not None:
            raise
        error: BaseException = ours
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from None
