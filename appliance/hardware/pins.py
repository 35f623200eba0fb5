"""gpiozero pin factories by name, without a fallback: the user would notice a wrong factory only by lost presses.

Facts (established elsewhere): version 1 of libgpiod has the same import name as version 2 and other functions.
RPi.GPIO's edge detection fails on every model from kernel 6.6 on, and RPi.GPIO does not run on a Pi 5; the
``rpi-lgpio`` shim uses the same module name and works. lgpio polls 1,800 times per second; it has no wheel for Python
3.13, and an empty package of that name exists. The chip is chosen by its label, because its number changes with the
kernel.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from appliance.errors import BadPin, PinFactoryUnavailable, PinLibraryMissing, one_line, reason_of

__all__ = ["CONSUMER", "EDGES", "check_pin_library", "claimed", "given_back", "labelled_chip", "open_pin_factory"]

log = logging.getLogger(__name__)

_LABELS = ("pinctrl-rp1", "pinctrl-bcm2711", "pinctrl-bcm2835")
CONSUMER = "voice-appliance"
"""The name under which the kernel lists lines that gpiod holds for us."""
EDGES = 1024
"""Edges of one line that the kernel keeps until they are read."""
_RPIGPIO_BROKEN_FROM = (6, 6)


def open_pin_factory(name: str, *, chip: Any = None, requests: Mapping[int, tuple[Any, bool]] | None = None) -> Any:
    """Return the gpiozero pin factory with this name.

    Args:
        name: "gpiod", "lgpio", "rpigpio" or "mock".
        chip: An open ``gpiod.Chip`` that gpiod's factory takes over.
        requests: See `GpiodFactory`.

    Raises:
        PinFactoryUnavailable: The factory cannot work on this machine; the message says what to do.
        PinLibraryMissing: See `check_pin_library`.
    """
    factories: dict[str, Callable[[], Any]] = {
        "gpiod": partial(_gpiod, chip, requests),
        "lgpio": _lgpio,
        "rpigpio": _rpigpio,
        "mock": _mock,
    }
    if name not in factories:
        raise PinFactoryUnavailable(f"pins.factory: {name!r} is not a pin factory; allowed: {', '.join(factories)}")
    return factories[name]()


def check_pin_library(name: str) -> None:
    """Import the Python package of a pin factory; opens no pin.

    Raises:
        PinFactoryUnavailable: The package does not work with this kernel.
        PinLibraryMissing: The package is missing or cannot be loaded; the message says what to do.
    """
    if name in _LIBRARIES:
        from tempfile import TemporaryDirectory  # takes 10 ms, which `first_light` does not have

        with TemporaryDirectory() as folder, chdir(folder):  # lgpio creates a pipe at import
            _LIBRARIES[name]()


def _mock() -> Any:
    from gpiozero.pins.mock import MockFactory, MockPWMPin

    return MockFactory(pin_class=MockPWMPin)


def _gpiod(chip: Any, requests: Mapping[int, tuple[Any, bool]] | None) -> Any:
    gpiod = _imported_gpiod()
    from appliance.hardware.gpiod_pins import GpiodFactory

    return GpiodFactory(chip or labelled_chip(gpiod), requests)


def _imported_gpiod() -> Any:
    try:
        import gpiod
    except ImportError:
        raise PinLibraryMissing('gpiod is not installed: pip install "voice-appliance[gpio]"') from None
    if not hasattr(gpiod, "request_lines"):
        raise PinLibraryMissing('the installed gpiod is version 1: pip install "gpiod>=2.1"')
    return gpiod


def labelled_chip(gpiod: Any) -> Any:
    """Return the open chip with the pin header.

    Raises:
        PinFactoryUnavailable: There is none, or it cannot be opened.
    """
    found: list[str] = []
    problem = ""
    for path in sorted(Path("/dev").glob("gpiochip[0-9]*")):
        try:
            chip = gpiod.Chip(str(path))
        except OSError as exc:
            problem = f"{path}: {exc.strerror}"
            continue
        label = chip.get_info().label
        if label in _LABELS:
            return chip
        chip.close()
        found.append(label)
    seen = problem or f"chips: {', '.join(found) or 'none'}"
    raise PinFactoryUnavailable(
        f"gpiod finds no pin header ({seen}): is this a Raspberry Pi, and is the user in the group 'gpio'? "
        'Without hardware: pins.factory = "mock"'
    )


def _lgpio() -> Any:
    if not os.access(".", os.W_OK):
        raise PinFactoryUnavailable(
            f"lgpio creates pipes in the working directory, and {Path.cwd()} is not writable: "
            "set WorkingDirectory= in the unit, or start from another folder"
        )
    lgpio = _imported_lgpio()
    from gpiozero.pins.lgpio import LGPIOFactory

    try:
        return LGPIOFactory(chip=_chip(lgpio))
    except Exception as exc:  # noqa: BLE001 - lgpio.error is defined at import
        raise PinFactoryUnavailable(
            f"lgpio cannot open the pins ({exc}): is this a Raspberry Pi, and is the user in the group 'gpio'? "
            'Without hardware: pins.factory = "mock"'
        ) from None


def _imported_lgpio() -> Any:
    try:
        import lgpio
    except ImportError:
        raise PinLibraryMissing("lgpio is not installed: apt-get install python3-lgpio") from None
    if not hasattr(lgpio, "gpiochip_open"):
        raise PinLibraryMissing("the installed lgpio package is empty: apt-get install python3-lgpio")
    return lgpio


def _chip(lgpio: Any) -> int:
    """Return the current number of the chip with the pin header; 0 if no label matches."""
    numbers = sorted(int(path.name.removeprefix("gpiochip")) for path in Path("/dev").glob("gpiochip[0-9]*"))
    for number in numbers:
        handle = lgpio.gpiochip_open(number)
        try:
            label = lgpio.gpio_get_chip_info(handle)[3]
        finally:
            lgpio.gpiochip_close(handle)
        if label in _LABELS:
            return number
    return 0


def _rpigpio() -> Any:
    _imported_rpigpio()
    from gpiozero.pins.rpigpio import RPiGPIOFactory

    return RPiGPIOFactory()


def _imported_rpigpio() -> Any:
    try:
        import RPi.GPIO as GPIO
    except (ImportError, RuntimeError) as exc:
        raise PinLibraryMissing(
            f"RPi.GPIO cannot be used here ({exc}): "
            'pip install "voice-appliance[rpigpio]" on a Pi 4 or older, or pins.factory = "gpiod"'
        ) from None
    if not _is_shim(GPIO) and _kernel() >= _RPIGPIO_BROKEN_FROM:
        raise PinFactoryUnavailable(
            f"RPi.GPIO misses button presses on kernel {os.uname().release} (6.6 and newer), on every model: "
            'pins.factory = "gpiod", or install rpi-lgpio instead'
        )
    return GPIO


_LIBRARIES: Mapping[str, Callable[[], Any]] = {
    "gpiod": _imported_gpiod,
    "lgpio": _imported_lgpio,
    "rpigpio": _imported_rpigpio,
}
"""Imports the package of each pin factory that needs one; raises as `check_pin_library`."""


def _is_shim(gpio: Any) -> bool:
    """Tell whether the module is rpi-lgpio: pure Python under RPi.GPIO's name; the original is a C extension."""
    return not hasattr(gpio, "_GPIO") and "lgpio" in vars(gpio)


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", os.uname().release)[:2])


