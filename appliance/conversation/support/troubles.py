"""What can go wrong, in a user's words: one sentence each, said aloud where nobody reads a log.

Pure. Kinds are stable and machine-readable; those of a lost connection come from `retry.classify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from appliance.conversation.notices import TroubleKind

__all__ = ["SENTENCES", "Report", "sentence"]

SENTENCES: Mapping[TroubleKind, str] = {
    "silent_microphone": "I hear nothing from the microphone. Please check that it is plugged in and not switched off.",
    "no_microphone": "I have no microphone. Please check that it is plugged in.",
    "no_speaker": "I have no loudspeaker.",
    "muted": "The microphone is muted.",
    "no_link": "I cannot reach my brain, so I could not send what you said. Please try again in a moment.",
    "no_answer": "I got no answer. Please try again.",
    "empty_answer": "I have nothing to say to that.",
    "answer_failed": "Something went wrong while I was answering. Please try again.",
    "answer_incomplete": "My answer was cut short.",
    "answer_cut": "I lost the connection in the middle of my answer.",
    "overrun": "I could not keep up with the microphone, so I stopped listening early.",
    "too_long": "That was longer than I can listen to at once. I am answering what I heard so far.",
    "bad_frame": "The server sent something that I do not understand.",
    "server_error": "The server reported an error.",
    "settings_refused": "The server refused my settings.",
    "tool_late": "That took too long.",
    "button_stuck": "My button seems to be stuck.",
    "playout_stalled": "My loudspeaker stopped playing.",
    "refused": "I would rather not answer that.",
    "stopped": "I stopped myself there.",
    "handoff_failed": "I could not hand over.",
    "instructions_late": "I could not get new instructions in time, and go on with the old ones.",
    "not_connected": "There is no connection to the model.",
    "item_refused": "The server refused a part of the conversation.",
    "budget_spent": "Today's budget is spent.",
    "trace_failed": "I could not write the trace, and go on without it.",
}


class Report(Protocol):
    """Reports a trouble; see `regions.device.Device.report`."""

    def __call__(self, kind: TroubleKind, now: float, *, detail: str = "", flash: bool = True) -> None: ...


def sentence(kind: TroubleKind) -> str:
    """Return what to say about a kind of trouble."""
    return SENTENCES.get(kind, "Something went wrong.")
