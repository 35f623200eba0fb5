"""Recorded files of /proc/asound and /dev/snd, for machines without a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

USB_STREAM = """\
C-Media Electronics Inc. USB Audio Device at usb-0000:01:00.0-1.2, full speed : USB Audio

Playback:
  Status: Stop
  Interface 1
    Altset 1
    Format: S16_LE
    Channels: 2
    Endpoint: 0x01 (1 OUT) (ADAPTIVE)
    Rates: 44100, 48000
    Bits: 16

Capture:
  Status: Stop
  Interface 2
    Altset 1
    Format: S16_LE
    Channels: 1
    Endpoint: 0x82 (2 IN) (ASYNC)
    Rates: 16000, 48000
    Bits: 16
"""


@dataclass(frozen=True)
class Recorded:
    """One card; `pcms` are folder names such as "pcm0p"."""

    id: str
    name: str
    pcms: Sequence[str] = ("pcm0c", "pcm0p")
    driver: str = "USB-Audio"
    path: str = ""
    stream: str = ""
    held_by: int = 0
    """The thread that has every PCM open; 0 if they are closed."""


USB = Recorded("Device", "USB Audio Device", path="platform-usb-0:1.2:1.0", stream=USB_STREAM)
SECOND_USB = Recorded("Device_1", "USB Audio Device", path="platform-usb-0:1.3:1.0", stream=USB_STREAM)
HEADPHONES = Recorded("Headphones", "bcm2835 Headphones", ("pcm0p",), "bcm2835_headpho")
HDMI = Recorded("vc4hdmi0", "vc4-hdmi-0", ("pcm0p",), "vc4-hdmi")
HDMI_WITH_CAPTURE = Recorded("vc4hdmi1", "vc4-hdmi-1", ("pcm0p", "pcm0c"), "vc4-hdmi")
WEBCAM = Recorded("C270", "C270 HD WEBCAM", ("pcm0c",))


def plant(root: Path, cards: Sequence[Recorded | None], programs: Mapping[int, tuple[int, str]] | None = None) -> Path:
    """Write the files of the cards, numbered in order (None leaves a number out), and return `root`.

    Args:
        root: An empty folder, or one that was planted before.
        cards: The cards.
        programs: Process id and name of each thread.
    """
    asound, by_path = root / "proc/asound", root / "dev/snd/by-path"
    _empty(asound)
    _empty(by_path)
    listing, pcms = [], []
    for number, card in enumerate(cards):
        if card is None:
            continue
        listing.append(
            f"{number:2} [{card.id:<15}]: {card.driver} - {card.name}\n{'':22}{card.name} at usb, full speed\n"
        )
        for folder in card.pcms:
            sub = asound / f"card{number}" / folder / "sub0"
            sub.mkdir(parents=True)
            is_open = bool(card.held_by)
            (sub / "hw_params").write_text(
                "access: RW_INTERLEAVED\nformat: S16_LE\nchannels: 2\nrate: 48000 (48000/1)\n"
                if is_open
                else "closed\n"
            )
            (sub / "status").write_text(
                f"state: RUNNING\nowner_pid   : {card.held_by}\ntrigger_time: 1.0\n" if is_open else "closed\n"
            )
        pcms.append(f"{number:02}-00: USB Audio : USB Audio : playback 1\n")
        if card.stream:
            (asound / f"card{number}" / "stream0").write_text(card.stream)
        if card.path:
            (by_path / card.path).symlink_to(f"../controlC{number}")
    (asound / "cards").write_text("".join(listing) or "--- no soundcards ---\n")
    (asound / "pcm").write_text("".join(pcms))
    for thread, (process, program) in (programs or {}).items():
        for one in {thread, process}:
            (root / f"proc/{one}").mkdir(exist_ok=True)
            (root / f"proc/{one}/status").write_text(f"Name:\tworker\nTgid:\t{process}\n")
        (root / f"proc/{process}/comm").write_text(f"{program}\n")
    return root


def _empty(folder: Path) -> None:
    if folder.is_dir():
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
