"""The light and the button before anything else is loaded: about 0.1 s after the start of the process.

Reads only the pins of the settings, with the libraries of Python and `gpiod`; the settings report what is wrong. The
light blinks on a thread of its own until the real one takes over. The kernel queues the edges of the button meanwhile,
and `GpiodFactory` reports them to the button, so a press during the start is not lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from appliance.hardware.pins import CONSUMER, EDGES, labelled_chip
from appliance.hardware.pwm import PwmChannel
from appliance.hardware.wiring import WIRING

__all__ = ["FirstLight", "read_wiring"]


def read_wiring(path: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the values of the keys of `WIRING`, of valid settings; with others anything may come.

    Args:
        overrides: ``KEY=VALUE`` of the command line.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file is not TOML, or a value does not fit.
    """
    import tomllib

    tables = tomllib.loads(path.read_text(encoding="utf-8-sig")) if path is not None else {}
    given = dict(one.partition("=")[::2] for one in overrides)
    wiring: dict[str, Any] = {}
    for dotted, default in WIRING.items():
        section, _, key = dotted.partition(".")
        table = tables.get(section, {})
        value = table.get(key, default) if isinstance(table, Mapping) else default
        value = given.get(dotted, environ.get(f"APPLIANCE_{section}__{key}".upper(), value))
        wiring[dotted] = _parsed(value, type(default)) if isinstance(value, str) else value
    return wiring


def _parsed(text: str, kind: type) -> Any:
    word = text.strip()
    return word.lower() in ("1", "t", "true", "y", "yes", "on") if kind is bool else kind(word)


class FirstLight:
    """The blinking light and the watched button; `hand_over` ends the blinking."""

    def __init__(self) -> None:
        self.requests: dict[int, tuple[Any, bool]] = {}
        """Line → request and level, for `GpiodFactory`."""
        self.chip: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @classmethod
    def shown(cls, path: Path | None, environ: Mapping[str, str], overrides: Sequence[str] = ()) -> FirstLight | None:
        """Show that the appliance starts, and watch the button; None if gpiod is not used or finds no pins."""
        try:
            wiring = read_wiring(path, environ, overrides)
            if wiring["pins.factory"] != "gpiod":
                return None
            import gpiod

            one = cls()
            one.chip = labelled_chip(gpiod)
        except Exception:  # noqa: BLE001 - whatever is wrong, the settings or the real part report it
            return None
        for open_part in (one._open_light, one._open_button):
            with suppress(Exception):  # as above
                open_part(wiring)
        return one

    def hand_over(self) -> tuple[Any, dict[int, tuple[Any, bool]]]:
        """End the blinking; return the chip and the requests of lines, which the caller then owns."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        return self.chip, self.requests

    def _open_button(self, wiring: Mapping[str, Any]) -> None:
        from gpiod.line import Bias, Direction, Edge

        bias = {"up": Bias.PULL_UP, "down": Bias.PULL_DOWN, "none": Bias.DISABLED}[wiring["button.pull"]]
        self._request(wiring["button.pin"], direction=Direction.INPUT, bias=bias, edge_detection=Edge.BOTH)

    def _open_light(self, wiring: Mapping[str, Any]) -> None:
        from gpiod.line import Direction, Value

        kinds = [one.strip() for one in wiring["light.kind"].split("+")]
        if not {"led", "rgb"} & set(kinds):
            return
        pin = wiring["light.pin" if "led" in kinds else "light.blue_pin"]
        levels = (Value.INACTIVE, Value.ACTIVE) if wiring["light.active_high"] else (Value.ACTIVE, Value.INACTIVE)
        if (channel := PwmChannel.of_pin(pin)) is not None:
            self._blink(lambda on: channel.write(float(bool(levels[on]))))
        else:
            request = self._request(pin, direction=Direction.OUTPUT, output_value=levels[True])
            self._blink(lambda on: request.set_value(pin, levels[on]))

    def _request(self, pin: int, **settings: Any) -> Any:
        import gpiod

        request = self.chip.request_lines(
            {pin: gpiod.LineSettings(**settings)}, consumer=CONSUMER, event_buffer_size=EDGES
        )
        self.requests[pin] = (request, bool(request.get_value(pin)))
        return request

    def _blink(self, switch: Callable[[bool], None]) -> None:
        from appliance.hardware.patterns import PATTERNS

        on_s = PATTERNS["booting"].period_s * PATTERNS["booting"].duty
        off_s = PATTERNS["booting"].period_s - on_s

        def run() -> None:
            with suppress(OSError):
                while True:
                    for is_on, wait_s in ((True, on_s), (False, off_s)):
                        switch(is_on)
                        if self._stop.wait(wait_s):
                            return

        self._thread = threading.Thread(target=run, name="first-light", daemon=True)
        self._thread.start()
