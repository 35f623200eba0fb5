"""The virtual machine, seen from the host: QEMU in virtual time, and the agent that runs programs in it.

QEMU counts instructions: one takes 2 ns, so the machine has a core of 500 million instructions per second, whatever
else the host does. While the machine idles its time runs ahead. So every wait belongs into a program that runs in the
machine, and so does every server that the appliance talks to.

    python -m tests.system.guest FOLDER   boots the machine that `machine/build` built, and keeps it booted
"""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["BOOTED", "PYTHON", "Guest"]

PYTHON = "/opt/voice-appliance/.venv/bin/python"
"""The appliance's, in the machine."""

BOOTED = "booted.qcow2"
"""The disk with the snapshots of the booted machine."""
_HERE = Path(__file__).parent
_LIMIT_S = 900.0  # of the host's time; nothing takes a tenth of it
_KERNEL = (
    "console=ttyS0 root=/dev/vda rootfstype=ext4 rw quiet loglevel=4 mitigations=off audit=0 selinux=0 apparmor=0 "
    "nowatchdog random.trust_cpu=on systemd.show_status=0"
)


class Guest:
    """A running machine; a context manager that ends it.

    Args:
        folder: What `machine/build` built.
        disk: A qcow2 file, which is written to.
        work: A folder for sockets and the console's log.
        snapshot: Continue from it instead of booting: "booted", or "connected" to the far side.
    """

    def __init__(self, folder: Path, disk: Path, work: Path, *, snapshot: str = "") -> None:
        self._folder = folder
        self._disk = disk
        self._work = work
        self._snapshot = snapshot
        self._number = 0
        self.console = work / "console.log"
        """What the kernel printed."""

    def __enter__(self) -> Guest:
        self._open: list[Any] = []
        ports = {name: socket.socket(socket.AF_UNIX) for name in ("agent", "monitor")}
        for name, port in ports.items():
            (self._work / name).unlink(missing_ok=True)
            port.bind(str(self._work / name))
            port.listen(1)
            port.settimeout(_LIMIT_S)
        self._process = subprocess.Popen(self._command(), stdin=subprocess.DEVNULL)
        try:
            self._agent, self._monitor = (self._accept(ports[name]) for name in ("agent", "monitor"))
            self._read(self._monitor)
            self.monitor("qmp_capabilities")
            if not self._snapshot:
                self._read(self._agent)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()
        for one in self._open:
            one.close()

    def _accept(self, port: socket.socket) -> Any:
        self._open.append(port)
        accepted, _ = port.accept()
        accepted.settimeout(_LIMIT_S)
        self._open += [accepted, file := accepted.makefile("rwb", buffering=0)]
        return file

    def cut_power(self) -> None:
        """End the machine at once, as when its plug is pulled."""
        self._process.kill()
        self._process.wait()

    def copy(self, files: Mapping[str, str]) -> None:
        """Write files below /run/bench."""
        status, output = self.run(PYTHON, "-c", _UNPACK, stdin=json.dumps(files))
        if status:
            raise RuntimeError(output)

    def run(self, *argv: str, stdin: str = "", timeout_s: float = 600) -> tuple[int, str]:
        """Run a program in the machine.

        Args:
            timeout_s: In the machine's time; then the status is 124.

        Returns:
            Its status, and what it printed.
        """
        self._number += 1
        request = {"number": self._number, "argv": argv, "stdin": stdin, "timeout": timeout_s}
        self._agent.write(json.dumps(request).encode() + b"\n")
        while (reply := self._read(self._agent))["number"] != self._number:
            pass
        return reply["status"], reply["output"]

    def monitor(self, command: str, **arguments: Any) -> Any:
        """Send a command of QMP and return its result."""
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            reply = self._read(self._monitor)
            if "error" in reply:
                raise RuntimeError(f"{command}: {reply['error']}")
            if "return" in reply:
                return reply["return"]

    def save(self, snapshot: str) -> None:
        """Keep the running machine on its disk."""
        if problem := self.monitor("human-monitor-command", **{"command-line": f"savevm {snapshot}"}):
            raise RuntimeError(problem)

    def _read(self, file: Any) -> Any:
        line = file.readline()
        if not line:
            raise RuntimeError(f"the machine ended with status {self._process.wait()}; see {self.console}")
        return json.loads(line)

    def _command(self) -> list[str]:
        argv = ["setpriv", "--pdeathsig", "KILL"]  # the machine ends with this process, also if that is killed
        argv += ["qemu-system-x86_64", "-M", "q35", "-smp", "1", "-m", "768M", "-cpu", "max"]
        argv += ["-accel", "tcg,thread=single", "-icount", "shift=1,sleep=off"]
        argv += ["-rtc", "base=2026-01-05T12:00:00,clock=vm", "-nodefaults", "-no-user-config", "-display", "none"]
        argv += ["-kernel", str(self._folder / "vmlinuz"), "-initrd", str(self._folder / "initrd")]
        argv += ["-append", _KERNEL, "-no-reboot", "-serial", f"file:{self.console}"]
        argv += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=bench"]
        argv += ["-chardev", f"socket,id=agent,path={self._work / 'agent'}"]
        argv += ["-qmp", f"unix:{self._work / 'monitor'}"]
        argv += ["-drive", f"if=none,id=disk,file={self._disk},format=qcow2,cache=unsafe"]
        argv += ["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-rng-pci"]
        return argv + (["-loadvm", self._snapshot] if self._snapshot else [])


_UNPACK = """
import json, pathlib, sys
for name, text in json.load(sys.stdin).items():
    path = pathlib.Path("/run/bench") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
"""
_BENCH = f"cd /run/bench && exec {PYTHON} -m tests.system.bench"
_WAIT_FOR_THE_UNIT = """
for try in $(seq 600); do
  [ "$(systemctl is-active voice-appliance)" = active ] && exec sleep 10
  sleep 0.2
done
systemctl status --no-pager --lines=50 voice-appliance
exit 1
"""


def _must(guest: Guest, command: str) -> None:
    status, output = guest.run("/bin/sh", "-c", command)
    if status:
        sys.exit(f"machine: {output}\nmachine: the console's log is {guest.console}")


def _boot(folder: Path) -> None:
    began = time.monotonic()
    disk, work = folder / BOOTED, folder / "boot"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    backing = ("-b", str(folder / "disk.ext4"), "-F", "raw")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", *backing, str(disk)], check=True)
    with Guest(folder, disk, work) as guest:
        _must(guest, _WAIT_FOR_THE_UNIT)
        guest.copy(
            {f"tests/system/{name}": (_HERE / name).read_text() for name in ("__init__.py", "bench.py", "far_side.py")}
        )
        _must(guest, _BENCH)
        guest.save("booted")
        _must(guest, f"{_BENCH} connect")
        guest.save("connected")
    sys.stderr.write(f"machine: booted in {time.monotonic() - began:.0f} s\n")


if __name__ == "__main__":
    _boot(Path(sys.argv[1]).resolve())
