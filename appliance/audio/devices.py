"""The text of ``appliance devices``: the cards of the machine, and the two that the settings choose."""

from __future__ import annotations

from collections.abc import Iterator

from appliance.audio.alsa import possible_parameters
from appliance.audio.cards import Card, CardTree, choose
from appliance.audio.mixer import CardMixer
from appliance.conversation.events import Direction
from appliance.errors import AudioError

__all__ = ["describe"]

_DIRECTIONS: tuple[Direction, ...] = ("capture", "playback")


def describe(
    *, capture_card: str, playback_card: str, mixer_control: str = "auto", tree: CardTree | None = None
) -> str:
    """Return the cards with their parameters and holders, then each choice with its reason. Blocks briefly.

    Args:
        capture_card: The setting of this name.
        playback_card: The setting of this name.
        mixer_control: The setting of this name.
        tree: Lists the kernel's cards.
    """
    cards = (tree or CardTree()).cards()
    lines = [line for card in cards for line in _card(card)] or ["The kernel lists no sound card."]
    for direction, wanted in zip(_DIRECTIONS, (capture_card, playback_card), strict=True):
        # A PCM of the ALSA configuration has no card in the kernel's list: opening it shows that it exists.
        pcms = [wanted] if possible_parameters(wanted, direction) else []
        try:
            choice = choose(cards, wanted, direction, pcms)
        except AudioError as exc:
            lines.append(str(exc))
            continue
        lines.append(f"{direction}: {choice}")
        if direction == "playback":
            lines.append(f"volume: {_volume(choice.card, mixer_control)}")
    return "\n".join(lines)


def _volume(card: Card | None, wanted: str) -> str:
    """Return what sets the volume. Blocks, at most some seconds."""
    if card is None or wanted == "none":
        return "in software"
    try:
        control = CardMixer(card.id, wanted).control
    except AudioError as exc:
        return f"in software: {exc}"
    return f"by {control} of card {card.id}, now {control.db:.2f} dB; audio.mixer_control names another"


def _card(card: Card) -> Iterator[str]:
    yield f"card {card.number}: {card.name} (id {card.id}, driver {card.driver})"
    for path in card.paths:
        yield f"  path {path}"
    for pcm in card.pcms:
        offered = pcm.possible or possible_parameters(f"hw:CARD={card.id},DEV={pcm.device}", pcm.direction)
        yield f"  {pcm.direction} device {pcm.device}: {offered or 'parameters not known while it is in use'}"
        for holder in pcm.holders:
            yield f"    held by {holder}" + (f" at {pcm.running}" if pcm.running else "")
