"""The voice pipeline: both speech engines, recognition, `agreement`, sentence splitting and engine names."""

from __future__ import annotations

import asyncio
import inspect
import stat
from array import array
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.errors import SettingsError, SpeechError
from appliance.settings import Settings
from appliance.speech.phrases import PhraseBook
from appliance.speech.pipeline import ChainedPipeline, SentenceSplitter, build_pipeline
from appliance.speech.stages import CallPart, Part, ResponseRequest, SpokenPart, TextPart, Transcript
from appliance.speech.stt import open_stt
from appliance.speech.stt.agreement import Hypothesis, Pronouncer, Segment, agree, weigh
from appliance.speech.stt.sphinx import SphinxSpeechToText
from appliance.speech.tts import open_tts
from appliance.speech.tts.programs import ProgramSpeech, SpeechProgram, read_wav
from tests.support.spoken_requests import BOOK, TOOLS, call, output, user

# --- Sentences --------------------------------------------------------------------------------------------------------


def cut(*pieces: str) -> list[str]:
    splitter = SentenceSplitter()
    return [*(one for piece in pieces for one in splitter.feed(piece)), *splitter.flush()]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It is late. Good night!", ["It is late. ", "Good night!"]),
        ("It is 3.5 degrees. Brr.", ["It is 3.5 degrees. ", "Brr."]),
        ("Ask Dr. Watt, e.g. now. Yes?", ["Ask Dr. Watt, e.g. now. ", "Yes?"]),
        ("J. Watt and I. We went.", ["J. Watt and I. ", "We went."]),
        ("Wait... what?! Fine.", ["Wait... ", "what?! ", "Fine."]),
        ('He said "Stop." Then left.', ['He said "Stop." ', "Then left."]),
        ("1. Milk\n2. Bread\n", ["1. Milk\n", "2. Bread\n"]),
        ("No end", ["No end"]),
        ("   ", []),
    ],
)
def test_text_is_split_into_sentences(text: str, sentences: list[str]) -> None:
    assert cut(text) == sentences


def test_sentence_is_yielded_as_soon_as_it_is_complete() -> None:
    splitter = SentenceSplitter()
    assert list(splitter.feed("It is late")) == []
    assert list(splitter.feed(". Good")) == ["It is late. "]


def test_sentence_that_is_too_long_is_split_at_a_comma() -> None:
    first, *_ = cut("and so on, " * 60)
    assert first.endswith(", ") and len(first) <= 240


