"""The kernel's sound cards: what they are, which one a setting names, and which program holds them.

Read from ``/proc/asound`` and ``/dev/snd``; the root of both is an argument, so that a recorded tree can be read.
A card's number changes between boots and when it is plugged in again; its id and its USB path do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.conversation.events import Direction
from appliance.errors import AudioError, CardMissing

__all__ = ["Card", "CardPcm", "CardTree", "Choice", "Holder", "choose"]

_CARD = re.compile(r"^\s*(\d+) \[(\S+)\s*\]: (\S+) - (.*)\n\s+(.*)$", re.MULTILINE)
_PCM = re.compile(r"^(\d+)-(\d+): (.*?) : .*$", re.MULTILINE)
_WORDS: dict[Direction, str] = {"capture": "microphone", "playback": "loudspeaker"}


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that has a PCM open."""

    pid: int
    program: str

    def __str__(self) -> str:
        return f"{self.program} (pid {self.pid})"


@dataclass(frozen=True, slots=True)
class CardPcm:
    """One device of a card, in one direction."""

    device: int
    direction: Direction
    name: str
    possible: str
    """Formats, channels and rates as the driver lists them; "" if it does not."""
    running: str
    """Format, channels and rate that the PCM is open with; "" if it is closed."""
    holders: tuple[Holder, ...]


@dataclass(frozen=True, slots=True)
class Card:
    """One card as the kernel lists it."""

    number: int
    id: str
    driver: str
    name: str
    long_name: str
    paths: tuple[str, ...]
    """Names in ``/dev/snd/by-path``."""
    pcms: tuple[CardPcm, ...]

    def pcm(self, direction: Direction) -> CardPcm | None:
        """Return the first device with this direction."""
        return next((pcm for pcm in self.pcms if pcm.direction == direction), None)

    @property
    def is_hdmi(self) -> bool:
        return any("hdmi" in text.casefold() for text in (self.id, self.name, self.driver))

    @property
    def rank(self) -> int:
        """Order of preference: what somebody attached, then the board's headphone jack, then HDMI."""
        return 2 if self.is_hdmi else 1 if self.driver.startswith("bcm2835") else 0

    def __str__(self) -> str:
        return " ".join([f"{self.name!r} (id {self.id}", *(f"path {path}" for path in self.paths[:1])]) + ")"


@dataclass(frozen=True, slots=True)
class Choice:
    """The card or the PCM that a setting stands for, and why."""

    direction: Direction
    why: str
    card: Card | None = None
    """None if `pcm` is not a card of the kernel."""
    pcm: str = ""
    """Name of a PCM of the ALSA configuration; "" if `card` is set, or for the default PCM."""

    @property
    def device(self) -> int:
        """Number of the card's device; 0 without a card."""
        found = self.card.pcm(self.direction) if self.card is not None else None
        return found.device if found is not None else 0

    def __str__(self) -> str:
        return f"{self.card or repr(self.pcm or 'default')}: {self.why}"


