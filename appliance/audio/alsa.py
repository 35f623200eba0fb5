"""What PyAudio does not offer of libasound and of the C library: a PCM's parameters, and silence on standard error."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import byref, c_char_p, c_int, c_uint, c_void_p
from functools import cache

from appliance.conversation.events import Direction

__all__ = ["possible_parameters", "quiet_libraries"]

_STREAMS: dict[Direction, int] = {"playback": 0, "capture": 1}  # snd_pcm_stream_t
_NONBLOCK = 1
_FORMATS = {"S16_LE": 2, "S24_LE": 6, "S32_LE": 10, "S24_3LE": 32}  # snd_pcm_format_t
_RATES = (8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000)


def possible_parameters(pcm: str, direction: Direction) -> str:
    """Return the formats, channels and usual rates of a PCM, such as "hw:CARD=Device,DEV=0". Blocks briefly.

    Returns:
        "" if the PCM is missing or in use, or if libasound is missing.
    """
    try:
        lib = ctypes.CDLL("libasound.so.2")
    except OSError:
        return ""
    handle, parameters = c_void_p(), c_void_p()
    with quiet_libraries():
        if lib.snd_pcm_open(byref(handle), pcm.encode(), c_int(_STREAMS[direction]), c_int(_NONBLOCK)) < 0:
            return ""
        try:
            lib.snd_pcm_hw_params_malloc(byref(parameters))
            if lib.snd_pcm_hw_params_any(handle, parameters) < 0:
                return ""
            test_format, test_rate = lib.snd_pcm_hw_params_test_format, lib.snd_pcm_hw_params_test_rate
            formats = [name for name, value in _FORMATS.items() if test_format(handle, parameters, c_int(value)) == 0]
            rates = [str(rate) for rate in _RATES if test_rate(handle, parameters, c_uint(rate), c_int(0)) == 0]
            fewest, most = c_uint(), c_uint()
            lib.snd_pcm_hw_params_get_channels_min(parameters, byref(fewest))
            lib.snd_pcm_hw_params_get_channels_max(parameters, byref(most))
        finally:
            if parameters:
                lib.snd_pcm_hw_params_free(parameters)
            lib.snd_pcm_close(handle)
    channels = str(fewest.value) if fewest.value == most.value else f"{fewest.value} to {most.value}"
    return f"{' '.join(formats) or 'no usual format'}, {channels} channels, {', '.join(rates) or 'no usual rate'} Hz"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Drop what C libraries print, on every thread; Python's own standard error is not changed.

    libasound, PortAudio and JACK write through the C library's variable `stderr`: a page for each listing, and lines
    from the sound thread when a card disappears. The variable points to /dev/null meanwhile. File descriptor 2 stays as
    it is, so tracebacks and `faulthandler` still reach the journal. Nested use is allowed.
    """
    try:
        variable = c_void_p.in_dll(ctypes.CDLL(None), "stderr")
    except (OSError, ValueError):  # another C library
        yield
        return
    before = variable.value
    variable.value = _nowhere()
    try:
        yield
    finally:
        variable.value = before


@cache
def _nowhere() -> int | None:
    """Return a FILE that drops its input; never closed, because a sound thread may be writing to it."""
    libc = ctypes.CDLL(None)
    libc.fopen.restype, libc.fopen.argtypes = c_void_p, [c_char_p, c_char_p]
    opened: int | None = libc.fopen(b"/dev/null", b"w")
    return opened
