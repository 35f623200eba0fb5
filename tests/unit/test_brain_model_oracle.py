"""Every frame that the brain sends is valid under the types of the `openai` package, strictly.

`Served` checks each frame that is emitted; here a random client drives a session into unusual states. The first tests
show that the oracle can fail.
"""

from __future__ import annotations

import base64
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.support.oracle import WrongFrame, check_client_frame, check_server_frame
from tests.support.served import Served, names, silence, tone

CREATED = Served().created[0]
PLACE = {"response_id": "resp_1", "item_id": "item_1", "output_index": 0}


def with_session(**changes: Any) -> dict[str, Any]:
    return {**CREATED, "session": {**CREATED["session"], **changes}}


def without(frame: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in frame.items() if name != key}


AUDIO_DELTA = {
    "type": "response.output_audio.delta",
    "event_id": "event_1",
    **PLACE,
    "content_index": 0,
    "delta": "AAAA",
    "obfuscation": "x9",
}
CALL_DONE = {
    "type": "response.function_call_arguments.done",
    "event_id": "event_1",
    **PLACE,
    "call_id": "call_1",
    "name": "set_lamp",
    "arguments": "{}",
}
PART_ADDED = {
    "type": "response.content_part.added",
    "event_id": "event_1",
    **PLACE,
    "content_index": 0,
    "part": {"type": "audio", "transcript": ""},
}
PUSH_TO_TALK = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}
OUT_OF_BAND = {"conversation": "none", "metadata": {"topic": "x"}, "output_modalities": ["text"], "input": [USER]}
REFERENCE = {"type": "item_reference", "id": "item_1"}


@pytest.mark.parametrize(
    "frame",
    [AUDIO_DELTA, CALL_DONE, PART_ADDED, CREATED, with_session(parallel_tool_calls=True)],
    ids=lambda frame: frame["type"],
)
def test_oracle_accepts_a_valid_server_frame(frame: dict[str, Any]) -> None:
    check_server_frame(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param({**AUDIO_DELTA, "type": "response.audio.delta"}, id="beta name"),
        pytest.param(without(AUDIO_DELTA, "event_id"), id="no event_id"),
        pytest.param(without(CALL_DONE, "name"), id="call without its name"),
        pytest.param({**PART_ADDED, "part": {"type": "output_audio"}}, id="long part name"),
        pytest.param({**CREATED, "session": without(CREATED["session"], "id")}, id="session without id"),
        pytest.param({**AUDIO_DELTA, "content_index": "0"}, id="text for a number"),
        pytest.param({**AUDIO_DELTA, "audio": "AAAA"}, id="unknown key"),
        pytest.param(with_session(voice="marin"), id="flat beta key"),
        pytest.param(with_session(audio={"input": {"vad": None}}), id="unknown key deep inside"),
        pytest.param(with_session(max_output_tokens="much"), id="bad enumeration"),
    ],
)
def test_oracle_refuses_an_invalid_server_frame(frame: dict[str, Any]) -> None:
    with pytest.raises(WrongFrame):
        check_server_frame(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param({"type": "session.update", "session": PUSH_TO_TALK}, id="push to talk"),
        pytest.param({"type": "response.create", "response": OUT_OF_BAND}, id="out of band"),
        pytest.param({"type": "response.create", "response": {"input": [REFERENCE, USER]}}, id="reference"),
        pytest.param({"type": "response.create"}, id="bare"),
    ],
)
def test_oracle_accepts_a_valid_client_frame(frame: dict[str, Any]) -> None:
    check_client_frame(frame)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param({"type": "session.update", "session": {**PUSH_TO_TALK, "voice": "ash"}}, id="flat beta key"),
        pytest.param({"type": "session.update", "session": without(PUSH_TO_TALK, "type")}, id="no session.type"),
        pytest.param(
            {
                "type": "conversation.item.create",
                "item": {**USER, "content": [{"type": "text", "text": "hi"}]},
            },
            id="user part named text",
        ),
        pytest.param(
            {"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 12.5},
            id="half a millisecond",
        ),
        pytest.param({"type": "response.create", "response": {"input": [{"type": "item_reference"}]}}, id="no id"),
        pytest.param(
            {"type": "response.create", "response": {"input": [REFERENCE], "temperature": 1}},
            id="unknown key next to a reference",
        ),
        pytest.param({"type": "response.create", "response": {"input": [{**REFERENCE, "x": 1}]}}, id="extra key"),
        pytest.param({"type": "response.go"}, id="unknown type"),
    ],
)
def test_oracle_refuses_an_invalid_client_frame(frame: dict[str, Any]) -> None:
    with pytest.raises(WrongFrame):
        check_client_frame(frame)


