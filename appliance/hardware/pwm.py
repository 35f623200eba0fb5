"""The PWM hardware of a Raspberry Pi, through ``/sys/class/pwm`` (kernel, ABI/testing/sysfs-class-pwm)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

__all__ = ["PwmChannel"]

_PWM = Path("/sys/class/pwm")
_PWM_CHANNELS: Mapping[int, int] = {12: 0, 13: 1}  # 18 and 19 carry the sound of a HAT
_PWM_DEVICES = ("1f00098000.pwm", "fe20c000.pwm", "3f20c000.pwm", "2020c000.pwm")  # of the Pi 5, 4, 2 and 3, 1 and Zero


class PwmChannel:
    """One channel, enabled and dark."""

    _PERIOD_NS = 1_000_000  # 1 kHz

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "period").write_text(str(self._PERIOD_NS))
        self.write(0.0)
        (folder / "enable").write_text("1")

    @classmethod
    def of_pin(cls, number: int) -> PwmChannel | None:
        """Return the channel of a pin; None if the pin has none, or the overlay or the permission is missing."""
        channel = _PWM_CHANNELS.get(number)
        chips = [one for one in sorted(_PWM.glob("pwmchip*")) if (one / "device").resolve().name in _PWM_DEVICES]
        if channel is None or not chips:
            return None
        folder = chips[0] / f"pwm{channel}"
        try:
            if not folder.exists():
                (chips[0] / "export").write_text(str(channel))
            return cls(folder)
        except OSError:
            return None

    def write(self, duty: float) -> None:
        """Set the share of the time that the pin is high, 0.0 to 1.0."""
        (self._folder / "duty_cycle").write_text(str(round(duty * self._PERIOD_NS)))
