"""Decides whether an utterance was a command, by comparing the results of the grammar and the open language model.

Pure. A grammar maps every utterance to one of its sentences, so its result alone proves nothing: "tell me a joke"
becomes a command too. The open model has no such bias, but returns "turn on the land" for "turn on the lamp". Both
decode the same audio, and these figures are computed:

* *distance*: edit distance between their phones, divided by the length of the longer; the minimum over the open
  model's thirty best sentences. "land" and "lamp" are close, "joke" is not.
* *likelihood*: how much better the grammar's words fit the audio than the open model's: natural logarithm of the
  ratio of their acoustic scores, per frame, over the frames in which the grammar finds speech. It is above 0 if the
  command was said (the open model prefers likelier English over a better acoustic fit), else far below.
* *weakest*: the same, summed over the worst-fitting word of the command, divided by 100. The mean over a long sentence
  hides one wrong word ("turn on the *fan*"); this figure does not.

A fourth figure can reject a command alone: *unheard*, the number of frames in which the open model finds words and the
grammar a pause ("what are you *doing tonight*"). The first three are summed with weights fitted by logistic regression:
see docs/decisions/0201-two-decoders.md for the measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

__all__ = ["Evidence", "Hypothesis", "Pronouncer", "Segment", "agree", "weigh"]

BIAS = 2.9
PER_DISTANCE = -6.7
PER_LIKELIHOOD = 2.5
PER_WEAKEST = 2.5
MAX_UNHEARD = 20  # frames of 10 ms: none of 296 measured commands had more, "doing tonight" has 90


class Pronouncer:
    """Converts words to phones with a dictionary."""

    def __init__(self, look_up: Callable[[str], str | None]) -> None:
        self._look_up = look_up

    def knows(self, word: str) -> bool:
        """Return whether the dictionary has a word."""
        return bool(self._look_up(word))

    def phones(self, text: str) -> list[str]:
        """Return the phones of a text; a word that is not in the dictionary counts as one phone."""
        return [phone for word in text.split() for phone in (self._look_up(word) or word).split()]


@dataclass(frozen=True, slots=True)
class Segment:
    """A word or a pause, with its position in time."""

    word: str
    """"" for a pause."""
    start: int
    """First frame."""
    end: int
    """Last frame, inclusive."""
    score: float
    """Acoustic score of the whole segment, natural logarithm."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """The result of one search for an utterance; its segments leave no gaps."""

    segments: Sequence[Segment] = ()
    others: Sequence[str] = ()
    """The words of the next best hypotheses."""

    @property
    def text(self) -> str:
        """The words; "" if the search found none."""
        return " ".join(one.word for one in self.segments if one.word)

    @property
    def words(self) -> list[Segment]:
        """The segments that are not pauses."""
        return [one for one in self.segments if one.word]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How well two hypotheses agree; see the module docstring for the figures."""

    distance: float
    likelihood: float
    weakest: float
    unheard: int = 0

    @property
    def weight(self) -> float:
        """The weighted sum; above 0 means that the command was said."""
        return BIAS + PER_DISTANCE * self.distance + PER_LIKELIHOOD * self.likelihood + PER_WEAKEST * self.weakest


def agree(command: Hypothesis, heard: Hypothesis, pronounce: Pronouncer) -> bool:
    """Return whether the open hypothesis supports the command."""
    if not command.words or not heard.words:
        return False
    found = weigh(command, heard, pronounce)
    return found.unheard <= MAX_UNHEARD and found.weight > 0


def weigh(command: Hypothesis, heard: Hypothesis, pronounce: Pronouncer) -> Evidence:
    """Compare two hypotheses of one utterance; both MUST have words."""
    words = command.words
    frames = 1 + max(one.end for one in (*command.segments, *heard.segments))
    ours, theirs = _running_score(command, frames), _running_score(heard, frames)

    def gain(start: int, end: int) -> float:
        return (ours[end + 1] - ours[start]) - (theirs[end + 1] - theirs[start])

    spoken = sum(one.end - one.start + 1 for one in words)
    said = pronounce.phones(command.text)
    return Evidence(
        distance=min(_distance(said, pronounce.phones(text)) for text in dict.fromkeys((heard.text, *heard.others))),
        likelihood=gain(words[0].start, words[-1].end) / spoken,
        weakest=min(gain(one.start, one.end) for one in words) / 100,
        unheard=len(_frames(heard) - _frames(command)),
    )


def _frames(hypothesis: Hypothesis) -> set[int]:
    """Return the frames that belong to words."""
    return {frame for one in hypothesis.words for frame in range(one.start, one.end + 1)}


def _running_score(hypothesis: Hypothesis, frames: int) -> list[float]:
    """Return the total score of all frames before each frame; a segment's score is spread evenly over its frames."""
    scores = [0.0] * frames
    for one in hypothesis.segments:
        share = one.score / (one.end - one.start + 1)
        for frame in range(one.start, one.end + 1):
            scores[frame] += share
    return list(accumulate(scores, initial=0.0))


def _distance(left: Sequence[str], right: Sequence[str]) -> float:
    """Return the edit distance of two phone sequences divided by the longer length: 0 if equal, at most 1."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, b in enumerate(right, 1):
            diagonal, row[j] = row[j], min(diagonal + (a != b), row[j] + 1, row[j - 1] + 1)
    return row[-1] / max(len(left), len(right), 1)