# --- a random client ---------------------------------------------------------------------------------------------

VALID_TURNS = [
    {"type": "server_vad"},
    {"type": "server_vad", "create_response": False, "silence_duration_ms": 200},
    {"type": "server_vad", "interrupt_response": False, "idle_timeout_ms": 5000},
    {"type": "semantic_vad", "eagerness": "high"},
]
TURNS = st.sampled_from([None, *VALID_TURNS, {"type": "server_vad", "threshold": 9}])
FORMATS = st.sampled_from([{"type": "audio/pcm"}, {"type": "audio/pcmu"}, {"type": "audio/pcma"}, "pcm16"])
TOOL = {"type": "function", "name": "set_lamp", "parameters": {"type": "object", "properties": {}}}
SESSIONS = st.fixed_dictionaries(
    {"type": st.just("realtime")},
    optional={
        "audio": st.fixed_dictionaries(
            {},
            optional={
                "input": st.fixed_dictionaries(
                    {},
                    optional={
                        "format": FORMATS,
                        "turn_detection": TURNS,
                        "transcription": st.sampled_from([None, {"model": "m"}, {"language": "en"}, {"modl": "m"}]),
                        "noise_reduction": st.sampled_from([None, {"type": "near_field", "strength": 0.5}, {}]),
                    },
                ),
                "output": st.fixed_dictionaries(
                    {},
                    optional={
                        "format": FORMATS,
                        "voice": st.sampled_from(["cedar", "ash", {"id": "voice_1"}, 7]),
                        "speed": st.sampled_from([1, 0.5, 3]),
                    },
                ),
            },
        ),
        "instructions": st.text(max_size=20),
        "output_modalities": st.sampled_from([["text"], ["audio"], []]),
        "tools": st.sampled_from([[], [TOOL], [{"type": "mcp"}]]),
        "tool_choice": st.sampled_from(["auto", "none", {"type": "function", "name": "set_lamp"}]),
        "max_output_tokens": st.sampled_from([1, 30, 4096, "inf", 5000]),
        "tracing": st.sampled_from([None, "auto", {"workflow_name": "w"}]),
        "truncation": st.sampled_from(["auto", "disabled", {"type": "retention_ratio", "retention_ratio": 0.8}]),
        "prompt": st.sampled_from([None, {"id": "p", "variables": {"a": "b"}}]),
        "include": st.sampled_from([None, ["item.input_audio_transcription.logprobs"], ["x"]]),
        "reasoning": st.just({"effort": "low"}),
        "parallel_tool_calls": st.booleans(),
    },
)
CONTENT = st.sampled_from(
    [
        [{"type": "input_text", "text": "hi"}],
        [{"type": "input_image", "image_url": "data:image/jpeg;base64,AAAA"}],
        [{"type": "input_audio", "audio": base64.b64encode(tone(120)).decode()}],
        [{"type": "input_audio", "audio": "AAA="}],
        [{"type": "output_text", "text": "hi"}],
    ]
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


ACTS = st.sampled_from(["speak", "speak", "write", "call", "finish", "finish", "fail"])
LIMITS = st.sampled_from(["inf", 3])
ROUNDS = 8  # usually two suffice: a walk favours some rules and rarely reaches every event in one round
GHOST = 9  # picks an item that does not exist
SEEN: Counter[str] = Counter()
"""How often the walk saw each event; ``response.done`` is counted per status, ``error`` per code."""

TRANSCRIPTION = "conversation.item.input_audio_transcription"
EXPECTED = {
    "session.updated",
    *(f"conversation.item.{name}" for name in ("added", "done", "retrieved", "truncated", "deleted")),
    *(f"{TRANSCRIPTION}.{name}" for name in ("delta", "completed", "failed")),
    *(f"input_audio_buffer.{name}" for name in ("committed", "cleared", "speech_started", "speech_stopped")),
    "input_audio_buffer.timeout_triggered",
    "response.created",
    *(f"response.done {status}" for status in ("completed", "cancelled", "failed", "incomplete")),
    *(f"response.output_item.{name}" for name in ("added", "done")),
    *(f"response.content_part.{name}" for name in ("added", "done")),
    *(f"response.{part}.{name}" for part in ("output_text", "output_audio_transcript") for name in ("delta", "done")),
    *(f"response.output_audio.{name}" for name in ("delta", "done")),
    *(f"response.function_call_arguments.{name}" for name in ("delta", "done")),
    *(f"error item_{doing}_invalid_item_id" for doing in ("retrieve", "truncate", "delete")),
    "error conversation_already_has_active_response",
    "error response_cancel_not_active",
    "error input_audio_buffer_commit_empty",
    "error item_create_invalid_previous_item_id",
    "error session_expired",
    "error invalid_json",
    "error invalid_type",
    "error unknown_parameter",
    "error None",
}


def _label(frame: dict[str, Any]) -> str:
    match frame["type"]:
        case "error":
            return f"error {frame['error']['code']}"
        case "response.done":
            return f"response.done {frame['response']['status']}"
        case name:
            return str(name)


class AnyClient(RuleBasedStateMachine):
    """Sends anything in any order; the recogniser and the generator answer or fail at any time."""

    @initialize(turns=st.sampled_from([*[None] * 4, *VALID_TURNS]), waits=st.booleans())
    def connect(self, turns: dict[str, Any] | None, waits: bool) -> None:
        self.served = Served(wait_for_transcripts=waits)
        self.served.update(audio={"input": {"turn_detection": turns, "transcription": {"model": "m"}}})
        self.created: list[str] = []
        self.done: list[str] = []

    def note(self, frames: list[dict[str, Any]]) -> None:
        SEEN.update(_label(frame) for frame in frames)
        self.created += [one["response"]["id"] for one in frames if one["type"] == "response.created"]
        self.done += [one["response"]["id"] for one in frames if one["type"] == "response.done"]

    def some_id(self, pick: int) -> str:
        ids = [item["id"] for item in self.served.model.items]
        return ids[pick % len(ids)] if ids and pick < GHOST else "ghost"

    @rule(session=SESSIONS)
    def update(self, session: dict[str, Any]) -> None:
        frames = self.served.send("session.update", session=session)
        allowed: list[list[str]] = [["session.updated"], ["error"], ["session.updated", "error"], []]
        assert names(frames) in allowed, frames
        self.note(frames)

    @rule(loud=st.booleans(), duration_ms=st.sampled_from([50, 150, 900]))
    def append(self, loud: bool, duration_ms: int) -> None:
        self.note(self.served.append(tone(duration_ms) if loud else silence(duration_ms)))

    @rule(what=st.sampled_from(["commit", "clear"]))
    def buffer(self, what: str) -> None:
        self.note(self.served.send(f"input_audio_buffer.{what}"))

    @rule(
        role=st.sampled_from(["user", "assistant", "system"]), content=CONTENT, after=st.none() | st.integers(0, GHOST)
    )
    def create_item(self, role: str, content: list[Any], after: int | None) -> None:
        place = {} if after is None else {"previous_item_id": self.some_id(after)}
        item = {"type": "message", "role": role, "content": content}
        self.note(self.served.send("conversation.item.create", item=item, **place))

    @rule(what=st.sampled_from(["retrieve", "delete"]), pick=st.integers(0, GHOST))
    def item(self, what: str, pick: int) -> None:
        self.note(self.served.send(f"conversation.item.{what}", item_id=self.some_id(pick)))

    @rule(pick=st.integers(0, GHOST), end_ms=st.integers(-1, 300))
    def truncate(self, pick: int, end_ms: int) -> None:
        self.cut(self.some_id(pick), end_ms)

    @rule(end_ms=st.integers(0, 100))
    def interrupt(self, end_ms: int) -> None:
        self.answer(acts=["speak"], modality="audio", limit="inf")
        items = self.served.model.items
        self.cut(items[-1]["id"] if items else "ghost", end_ms)

    def cut(self, item_id: str, end_ms: int) -> None:
        frames = self.served.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=end_ms)
        self.note(frames)

    @rule()
    def fall_silent(self) -> None:
        self.update({"type": "realtime", "audio": {"input": {"turn_detection": VALID_TURNS[2]}}})
        self.answer(acts=["speak"], modality="audio", limit="inf")
        self.wait(10.0)

    @rule(
        response=st.fixed_dictionaries(
            {},
            optional={
                "conversation": st.sampled_from(["auto", "none"]),
                "metadata": st.sampled_from([None, {"turn": "1"}]),
                "output_modalities": st.sampled_from([["text"], ["audio"]]),
                "max_output_tokens": st.sampled_from([5, "inf"]),
                "audio": st.just({"output": {"format": {"type": "audio/pcma"}}}),
                "tools": st.just([TOOL]),
            },
        ),
        own_input=st.none() | st.lists(st.integers(0, GHOST), max_size=2),
    )
    def respond(self, response: dict[str, Any], own_input: list[int] | None) -> None:
        if own_input is not None:
            response["input"] = [{"type": "item_reference", "id": self.some_id(pick)} for pick in own_input]
        self.note(self.served.send("response.create", response=response))

    @rule(pick=st.none() | st.integers(0, 3))
    def cancel(self, pick: int | None) -> None:
        ids = [*self.served.model.running, *self.done[-1:]] or ["ghost"]
        self.note(
            self.served.send("response.cancel", **({} if pick is None else {"response_id": ids[pick % len(ids)]}))
        )

    @rule(quiet_ms=st.sampled_from([0, 900]))
    def talk(self, quiet_ms: int) -> None:
        self.append(loud=True, duration_ms=150)
        self.note(self.served.append(silence(quiet_ms + 20)))
        self.buffer("commit")

    @rule(acts=st.lists(ACTS, max_size=4), modality=st.sampled_from(["audio", "audio", "text"]), limit=LIMITS)
    def answer(self, acts: list[str], modality: str, limit: str | int) -> None:
        """Generate a whole answer, or continue the active one."""
        response = {"output_modalities": [modality], "max_output_tokens": limit}
        self.note(self.served.send("response.create", response=response))
        self.generate(0, [*acts, "finish"])

    @rule(pick=st.sampled_from([0, 0, 0, 1]), acts=st.lists(ACTS, min_size=1, max_size=3))
    def generate(self, pick: int, acts: list[str]) -> None:
        """Generate output for an active response, or for one that is already done."""
        ids = [*self.done[-3:], *self.served.model.running]
        if not ids:
            return
        response_id = ids[-1 - pick % len(ids)]
        for what in acts:
            frames = self.act(response_id, what)
            assert not (frames and response_id in self.done), "a response that is done must not emit frames"
            self.note(frames)

    def act(self, response_id: str, what: str) -> list[dict[str, Any]]:
        match what:
            case "speak":
                return self.served.speak(response_id, "word ", 130)
            case "write":
                return self.served.write(response_id, "word ")
            case "call":
                return self.served.call(response_id, "set_lamp", "{}")
            case "fail":
                return self.served.fail(response_id, "engine failed")
            case _:
                return self.served.finish(response_id)

    @rule(text=st.sampled_from(["", "hello"]), fails=st.booleans())
    def hear(self, text: str, fails: bool) -> None:
        for item_id in list(self.served.to_transcribe):
            del self.served.to_transcribe[item_id]
            model = self.served.model
            self.note(
                self.served.do(
                    model.transcription_failed(item_id, "broken") if fails else model.transcribed(item_id, text)
                )
            )

    @rule(seconds=st.sampled_from([0.1, 6.0, 6.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        self.note(self.served.pass_time(seconds))

    @rule(junk=JUNK, name=st.sampled_from(["", "response.create", "session.update", "conversation.item.create"]))
    def junk(self, junk: Any, name: str) -> None:
        event = {"type": name, **junk} if isinstance(junk, dict) and name else {"session": junk, "type": name}
        self.note(self.served.send(str(event.pop("type")), **{str(key): one for key, one in event.items()}))

    @rule(frame=st.text(max_size=20) | st.binary(max_size=20))
    def noise(self, frame: str | bytes) -> None:
        frames = self.served.raw(frame)
        self.note(frames)
        assert names(frames) == ([] if self.served.closed else ["error"])

    @invariant()
    def every_response_ends_once_and_unfinished_ones_are_running(self) -> None:
        if not hasattr(self, "served"):
            return
        assert len(set(self.done)) == len(self.done)
        assert set(self.done) <= set(self.created)
        if not self.served.closed:
            assert set(self.created) - set(self.done) == set(self.served.model.running)
        assert set(self.served.generating) <= set(self.served.model.running)


def test_any_client_input_gets_only_valid_frames() -> None:
    SEEN.clear()
    walk = settings(
        max_examples=80,
        stateful_step_count=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    for number in range(ROUNDS):
        run_state_machine_as_test(seed(number)(AnyClient), settings=walk)
        if not EXPECTED - set(SEEN):
            return
    pytest.fail(f"the walk never reached these events, so it does not test them: {sorted(EXPECTED - set(SEEN))}")
