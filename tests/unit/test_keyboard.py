"""Terminal keys as a button and a line of text."""

from __future__ import annotations

import pytest

from appliance.simulator.keyboard import Key, KeyParser


def _keys(*chunks: str) -> list[tuple[str, str]]:
    parser = KeyParser()
    return [(key.kind, key.text) for chunk in chunks for key in parser.feed(chunk)]


def test_plain_terminal_gives_taps_text_and_enter() -> None:
    assert _keys(" hi\r") == [("space_tap", " "), ("text", "h"), ("text", "i"), ("enter", "")]


@pytest.mark.parametrize("char", ["\x03", "\x04"])
def test_ctrl_c_and_ctrl_d_quit(char: str) -> None:
    assert _keys(char) == [("quit", "")]


def test_both_backspaces_erase() -> None:
    assert _keys("\x7f\b") == [("erase", ""), ("erase", "")]


def test_kitty_protocol_gives_press_and_release_of_the_space_bar() -> None:
    assert _keys("\x1b[32;1:1u\x1b[32;1:2u\x1b[32;1:3u") == [("space_down", " "), ("space_up", " ")]


def test_kitty_protocol_gives_letters_once_and_ctrl_c() -> None:
    assert _keys("\x1b[97u\x1b[97;1:3u\x1b[99;5u") == [("text", "a"), ("quit", "")]


def test_terminal_that_answers_the_query_supports_holding() -> None:
    parser = KeyParser()
    assert parser.feed("\x1b[?0u\x1b[?62;c") == [Key("holds")]


def test_escape_sequence_split_in_two_chunks_is_joined() -> None:
    assert _keys("\x1b[32;", "1:3u") == [("space_up", " ")]


def test_arrows_and_other_sequences_are_not_text() -> None:
    assert _keys("\x1b[A\x1b[15~\x1bOPx") == [("text", "x")]


def test_umlauts_are_text() -> None:
    assert _keys("ü") == [("text", "ü")]