@given(st.lists(st.text(alphabet="aB .,!?\n1…", max_size=80), max_size=12))
@settings(max_examples=200, deadline=None)
def test_joined_sentences_are_the_text_whatever_its_pieces(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert "".join(cut(*pieces)).strip() == text.strip()


# --- The pipeline -----------------------------------------------------------------------------------------------------


class Script:
    """A workflow that yields the given parts and records whether it was closed."""

    def __init__(self, *parts: TextPart | CallPart) -> None:
        self.parts = parts
        self.given: list[str] = []
        self.is_closed = False

    async def respond(self, request: ResponseRequest) -> AsyncIterator[TextPart | CallPart]:
        try:
            for part in self.parts:
                self.given.append(getattr(part, "text", "call"))
                yield part
        finally:
            self.is_closed = True


class Tone:
    """Text to speech that returns one sample per character."""

    async def synthesize(self, text: str, *, voice: str = "", speed: float = 1.0) -> bytes:
        return b"\1\0" * len(text)


class Deaf:
    async def transcribe(self, pcm: bytes, *, tools: Sequence[Mapping[str, Any]]) -> Transcript:
        return Transcript("")


def chain(workflow: Script) -> ChainedPipeline:
    return ChainedPipeline(stt=Deaf(), workflow=workflow, tts=Tone())


async def parts_of(workflow: Script, *, spoken: bool = True) -> list[Part]:
    request = ResponseRequest(items=(), tools=())
    return [part async for part in chain(workflow).respond(request, spoken=spoken, voice="", speed=1.0)]


async def test_first_sentence_is_spoken_before_the_workflow_ends() -> None:
    workflow = Script(TextPart("One. "), TextPart("Two"), TextPart(". Three."))
    parts = chain(workflow).respond(ResponseRequest(items=(), tools=()), spoken=True, voice="", speed=1.0)
    assert await anext(parts) == SpokenPart("One. ", b"\1\0" * 4)
    assert workflow.given == ["One. "]


async def test_joined_texts_are_the_workflows_text() -> None:
    parts = await parts_of(Script(TextPart("One. Two"), TextPart(". Three")))
    assert "".join(part.text for part in parts if isinstance(part, SpokenPart)) == "One. Two. Three"


async def test_call_follows_the_text_that_precedes_it() -> None:
    call = CallPart("set_lamp", "{}")
    parts = await parts_of(Script(TextPart("Just a moment"), call, TextPart("Done.")))
    assert [getattr(part, "text", part) for part in parts] == ["Just a moment", call, "Done."]


async def test_text_parts_are_passed_unchanged_without_speech() -> None:
    parts = await parts_of(Script(TextPart("On"), TextPart("e. Two")), spoken=False)
    assert parts == [TextPart("On"), TextPart("e. Two")]


async def test_closing_the_answer_closes_the_workflow() -> None:
    workflow = Script(TextPart("One. "), TextPart("Two."))
    request = ResponseRequest(items=(), tools=())
    async with aclosing(chain(workflow).respond(request, spoken=True, voice="", speed=1.0)) as parts:
        await anext(parts)
    assert workflow.is_closed


# --- Speech -----------------------------------------------------------------------------------------------------------


def samples(pcm: bytes) -> array[int]:
    return array("h", pcm)


async def test_flite_speaks_at_24_khz() -> None:
    pcm = await open_tts("flite").synthesize("Hello there.")
    assert 0.4 < len(pcm) / 48_000 < 3 and max(samples(pcm)) > 3000


async def test_espeak_speaks_other_languages() -> None:
    pcm = await open_tts("espeak-ng", language="de").synthesize("Guten Tag.")
    assert len(pcm) > 24_000 and max(samples(pcm)) > 3000


async def test_speed_changes_the_length() -> None:
    voice = open_tts("flite")
    slow, fast = await voice.synthesize("Good morning.", speed=0.5), await voice.synthesize("Good morning.", speed=2.0)
    assert len(slow) > 2.5 * len(fast)


async def test_unknown_voice_falls_back_to_the_default_voice() -> None:
    voice = open_tts("flite", voice="rms")
    assert await voice.synthesize("Yes.", voice="marin") == await voice.synthesize("Yes.", voice="rms")
    assert await voice.synthesize("Yes.", voice="awb") != await voice.synthesize("Yes.", voice="rms")


@pytest.mark.parametrize("text", ["-o /tmp/x hello", "$(reboot) `id`; echo hi", "@/etc/passwd", "--help me", "a\0b\nc"])
async def test_text_is_never_an_option_or_a_command(text: str) -> None:
    assert len(await open_tts("flite").synthesize(text)) > 5_000


@pytest.mark.parametrize("text", ["", "   ", "...", "\n"])
async def test_text_without_words_gives_no_audio(text: str) -> None:
    assert await open_tts("flite").synthesize(text) == b""


async def test_text_over_the_limit_is_refused() -> None:
    with pytest.raises(SpeechError, match="2000"):
        await open_tts("flite").synthesize("word " * 1000)


async def test_missing_program_error_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SpeechError, match="sudo apt install flite"):
        await open_tts("flite").synthesize("Hello.")


def program(tmp_path: Path, script: str) -> ProgramSpeech:
    path = tmp_path / "speak"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return ProgramSpeech(
        SpeechProgram(
            name=str(path),
            package="speak",
            arguments=lambda voice, speed, wav: (wav,),
            default_voice="any",
            has_voice=lambda _: True,
        )
    )


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo no voice >&2; exit 3", "status 3: no voice"),
        ("cat >/dev/null; exit 0", "0 bytes that are not a WAV"),
        ('cat >/dev/null; printf RIFFxxxxWAVE > "$1"', "without samples"),
    ],
)
async def test_failing_program_raises_a_specific_error(tmp_path: Path, script: str, expected: str) -> None:
    with pytest.raises(SpeechError, match=expected):
        await program(tmp_path, script).synthesize("Hello.")