class CardTree:
    """Reads the cards from the kernel's files. No file is kept open; a file that is missing counts as empty."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._snd = root / "dev" / "snd"

    def cards(self) -> tuple[Card, ...]:
        """Return all cards in the order of their numbers."""
        paths = self._paths()
        names = {(int(card), int(pcm)): name for card, pcm, name in _PCM.findall(self._read("asound/pcm"))}
        found = []
        for match in _CARD.finditer(self._read("asound/cards")):
            number, card_id, driver, name, long_name = match.groups()
            pcms = tuple(self._pcms(int(number), names))
            known = tuple(paths.get(int(number), ()))
            found.append(Card(int(number), card_id, driver, name.strip(), long_name.strip(), known, pcms))
        return tuple(sorted(found, key=lambda card: card.number))

    def _pcms(self, card: int, names: dict[tuple[int, int], str]) -> Iterable[CardPcm]:
        folder = self._proc / "asound" / f"card{card}"
        for path in sorted(folder.glob("pcm*")):
            match = re.fullmatch(r"pcm(\d+)([cp])", path.name)
            if match is None:
                continue
            device = int(match[1])
            direction: Direction = "capture" if match[2] == "c" else "playback"
            running, holders = "", []
            for sub in sorted(path.glob("sub*")):
                open_with = _fields(_text(sub / "hw_params"))
                if open_with:
                    rate = open_with.get("rate", "").split(" ")[0]
                    running = f"{open_with.get('format')}, {open_with.get('channels')} channels, {rate} Hz"
                owner = _fields(_text(sub / "status")).get("owner_pid", "")
                if owner.isdecimal():
                    holders.append(self._holder(int(owner)))
            possible = _usb_formats(_text(folder / f"stream{device}"), direction)
            yield CardPcm(device, direction, names.get((card, device), ""), possible, running, tuple(holders))

    def _holder(self, thread: int) -> Holder:
        """Return the process of the thread that opened a PCM: the kernel records the thread."""
        status = _fields(self._read(f"{thread}/status"))
        pid = status.get("Tgid", "")
        process = int(pid) if pid.isdecimal() else thread
        return Holder(process, self._read(f"{process}/comm").strip() or status.get("Name") or "unknown program")

    def _paths(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        folder = self._snd / "by-path"
        for link in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = re.fullmatch(r"controlC(\d+)", link.readlink().name) if link.is_symlink() else None
            if match is not None:
                found.setdefault(int(match[1]), []).append(link.name)
        return found

    def _read(self, name: str) -> str:
        return _text(self._proc / name)


def choose(cards: Sequence[Card], wanted: str, direction: Direction, pcms: Sequence[str] = ()) -> Choice:
    """Return what a setting stands for: by exact id, then USB path, then exact name, then part of a name.

    Args:
        cards: The kernel's cards.
        wanted: "default", or an id, path, name or part of a name.
        direction: The card MUST have it.
        pcms: Names of further PCMs with this direction, from the ALSA configuration.

    Raises:
        CardMissing: No card fits, or the one that was named lacks the direction.
        AudioError: Several fit.
    """
    if wanted == "default":
        return _default(cards, direction, pcms)
    link = wanted.removeprefix("/dev/snd/by-path/")
    steps: tuple[tuple[str, Callable[[Card], bool]], ...] = (
        ("its id", lambda card: card.id == wanted),
        ("its path", lambda card: link in card.paths),
    )
    for why, fits in steps:
        for card in filter(fits, cards):
            if card.pcm(direction) is None:
                others = _listed(cards, direction, pcms)
                raise CardMissing(
                    f"{direction}: {card} has no {_WORDS[direction]}; set audio.{direction}_card to another: {others}"
                )
            return Choice(direction, f"{why} is {wanted!r}", card)
    able = [card for card in cards if card.pcm(direction) is not None]
    part = wanted.casefold()
    exact = [card for card in able if wanted in (card.name, card.long_name)]
    exact_pcms = [name for name in pcms if name == wanted]
    partial = [card for card in able if part in f"{card.id}\n{card.name}\n{card.long_name}".casefold()]
    partial_pcms = [name for name in pcms if part in name.casefold()]
    for why, found, named in (("name is", exact, exact_pcms), ("name contains", partial, partial_pcms)):
        choices = [
            *(Choice(direction, f"its {why} {wanted!r}", card) for card in found),
            *(Choice(direction, f"its {why} {wanted!r}", pcm=name) for name in dict.fromkeys(named)),
        ]
        if len(choices) > 1:
            names = ", ".join(str(one.card or repr(one.pcm)) for one in choices)
            raise AudioError(
                f"{direction}: {wanted!r} fits several cards: {names}; set audio.{direction}_card to an id or a path"
            )
        if choices:
            return choices[0]
    raise CardMissing(
        f"{direction}: no card {wanted!r}; found: {_listed(cards, direction, pcms)}. "
        f"Plug it in, or set audio.{direction}_card to one of these"
    )


def _default(cards: Sequence[Card], direction: Direction, pcms: Sequence[str]) -> Choice:
    for card in cards:
        if card.pcm("capture") is not None and card.pcm("playback") is not None and not card.is_hdmi:
            return Choice(direction, "the first card with a microphone and a loudspeaker", card)
    able = [card for card in cards if card.pcm(direction) is not None and not (direction == "capture" and card.is_hdmi)]
    if able:
        best = min(able, key=lambda card: (card.rank, card.number))
        return Choice(direction, f"no card has both directions; the best with a {_WORDS[direction]}", best)
    if pcms and not cards:
        return Choice(direction, "the kernel lists no card; ALSA's default")
    raise CardMissing(
        f"{direction}: no card with a {_WORDS[direction]}; found: {_listed(cards, direction, pcms)}. "
        f"Plug it in, or set audio.{direction}_card"
    )


def _listed(cards: Sequence[Card], direction: Direction, pcms: Sequence[str]) -> str:
    """Name everything that has a direction."""
    names = [*(str(card) for card in cards if card.pcm(direction) is not None), *map(repr, pcms)]
    return ", ".join(names) or "none"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(text: str) -> dict[str, str]:
    """Return the ``key: value`` lines of a file of the kernel."""
    pairs = (line.partition(":") for line in text.splitlines())
    return {key.strip(): value.strip() for key, colon, value in pairs if colon}


def _usb_formats(text: str, direction: Direction) -> str:
    """Return formats, channels and rates of the first setting in a USB card's ``stream`` file."""
    section = text.partition(f"{direction.capitalize()}:")[2]
    section = re.split(r"^(?:Playback|Capture):", section, maxsplit=1, flags=re.MULTILINE)[0]
    words = {key: re.search(rf"^\s*{key}: (.*)$", section, re.MULTILINE) for key in ("Format", "Channels", "Rates")}
    if any(match is None for match in words.values()):
        return ""
    said = {key: match[1].strip() for key, match in words.items() if match is not None}
    return f"{said['Format']}, {said['Channels']} channels, {said['Rates']} Hz"
