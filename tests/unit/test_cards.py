"""Which card a setting stands for, from recorded files of the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.audio.cards import Card, CardTree, Choice, Holder, choose
from appliance.audio.devices import describe
from appliance.conversation.events import Direction
from appliance.errors import AudioError, CardMissing
from tests.support.card_tree import (
    HDMI,
    HDMI_WITH_CAPTURE,
    HEADPHONES,
    SECOND_USB,
    USB,
    WEBCAM,
    Recorded,
    plant,
)


def cards(root: Path, *recorded: Recorded | None) -> tuple[Card, ...]:
    return CardTree(plant(root, recorded)).cards()


def chosen(root: Path, wanted: str, *recorded: Recorded | None, direction: Direction = "capture") -> Choice:
    return choose(cards(root, *recorded), wanted, direction)


def test_exact_id_wins_over_a_card_whose_id_begins_with_it(tmp_path: Path) -> None:
    choice = chosen(tmp_path, "Device", SECOND_USB, USB)
    assert choice.card is not None
    assert (choice.card.number, choice.card.id) == (1, "Device")


def test_exact_id_wins_over_a_name_that_another_card_has(tmp_path: Path) -> None:
    choice = chosen(tmp_path, "Mic", Recorded("Other", "Mic"), Recorded("Mic", "Some card"))
    assert choice.card is not None
    assert choice.card.id == "Mic"


@pytest.mark.parametrize("prefix", ["", "/dev/snd/by-path/"])
def test_usb_path_names_one_of_two_cards_of_the_same_kind(tmp_path: Path, prefix: str) -> None:
    choice = chosen(tmp_path, f"{prefix}platform-usb-0:1.3:1.0", USB, SECOND_USB)
    assert choice.card is not None
    assert choice.card.id == "Device_1"


def test_exact_name_wins_over_a_longer_name(tmp_path: Path) -> None:
    choice = chosen(tmp_path, "Mic", Recorded("A", "Mic Pro"), Recorded("B", "Mic"))
    assert choice.card is not None
    assert choice.card.id == "B"


def test_part_of_a_name_is_enough_if_it_fits_one_card(tmp_path: Path) -> None:
    choice = chosen(tmp_path, "webcam", USB, WEBCAM)
    assert choice.card is not None
    assert choice.card.id == "C270"


@pytest.mark.parametrize("wanted", ["USB Audio", "USB Audio Device"])
def test_ambiguous_name_is_an_error_that_lists_the_cards(tmp_path: Path, wanted: str) -> None:
    with pytest.raises(AudioError) as caught:
        chosen(tmp_path, wanted, USB, SECOND_USB, WEBCAM)
    text = str(caught.value)
    assert "id Device path platform-usb-0:1.2:1.0" in text
    assert "id Device_1 path platform-usb-0:1.3:1.0" in text
    assert "C270" not in text
    assert "audio.capture_card" in text


def test_card_without_the_direction_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CardMissing, match=r"Headphones.*has no microphone.*Device"):
        chosen(tmp_path, "Headphones", HEADPHONES, USB)


def test_missing_card_is_reported_with_those_of_the_direction(tmp_path: Path) -> None:
    with pytest.raises(CardMissing) as caught:
        choose(cards(tmp_path, HEADPHONES, WEBCAM), "no-such", "capture", ["loop"])
    assert "'no-such'" in str(caught.value)
    assert "C270" in str(caught.value)
    assert "'loop'" in str(caught.value)
    assert "Headphones" not in str(caught.value)


def test_named_pcm_is_chosen_and_its_exact_name_wins_over_part_of_a_card(tmp_path: Path) -> None:
    choice = choose(cards(tmp_path, Recorded("Mic1", "A mic"), WEBCAM), "mic", "capture", ["mic", "mic2"])
    assert (choice.card, choice.pcm) == (None, "mic")


def test_default_is_the_first_card_with_both_directions(tmp_path: Path) -> None:
    for direction in ("capture", "playback"):
        choice = chosen(tmp_path, "default", HEADPHONES, WEBCAM, USB, SECOND_USB, direction=direction)  # type: ignore[arg-type]
        assert choice.card is not None
        assert choice.card.id == "Device"
        assert "both" in choice.why or "a microphone and a loudspeaker" in choice.why


def test_default_is_the_best_pair_if_no_card_has_both(tmp_path: Path) -> None:
    all_cards = (HDMI, HEADPHONES, WEBCAM)
    microphone = chosen(tmp_path, "default", *all_cards)
    speaker = chosen(tmp_path, "default", *all_cards, direction="playback")
    assert microphone.card is not None and speaker.card is not None
    assert (microphone.card.id, speaker.card.id) == ("C270", "Headphones")


def test_default_microphone_is_never_hdmi(tmp_path: Path) -> None:
    with pytest.raises(CardMissing, match="no card with a microphone"):
        chosen(tmp_path, "default", HDMI_WITH_CAPTURE, HEADPHONES)
    speaker = chosen(tmp_path, "default", HDMI_WITH_CAPTURE, direction="playback")
    assert speaker.card is not None
    assert speaker.card.id == "vc4hdmi1"


def test_default_is_that_of_alsa_where_the_kernel_lists_no_card(tmp_path: Path) -> None:
    assert choose(cards(tmp_path), "default", "capture", ["default", "mic"]).card is None
    with pytest.raises(CardMissing, match="found: none"):
        choose(cards(tmp_path), "default", "capture")


def test_cards_are_listed_with_paths_formats_and_holders(tmp_path: Path) -> None:
    held = Recorded("Busy", "Busy card", ("pcm0c",), held_by=412)
    root = plant(tmp_path, [USB, None, held], programs={412: (400, "pipewire")})
    usb, busy = CardTree(root).cards()
    assert (usb.number, busy.number) == (0, 2)
    assert usb.paths == ("platform-usb-0:1.2:1.0",)
    microphone, speaker = usb.pcm("capture"), usb.pcm("playback")
    assert microphone is not None and speaker is not None
    assert microphone.possible == "S16_LE, 1 channels, 16000, 48000 Hz"
    assert speaker.possible == "S16_LE, 2 channels, 44100, 48000 Hz"
    assert speaker.holders == ()
    taken = busy.pcm("capture")
    assert taken is not None
    assert taken.holders == (Holder(400, "pipewire"),), "the kernel names the thread, the user wants the process"
    assert taken.running == "S16_LE, 2 channels, 48000 Hz"


def test_machine_without_sound_has_no_cards(tmp_path: Path) -> None:
    assert CardTree(tmp_path).cards() == ()
    assert CardTree(plant(tmp_path, [])).cards() == ()


def test_devices_lists_cards_and_choices_with_their_reasons(tmp_path: Path) -> None:
    held = Recorded("Busy", "Busy card", ("pcm0c",), held_by=412)
    root = plant(tmp_path, [USB, held], programs={412: (400, "pipewire")})
    text = describe(capture_card="Busy", playback_card="default", mixer_control="none", tree=CardTree(root))
    assert text.splitlines() == [
        "card 0: USB Audio Device (id Device, driver USB-Audio)",
        "  path platform-usb-0:1.2:1.0",
        "  capture device 0: S16_LE, 1 channels, 16000, 48000 Hz",
        "  playback device 0: S16_LE, 2 channels, 44100, 48000 Hz",
        "card 1: Busy card (id Busy, driver USB-Audio)",
        "  capture device 0: parameters not known while it is in use",
        "    held by pipewire (pid 400) at S16_LE, 2 channels, 48000 Hz",
        "capture: 'Busy card' (id Busy): its id is 'Busy'",
        "playback: 'USB Audio Device' (id Device path platform-usb-0:1.2:1.0): "
        "the first card with a microphone and a loudspeaker",
        "volume: in software",
    ]


def test_devices_reports_a_setting_that_fits_no_card(tmp_path: Path) -> None:
    text = describe(capture_card="nothing", playback_card="default", tree=CardTree(plant(tmp_path, [WEBCAM])))
    assert "capture: no card 'nothing'; found: 'C270 HD WEBCAM' (id C270)" in text
    assert "playback: no card with a loudspeaker; found: none" in text