async def test_repeated_sentence_comes_from_the_cache(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    wav = tmp_path / "x.wav"
    head = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\1\0\1\0\xc0\x5d\0\0\x80\xbb\0\0\2\0\x10\0data\4\0\0\0"
    wav.write_bytes(head + b"\1\0\2\0")
    voice = program(tmp_path, f'echo x >> {runs}; cat >/dev/null; cat {wav} > "$1"')
    assert await voice.synthesize("Hello.") == b"\1\0\2\0"
    assert await voice.synthesize("Hello.") == b"\1\0\2\0"
    assert runs.read_text() == "x\n"


def test_wav_with_an_unknown_length_is_read_to_its_end() -> None:
    head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\1\0\1\0\x80\x3e\0\0\0\x7d\0\0\2\0\x10\0data\xff\xff\xff\xff"
    pcm, rate = read_wav(head + b"\1\0\2\0\3", "x")
    assert pcm.tolist() == [1, 2] and rate == 16_000


# --- Recognition ------------------------------------------------------------------------------------------------------


class Recogniser:
    """The recogniser, loaded once for this file."""

    engine: SphinxSpeechToText | None = None

    @classmethod
    async def hear(cls, pcm: bytes, tools: list[dict[str, Any]] = TOOLS) -> Transcript:
        if cls.engine is None:
            cls.engine = SphinxSpeechToText(BOOK)
        return await asyncio.to_thread(cls.engine.understand, pcm, tools)


async def test_command_is_recognised_as_its_phrase() -> None:
    pcm = await open_tts("flite").synthesize("turn on the lamp")
    assert await Recogniser.hear(pcm) == Transcript("turn on the lamp", is_command=True)


async def test_other_speech_gives_the_open_transcript() -> None:
    pcm = await open_tts("flite").synthesize("the quick brown fox jumps over the lazy dog")
    heard = await Recogniser.hear(pcm)
    assert not heard.is_command and "brown" in heard.text


async def test_phrase_that_is_not_live_is_not_a_command() -> None:
    pcm = await open_tts("flite").synthesize("turn on the lamp")
    heard = await Recogniser.hear(pcm, tools=[{"name": "get_time"}])
    assert not heard.is_command and heard.text


async def test_book_without_live_phrases_gives_the_open_transcript() -> None:
    pcm = await open_tts("flite").synthesize("turn on the lamp")
    engine = SphinxSpeechToText(PhraseBook({"phrases": []}, name=""))
    heard = await asyncio.to_thread(engine.understand, pcm, TOOLS)
    assert not heard.is_command and heard.text


@pytest.mark.parametrize("pcm", [b"", bytes(48_000), bytes(10), b"\5\0" * 24_000], ids=["none", "zero", "short", "dc"])
async def test_silence_gives_no_words(pcm: bytes) -> None:
    assert await Recogniser.hear(pcm) == Transcript("")


async def test_noise_with_half_a_sample_is_not_a_command() -> None:
    noise = array("h", (((i * 7919) % 2003) - 1001 for i in range(24_000))).tobytes() + b"\0"
    assert not (await Recogniser.hear(noise)).is_command


async def test_recognition_does_not_depend_on_the_previous_utterance() -> None:
    lamp = await open_tts("flite").synthesize("turn off the lamp", voice="awb")
    fox = await open_tts("flite").synthesize("the quick brown fox", voice="rms")
    alone = await Recogniser.hear(lamp)
    await Recogniser.hear(fox)
    assert await Recogniser.hear(lamp) == alone


async def test_sessions_with_different_tools_share_the_decoder() -> None:
    lamp = await open_tts("flite").synthesize("turn on the lamp")
    clock = await open_tts("flite").synthesize("what time is it")
    only_clock = [{"name": "get_time"}]
    heard = await asyncio.gather(
        Recogniser.hear(lamp), Recogniser.hear(clock, only_clock), Recogniser.hear(lamp, only_clock)
    )
    assert [one.is_command for one in heard] == [True, True, False]


async def test_least_recently_used_grammar_is_evicted() -> None:
    lamp = await open_tts("flite").synthesize("turn on the lamp")
    for name in ("get_time", "get_volume", "list_timers", "device_status", "set_volume", "cancel_timer", "start_timer"):
        assert (await Recogniser.hear(lamp, [{"name": "set_lamp"}, {"name": name}])).is_command
    assert (await Recogniser.hear(lamp, [{"name": "set_lamp"}])).is_command
    assert (await Recogniser.hear(lamp)).is_command
    assert "grammars=8" in repr(Recogniser.engine)


def test_load_names_a_word_without_a_pronunciation() -> None:
    book = PhraseBook({"phrases": [{"answer": "x", "say": ["florbulate the lamp"]}]}, name="my.yaml")
    with pytest.raises(SettingsError, match=r"my\.yaml.*'florbulate'.*pronunciations"):
        SphinxSpeechToText(book).load()


# --- Agreement --------------------------------------------------------------------------------------------------------


PHONES = {"turn": "T ER N", "on": "AA N", "lamp": "L AE M P", "land": "L AE N D", "joke": "JH OW K"}

PRONOUNCE = Pronouncer(PHONES.get)


def hypothesis(*words: tuple[str, float]) -> Hypothesis:
    """Return words of ten frames each, with their scores, between two pauses."""
    pause = Segment("", 0, 9, -10.0)
    spoken = [Segment(word, 10 * i, 10 * i + 9, score) for i, (word, score) in enumerate(words, 1)]
    return Hypothesis([pause, *spoken, Segment("", 10 * len(words) + 10, 10 * len(words) + 19, -10.0)])


def test_the_same_words_agree() -> None:
    one = hypothesis(("turn", -50), ("on", -50), ("lamp", -50))
    found = weigh(one, one, PRONOUNCE)
    assert (found.distance, found.likelihood, found.weakest) == (0.0, 0.0, 0.0)
    assert agree(one, one, PRONOUNCE)


def test_similar_word_agrees_if_the_command_fits_the_audio_better() -> None:
    command = hypothesis(("turn", -50), ("on", -50), ("lamp", -50))
    heard = hypothesis(("turn", -50), ("on", -50), ("land", -60))
    found = weigh(command, heard, PRONOUNCE)
    assert found.distance == pytest.approx(2 / 9)
    assert found.likelihood == pytest.approx(10 / 30)
    assert agree(command, heard, PRONOUNCE)


def test_one_badly_fitting_word_is_enough_to_refuse() -> None:
    command = hypothesis(("turn", -50), ("on", -50), ("lamp", -150))
    heard = hypothesis(("turn", -50), ("on", -50), ("joke", -50))
    assert weigh(command, heard, PRONOUNCE).weakest == pytest.approx(-1.0)
    assert not agree(command, heard, PRONOUNCE)


def test_words_heard_in_a_pause_of_the_command_are_enough_to_refuse() -> None:
    heard = hypothesis(("turn", -50), ("on", -50), ("lamp", -50), ("joke", -50), ("turn", -50), ("on", -50))
    said = (Segment(one.word if i < 4 else "", one.start, one.end, -10) for i, one in enumerate(heard.segments))
    command = Hypothesis(list(said))
    found = weigh(command, heard, PRONOUNCE)
    assert found.weight > 0 and found.unheard == 30
    assert not agree(command, heard, PRONOUNCE)


def test_distance_is_that_of_the_nearest_hypothesis() -> None:
    command = hypothesis(("lamp", -50))
    assert weigh(command, hypothesis(("joke", -50)), PRONOUNCE).distance == 1.0
    heard = Hypothesis(hypothesis(("joke", -50)).segments, ["land", "lamp on"])
    assert weigh(command, heard, PRONOUNCE).distance == pytest.approx(1 / 3)


def test_empty_hypothesis_never_agrees() -> None:
    assert not agree(hypothesis(("turn", -50)), Hypothesis(), PRONOUNCE)
    assert not agree(Hypothesis(), hypothesis(("turn", -50)), PRONOUNCE)


# --- Names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"stt": "pocketsphynx"}, "no speech to text is called 'pocketsphynx'; .*did you mean 'pocketsphinx'"),
        ({"tts": "espeak"}, "did you mean 'espeak-ng'"),
        ({"workflow": "Chat"}, "did you mean 'chat'"),
        ({"workflow": "zzz"}, "no workflow is called 'zzz'; available: chat, phrases"),
        ({"workflow": "chat"}, "brain.chat_url"),
    ],
)
def test_unknown_name_is_refused_with_a_suggestion(names: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        build_pipeline(**names)  # type: ignore[arg-type]


def test_language_that_an_engine_does_not_support_is_refused() -> None:
    with pytest.raises(SpeechError, match=r"English only.*espeak-ng"):
        open_tts("flite", language="de")
    with pytest.raises(SpeechError, match="English only"):
        open_stt("pocketsphinx", BOOK, language="de")


def test_default_pipeline_matches_the_default_settings() -> None:
    made = {name: one.default for name, one in inspect.signature(build_pipeline).parameters.items()}
    names = ("stt", "workflow", "tts", "voice", "chat_url", "chat_model")
    assert {name: made[name] for name in names} == {name: getattr(Settings().brain, name) for name in names}
    assert made["language"] == Settings().assistant.language


async def test_pipeline_turns_speech_into_a_call_and_its_output_into_speech() -> None:
    pipeline = build_pipeline()
    await pipeline.warm_up()
    pcm = await open_tts("flite").synthesize("please turn off the lamp", voice="rms")
    heard = await pipeline.transcribe(pcm, tools=TOOLS)
    items = [user(heard.text, "input_audio")]

    async def respond() -> list[Part]:
        request = ResponseRequest(items=items, tools=TOOLS)
        return [part async for part in pipeline.respond(request, spoken=True, voice="marin", speed=1.0)]

    assert await respond() == [CallPart("set_lamp", '{"on": false}')]
    items += [call("set_lamp", on=False), output({"on": False})]
    (told,) = await respond()
    assert isinstance(told, SpokenPart) and told.text == "The lamp is off." and len(told.pcm) > 20_000
