"""Device status, read from kernel files. A value that this machine does not report is None, never a guess."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DeviceStatus", "StatusReader"]


@dataclass(frozen=True, slots=True)
class DeviceStatus:
    """One reading; None for a value that the machine does not report."""

    temperature_c: float | None
    uptime_s: int | None
    disk_free_percent: int | None
    load_1m: float | None
    memory_available_mb: int | None
    is_undervolted: bool | None


class StatusReader:
    """Reads the kernel files below `root`; tests pass their own folder."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root

    def read(self) -> DeviceStatus:
        """Read all values now, from a few small files."""
        uptime = self._number("proc/uptime")
        return DeviceStatus(
            temperature_c=self._temperature(),
            uptime_s=None if uptime is None else int(uptime),
            disk_free_percent=self._disk(),
            load_1m=self._number("proc/loadavg"),
            memory_available_mb=self._memory(),
            is_undervolted=self._undervolted(),
        )

    def _text(self, name: str) -> str:
        try:
            return (self._root / name).read_text(encoding="ascii", errors="replace")
        except OSError:
            return ""

    def _number(self, name: str) -> float | None:
        try:
            return float(self._text(name).split()[0])
        except (ValueError, IndexError):
            return None

    def _temperature(self) -> float | None:
        """Return the temperature of the first readable zone; on a Raspberry Pi, zone 0 is the processor."""
        for zone in sorted((self._root / "sys/class/thermal").glob("thermal_zone*")):
            millidegrees = self._number(f"sys/class/thermal/{zone.name}/temp")
            if millidegrees is not None:
                return round(millidegrees / 1000, 1)
        return None

    def _memory(self) -> int | None:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", self._text("proc/meminfo"), re.MULTILINE)
        return None if found is None else int(found[1]) // 1024

    def _disk(self) -> int | None:
        try:
            disk = os.statvfs(self._root)
        except OSError:
            return None
        return round(100 * disk.f_bavail / disk.f_blocks) if disk.f_blocks else None

    def _undervolted(self) -> bool | None:
        """Return the under-voltage flag of the Raspberry Pi firmware (bit 0: under-voltage now)."""
        try:
            return bool(int(self._text("sys/devices/platform/soc/soc:firmware/get_throttled"), 16) & 1)
        except ValueError:
            return None
