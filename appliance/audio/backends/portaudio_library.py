"""What PyAudio does not offer of PortAudio: the text of the last ALSA error, and the size of the card's buffer."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_double, c_int, c_long
from functools import cache
from typing import Any

__all__ = ["ask_for_buffer", "last_host_error"]


class _DeviceInfo(Structure):  # portaudio.h, PaDeviceInfo
    _fields_ = (
        ("structVersion", c_int),
        ("name", c_char_p),
        ("hostApi", c_int),
        ("maxInputChannels", c_int),
        ("maxOutputChannels", c_int),
        ("defaultLowInputLatency", c_double),
        ("defaultLowOutputLatency", c_double),
        ("defaultHighInputLatency", c_double),
        ("defaultHighOutputLatency", c_double),
        ("defaultSampleRate", c_double),
    )


class _HostErrorInfo(Structure):  # portaudio.h, PaHostErrorInfo
    _fields_ = (("hostApiType", c_int), ("errorCode", c_long), ("errorText", c_char_p))


@cache
def _library() -> Any:
    try:
        library = ctypes.CDLL("libportaudio.so.2")
    except OSError:  # PyAudio was built with a PortAudio of its own
        return None
    library.Pa_GetDeviceInfo.restype = POINTER(_DeviceInfo)
    library.Pa_GetLastHostErrorInfo.restype = POINTER(_HostErrorInfo)
    return library


def last_host_error() -> str:
    """Return ALSA's text for the last error -9999, or "".

    PortAudio records it only on the thread that called ``PyAudio()``.
    """
    library = _library()
    info = library.Pa_GetLastHostErrorInfo() if library is not None else None
    text = info[0].errorText if info else None
    return text.decode(errors="replace") if text else ""


def ask_for_buffer(index: int, seconds: float) -> None:
    """Set the size of the card's buffer for the next opening of a device.

    PyAudio opens streams with the device's default low latency, a buffer of two periods, and has no argument for
    another. The default stands in memory that PortAudio hands out.
    """
    library = _library()
    info = library.Pa_GetDeviceInfo(index) if library is not None else None
    if info:
        info[0].defaultLowInputLatency = info[0].defaultLowOutputLatency = seconds
