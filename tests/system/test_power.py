"""The power is cut while the conversation is written; the machine boots again from the same disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.conftest import run_in
from tests.system.guest import Guest

_IN_THE_MACHINE = Path(__file__).with_name("test_service.py")


def test_conversation_survives_a_power_cut(machine: Path, disk: Path, artefacts: Path, tmp_path: Path) -> None:
    for name, snapshot in (("until_a_turn_is_written", "connected"), ("look_after_the_power_cut", "")):
        with Guest(machine, disk, tmp_path, snapshot=snapshot) as guest:
            status, output, _ = run_in(guest, _IN_THE_MACHINE, name, {})
            if status:
                journal = guest.run("/bin/sh", "-c", "journalctl --no-pager")[1]
                (artefacts / "journal.txt").write_text(journal)
                pytest.fail(f"{name}: {output}\nthe journal: {artefacts}", pytrace=False)
