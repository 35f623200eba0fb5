"""LED strips on SPI 0: the wires DATA on GPIO 10 and, for APA102, CLOCK on GPIO 11. All LEDs show the same colour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from appliance.errors import HardwareError

__all__ = ["Strip", "apa102_frame", "open_apa102", "open_ws2812", "ws2812_frame"]

_APA102_HZ = 4_000_000
_WS2812_HZ = 2_400_000  # three bits per bit of the strip: 0.42 µs each
_RESET = bytes(90)  # 300 µs low; WS2812B needs 280


def apa102_frame(color: tuple[int, int, int], count: int) -> bytes:
    """Return the bytes for `count` LEDs of one colour (red, green, blue, 0 to 255).

    32 zero bits; per LED 111, five bits of brightness, blue, green, red; 32 zero bits, which SK9822 needs to take the
    colours over, and half a clock per LED for the delay of each (APA102 and SK9822 data sheets).
    """
    red, green, blue = color
    return bytes(4) + bytes((0xFF, blue, green, red)) * count + bytes(4 + (count + 15) // 16)


def ws2812_frame(color: tuple[int, int, int], count: int) -> bytes:
    """Return the bytes for `count` LEDs of one colour (red, green, blue, 0 to 255).

    Green, red, blue, highest bit first; a one is 110, a zero 100; low before, because SPI idles high on some boards,
    and after, which makes the LEDs take the colours over (WS2812B data sheet).
    """
    red, green, blue = color
    bits = "".join("110" if one == "1" else "100" for one in f"{green:08b}{red:08b}{blue:08b}")
    return _RESET + int(bits, 2).to_bytes(9, "big") * count + _RESET


class Strip:
    """One strip. An `Emitter`."""

    holds_level = True

    def __init__(self, bus: Any, frame: Any, count: int) -> None:
        self._bus = bus
        self._frame = frame
        self._count = count

    def write(self, color: tuple[float, float, float], level: float) -> None:
        red, green, blue = (round(255 * min(max(share * level, 0.0), 1.0)) for share in color)
        self._bus.writebytes2(self._frame((red, green, blue), self._count))

    def close(self) -> None:
        self.write((0.0, 0.0, 0.0), 0.0)
        self._bus.close()


def open_apa102(pins: Sequence[int], *, count: int = 3, **_: Any) -> Strip:
    """Open a strip of APA102, SK9822 or DotStar LEDs.

    Raises:
        HardwareError: See `open_ws2812`.
    """
    return Strip(_bus(_APA102_HZ), apa102_frame, count)


def open_ws2812(pins: Sequence[int], *, count: int = 3, **_: Any) -> Strip:
    """Open a strip of WS2812, SK6812 (RGB) or NeoPixel LEDs.

    Raises:
        HardwareError: The package spidev or the device is missing; the message says what to do.
    """
    return Strip(_bus(_WS2812_HZ), ws2812_frame, count)


def _bus(hertz: int) -> Any:
    try:
        import spidev
    except ImportError:
        raise HardwareError('light: spidev is not installed: pip install "voice-appliance[spi]"') from None
    bus = spidev.SpiDev()
    try:
        bus.open(0, 0)
        bus.max_speed_hz = hertz
        bus.mode = 0
    except OSError as exc:
        remedy = "add dtparam=spi=on to config.txt, and the user to the group 'spi'"
        raise HardwareError(f"light: /dev/spidev0.0: {exc.strerror or exc}; {remedy}") from None
    return bus