@contextmanager
def claimed(pin: int, purpose: str, factory: Any) -> Iterator[None]:
    """Convert errors of gpiozero and of the pin libraries about a pin to `BadPin`.

    Raises:
        BadPin: The pin does not exist, is in use, or is unsuitable.
    """
    from gpiozero.exc import GPIOPinInUse, PinError

    try:
        yield
    except GPIOPinInUse:
        raise BadPin(f"{purpose}: GPIO {pin} is used twice; give each function its own pin") from None
    except (PinError, ValueError) as exc:
        raise BadPin(f"{purpose}: GPIO {pin}: {exc}; pins are BCM numbers from 0 to 27") from None
    except Exception as exc:  # noqa: BLE001 - lgpio.error has no base class of its own
        if holder := _holder(factory, pin):
            raise BadPin(f"{purpose}: GPIO {pin} is used by {holder}; stop that program or use another pin") from None
        raise BadPin(f"{purpose}: GPIO {pin}: {reason_of(exc)}; is another program using it? (see gpioinfo)") from None


def _holder(factory: Any, pin: int) -> str:
    """Return the consumer of a line, in quotes, as the kernel names it; "" if it is free or not known."""
    try:
        holder = factory.consumer(pin) if hasattr(factory, "consumer") else _lgpio_consumer(factory.chip, pin)
    except Exception:  # noqa: BLE001 - no chip, no such line, lgpio.error: the first error says enough
        return ""
    return f"'{one_line(holder, 40)}'" if holder else ""


def _lgpio_consumer(chip: int, pin: int) -> str:
    import lgpio

    handle = lgpio.gpiochip_open(chip)
    try:
        _, _, flags, _, user = lgpio.gpio_get_line_info(handle, pin)
    finally:
        lgpio.gpiochip_close(handle)
    return (user or "the kernel") if flags & 1 else ""


def given_back(device: Any) -> None:
    """Close a gpiozero device; log a failure (the chip may be gone) instead of raising it."""
    try:
        device.close()
    except Exception as exc:  # noqa: BLE001 - lgpio.error
        log.warning("cannot release a pin: %s", exc)
