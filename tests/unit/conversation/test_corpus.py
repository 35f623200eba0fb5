"""Test that the recorded conversations replay with the same commands, deadlines and states."""

from __future__ import annotations

from itertools import islice

from tests.support.corpus import Corpus


def test_every_recorded_conversation_replays():
    corpus = Corpus()

    assert len(corpus) >= 700
    assert list(islice(corpus.differences(), 5)) == []
