"""Accuracy of the offline brain's pipeline: flite speaks, pocketsphinx listens.

Sentences of the phrase book: the right tool with the right arguments in at least 95 %. Other sentences: no call at all.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from typing import Any

import pytest

from appliance.speech.pipeline import ChainedPipeline, build_pipeline
from appliance.speech.stages import CallPart, ResponseRequest
from appliance.speech.tts import open_tts
from tests.support.sentences import IN_BOOK, OUT_OF_BOOK, VOICES

pytestmark = [pytest.mark.accuracy, pytest.mark.timeout(600)]

ARGUMENTS = {
    "set_lamp": ["on"],
    "set_light": ["on", "brightness", "color"],
    "set_volume": ["percent"],
    "get_volume": [],
    "mute_microphone": [],
    "get_time": [],
    "start_timer": ["seconds", "label"],
    "list_timers": [],
    "cancel_timer": ["label"],
    "device_status": [],
}
TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {one: {} for one in arguments}}}
    for name, arguments in ARGUMENTS.items()
]


async def calls_of(
    pipeline: ChainedPipeline, sentence: str, voice: str
) -> tuple[str, list[tuple[str, dict[str, Any]]]]:
    """Speak a sentence into the pipeline; return the transcript and the calls."""
    pcm = await open_tts("flite").synthesize(sentence, voice=voice)
    heard = await pipeline.transcribe(pcm, tools=TOOLS)
    spoken = {"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": heard.text}]}
    request = ResponseRequest(items=[spoken], tools=TOOLS)
    parts = [part async for part in pipeline.respond(request, spoken=False, voice="", speed=1.0)]
    return heard.text, [(part.name, json.loads(part.arguments)) for part in parts if isinstance(part, CallPart)]


async def hear_all(sentences: Sequence[str]) -> list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]]:
    """Return (sentence, voice, heard, calls) of every sentence in every voice; two recognisers share the work."""
    spoken = [(sentence, voice) for sentence in sentences for voice in VOICES]

    async def hear(share: Sequence[tuple[str, str]]) -> list[tuple[str, str, str, list[tuple[str, dict[str, Any]]]]]:
        pipeline = build_pipeline()
        return [(sentence, voice, *await calls_of(pipeline, sentence, voice)) for sentence, voice in share]

    first, second = await asyncio.gather(hear(spoken[::2]), hear(spoken[1::2]))
    return first + second


def table(failures: Iterable[tuple[str, str, str, Any]]) -> str:
    return "\n".join(f"{voice:4} {said!r:55} heard {heard!r:45} {calls}" for said, voice, heard, calls in failures)


async def test_sentences_of_the_phrase_book_get_the_right_call_in_95_percent() -> None:
    expected = {sentence: [(tool, arguments)] for sentence, tool, arguments in IN_BOOK}
    results = await hear_all(list(expected))
    wrong = [one for one in results if one[3] != expected[one[0]]]
    assert len(IN_BOOK) >= 24 and len(wrong) <= 0.05 * len(results), f"{len(wrong)} wrong:\n{table(wrong)}"


async def test_sentences_outside_the_phrase_book_call_no_tool() -> None:
    results = await hear_all(OUT_OF_BOOK)
    wrong = [one for one in results if one[3]]
    assert len(OUT_OF_BOOK) >= 24 and not wrong, f"{len(wrong)} calls of {len(results)}:\n{table(wrong)}"
