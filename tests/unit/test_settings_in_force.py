"""Every setting reaches the part that it is about, in that part's unit: the whole device is assembled with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from appliance.service import app
from appliance.service.app import open_pipeline
from appliance.settings import Settings, load_settings
from appliance.speech import pipeline
from appliance.wording import english
from tests.support.assembled import Parts, assembled

ENVIRON = {"OPENAI_API_KEY": "key-of-the-variable", "MY_KEY": "my-key"}
NOON = time(12)
SERVER = "ws://house.local/v1"
RGB = {"light.kind": "rgb"}
STORED = {"history.persist": True}
BUDGET = {"budget.daily_usd": 9.0}
MINUTE = {"type": "duration", "seconds": 60}
ROW = {"model": "mine", "per_minute": 1.0}
OUTPUT: dict[str, Any] = {"name": "fan", "pin": 5, "description": "The fan.", "active_low": True, "pulse_s": 2.0}
OUTPUT |= {"hours": "08:00-20:00", "needs_approval": True, "phrases": ["start the fan"]}
INPUT: dict[str, Any] = {"name": "door", "pin": 6, "description": "The door.", "pull": "down", "active_low": False}
INPUT |= {"tells": "press", "asks": True, "phrases": ["is it open"]}


class Reach(NamedTuple):
    """A value of a setting, where to look for it, and what is there; `given` settings make it matter."""

    value: Any
    look: Callable[[Parts], Any]
    found: Any
    given: Mapping[str, object] = {}


def at(part: str, name: str) -> Callable[[Parts], Any]:
    return lambda parts: parts[part][name]


def policy(name: str) -> Callable[[Parts], Any]:
    return lambda parts: getattr(parts["Conversation"]["policy"], name)


def session(*names: str) -> Callable[[Parts], Any]:
    """A field of the first agent's ``session``."""

    def look(parts: Parts) -> Any:
        found = parts["Conversation"]["specs"][0].session
        for name in names:
            found = found.get(name) if found is not None else None
        return found

    return look


def agent(parts: Parts) -> str:
    name: str = parts["Conversation"]["specs"][0].agent
    return name


def tools(parts: Parts) -> set[str]:
    return {one["name"] for one in parts["Conversation"]["specs"][0].session["tools"]}


def names(parts: Parts) -> list[str]:
    return [one.name for one in parts["open_transport"]["endpoints"]]


def address(parts: Parts) -> str:
    url: str = parts["open_transport"]["endpoints"][0].url
    return url


def headers(parts: Parts) -> dict[str, str]:
    return dict(parts["open_transport"]["endpoints"][0].headers())


def same(part: str, *keys: str) -> dict[str, Callable[[Parts], Any]]:
    """Settings that a part takes by their own names and in their own units."""
    return {key: at(part, key.partition(".")[2]) for key in keys}


IN_THE_POLICY = [
    "link.backoff_initial_s",
    "link.backoff_max_s",
    "link.failback_s",
    "audio.pre_roll_ms",
    "audio.post_roll_ms",
    "audio.max_turn_s",
    "button.min_press_ms",
    "button.tap_max_ms",
    "button.min_turn_ms",
    "button.release_debounce_ms",
    "button.silence_ms",
    "button.no_speech_s",
    "button.double_tap",
    "button.double_tap_ms",
    "button.hold_ms",
    "button.mute_hold_s",
    "deadlines.connect_s",
    "deadlines.commit_s",
    "deadlines.answer_s",
    "deadlines.tool_s",
    "deadlines.playout_stall_s",
    "deadlines.approval_s",
    "deadlines.link_wait_s",
    "deadlines.cancel_s",
    "guardrails.hold_audio",
    "history.replay_items",
]
BY_NAME: dict[str, Callable[[Parts], Any]] = {
    **{key: policy(key.partition(".")[2]) for key in IN_THE_POLICY},
    **same("open_transport", "link.connect_timeout_s", "link.ping_interval_s", "link.ping_timeout_s"),
    **same("open_backend", "audio.capture_card", "audio.playback_card", "audio.rate", "audio.period_ms"),
    **same("open_backend", "audio.buffer_ms", "audio.mixer_control"),
    **same("AudioStreams", "audio.playback_ring_ms", "audio.prebuffer_ms", "audio.max_prebuffer_ms"),
    **same("AudioStreams", "audio.idle_after_s"),
    **same("open_buttons", "button.pin", "button.pull", "button.mute_pin", "button.second_pin"),
    **same("Light", "light.active_high", "light.count"),
    **same("open_outputs", "outputs.lamp_pin", "outputs.dimmer_pin", "outputs.active_high"),
}
"""Key → where its value is found unchanged."""

REACHES: dict[str, Reach] = {
    "link.provider": Reach("offline", names, ["offline brain"]),
    "link.base_url": Reach(SERVER, address, f"{SERVER}/realtime?model=gpt-realtime-2.1"),
    "link.model": Reach("gpt-mine", address, "wss://api.openai.com/v1/realtime?model=gpt-mine"),
    "link.transport": Reach("webrtc", at("open_transport", "name"), "webrtc"),
    "link.credential": Reach("mine", headers, {"Authorization": "Bearer key-of-the-credential"}),
    "link.key_file": Reach("HOME/key", headers, {"Authorization": "Bearer key-of-the-file"}),
    "link.key_env": Reach("MY_KEY", headers, {"Authorization": "Bearer my-key"}),
    "link.api_key_header": Reach("api-key", headers, {"api-key": "key-of-the-variable"}),
    "link.safety_identifier": Reach(
        "h4sh", headers, {"Authorization": "Bearer key-of-the-variable", "OpenAI-Safety-Identifier": "h4sh"}
    ),
    "link.fallbacks": Reach(f"{SERVER} offline", names, ["openai", "fallback 1", "offline brain"]),
    "link.rotate_after_minutes": Reach(20.0, policy("rotate_after_s"), 1200.0),
    "assistant.name": Reach("Ada", agent, "Ada"),
    "assistant.instructions": Reach("Be brief.", session("instructions"), "Be brief."),
    "assistant.instructions_file": Reach("HOME/says.txt", session("instructions"), "Be a poet."),
    "assistant.agents_file": Reach("HOME/agents.toml", agent, "from_the_file"),
    "assistant.agent": Reach("reached_module:agent", agent, "from_python"),
    "assistant.tools": Reach("reached_module:extra", lambda parts: "extra" in tools(parts), True),
    "assistant.hooks": Reach("reached_module:hooks", lambda parts: parts["AgentRuntime"]["hooks"] is not None, True),
    "assistant.voice": Reach("cedar", session("audio", "output", "voice"), "cedar"),
    "assistant.speed": Reach(1.25, session("audio", "output", "speed"), 1.25),
    "assistant.language": Reach("de", session("audio", "input", "transcription", "language"), "de"),
    "assistant.wording_dir": Reach(
        "HOME/words", lambda parts: parts.built["open_wording"].say("status.stopping"), "Bye."
    ),
    "assistant.transcription_model": Reach(
        "whisper-1", session("audio", "input", "transcription"), {"model": "whisper-1", "language": "en"}
    ),
    "assistant.noise_reduction": Reach("far_field", session("audio", "input", "noise_reduction", "type"), "far_field"),
    "assistant.max_output_tokens": Reach(300, session("max_output_tokens"), 300),
    "assistant.reasoning_effort": Reach("low", session("reasoning", "effort"), "low"),
    "audio.backend": Reach("simulated", at("open_backend", "name"), "simulated"),
    "audio.volume": Reach(55, lambda parts: parts.built["AudioStreams"].volume, 55),
    "audio.earcon_volume": Reach(30, lambda parts: parts.built["AudioStreams"].earcon_volume, 30),
    "audio.night_hours": Reach("always", lambda parts: parts["AudioStreams"]["loudest"](), 40),
    "audio.night_volume": Reach(
        25, lambda parts: parts["AudioStreams"]["loudest"](), 25, given={"audio.night_hours": "always"}
    ),
    "audio.night_alarms": Reach(True, at("AudioStreams", "are_alarms_capped"), False),
    "audio.announcements": Reach(False, lambda parts: parts["LocalAnnouncer"]["voice"] is None, True),
    "button.mode": Reach("tap", policy("button_mode"), "tap"),
    "button.active_low": Reach(False, at("open_buttons", "active_low"), False, given={"button.pull": "none"}),
    "button.power_off_command": Reach("systemctl halt", at("PowerSwitch", "command"), "systemctl halt"),
    "button.power_off_hold_s": Reach(
        12.0, policy("power_off_hold_s"), 12.0, given={"button.power_off_command": "halt", "button.second_pin": 27}
    ),
    "light.kind": Reach("none", at("Light", "kind"), "none"),
    "light.pin": Reach(13, at("Light", "pins"), {"led": [13]}, given={"light.kind": "led"}),
    "light.red_pin": Reach(13, at("Light", "pins"), {"rgb": [13, 24, 23]}, given=RGB),
    "light.green_pin": Reach(13, at("Light", "pins"), {"rgb": [25, 13, 23]}, given=RGB),
    "light.blue_pin": Reach(13, at("Light", "pins"), {"rgb": [25, 24, 13]}, given=RGB),
    "light.quiet_hours": Reach("always", lambda parts: parts["Light"]["quiet"].share(NOON), 0.0),
    "light.quiet_level": Reach(
        30, lambda parts: parts["Light"]["quiet"].share(NOON), 0.3, given={"light.quiet_hours": "always"}
    ),
    "guardrails.debounce_characters": Reach(40, policy("guardrail_debounce"), 40),
    "guardrails.timeout_s": Reach(2.0, policy("guardrail_s"), 2.0),
    "guardrails.parallel": Reach(False, at("AgentRuntime", "are_guardrails_parallel"), False),
    "history.persist": Reach(True, at("ConversationStore", "max_items"), 200, given=BUDGET),
    "history.max_items": Reach(50, at("ConversationStore", "max_items"), 50, given=STORED),
    "history.max_age_days": Reach(7.0, at("ConversationStore", "max_age_days"), 7.0, given=STORED),
    "budget.daily_usd": Reach(2.5, policy("budget_usd"), 2.5),
    "budget.daily_minutes": Reach(20.0, policy("budget_s"), 1200.0),
    "budget.prices": Reach([ROW], lambda parts: policy("prices")(parts).transcription_usd("mine", MINUTE), 1.0),
    "service.state_dir": Reach(
        "HOME/kept", lambda parts: parts["ConversationStore"]["path"].parent.name, "kept", STORED
    ),
    "service.trace": Reach("HOME/trace.jsonl", lambda parts: parts["TraceRecorder"]["path"].name, "trace.jsonl"),
    "service.watchdog": Reach(False, lambda parts: "Watchdog" in parts, False),
    "pins.factory": Reach("lgpio", at("open_pin_factory", "name"), "lgpio"),
}

AS_WELL = {
    "audio.pre_roll_ms": Reach(500, at("AudioStreams", "pre_roll_s"), 0.5),
    "audio.max_turn_s": Reach(30.0, at("AudioStreams", "max_turn_s"), 30.0),
    "audio.backend": Reach("simulated", at("AudioStreams", "stall_s"), 2.0),
    "assistant.language": Reach("de", lambda parts: parts.built["open_wording"].language, "de"),
    "button.mute_hold_s": Reach(6.0, at("MutedMicrophone", "unmute_hold_s"), 6.0),
    "assistant.voice": Reach(
        "cedar", session("audio", "output", "voice"), "cedar", given={"assistant.agent": "reached_module:agent"}
    ),
    "button.power_off_command": Reach("halt", policy("power_off_hold_s"), 10.0),
    "guardrails.timeout_s": Reach(2.0, at("AgentRuntime", "guardrail_s"), 2.0),
}
"""Settings of `REACHES` or `BY_NAME` that matter to another part, too."""
ELSEWHERE = {
    "light.i2s": "test_settings.py: which pins a HAT uses",
    "pins.reserved": "test_settings.py: pins that nothing may use",
    "service.log_level": "test_cli.py: how much is logged",
}
BRAIN = {
    "brain.stt": "sphinx",
    "brain.workflow": "chat",
    "brain.tts": "espeak",
    "brain.voice": "awb",
    "brain.chat_url": "http://house.local/v1",
    "brain.chat_model": "small",
    "assistant.language": "de",
}


@pytest.fixture
def home(folder: Path) -> Path:
    """A settings file's folder with everything that the settings of this test name."""
    (folder / "key").touch(mode=0o600)
    (folder / "key").write_text("key-of-the-file")
    (folder / "credentials").mkdir()
    (folder / "credentials" / "mine").write_text("key-of-the-credential")
    (folder / "says.txt").write_text("Be a poet.")
    (folder / "agents.toml").write_text('name = "from_the_file"\ninstructions = "Be kind."\n')
    (folder / "words").mkdir()
    (folder / "words" / "en.toml").write_text('[status]\nstopping = "Bye."\n')
    (folder / "reached_module.py").write_text(
        "from appliance import RealtimeAgent, RealtimeRunHooks, tool\n"
        "agent = RealtimeAgent(name='from_python')\nhooks = RealtimeRunHooks()\n"
        "@tool\ndef extra() -> str:\n    'One more.'\n    return 'done'\n"
    )
    return folder


def keys() -> set[str]:
    return {f"{section}.{key}" for section, values in Settings() for key in type(values).model_fields}


def other(key: str) -> Any:
    """Return another allowed value of a setting than its default."""
    section, _, name = key.partition(".")
    default = getattr(getattr(Settings(), section), name)
    if isinstance(default, bool):
        return not default
    if isinstance(default, int | float):
        return OTHERS.get(key, default + 1)
    return OTHERS[key]


OTHERS: dict[str, Any] = {
    "audio.capture_card": "seeed",
    "audio.playback_card": "seeed",
    "audio.mixer_control": "Speaker",
    "audio.rate": 44_100,
    "button.double_tap": "mute",
    "button.mute_pin": 22,
    "button.pin": 5,
    "button.pull": "none",
    "button.second_pin": 27,
    "outputs.dimmer_pin": 12,
    "outputs.lamp_pin": 5,
}


def test_each_setting_is_looked_for() -> None:
    brain = {key for key in keys() if key.startswith("brain.")}
    assert {*BY_NAME, *REACHES, *ELSEWHERE, *brain, "gpio.outputs", "gpio.inputs"} == keys()


def reaches() -> list[Any]:
    by_name = {key: Reach(other(key), look, other(key)) for key, look in BY_NAME.items()}
    found = [*by_name.items(), *REACHES.items(), *AS_WELL.items()]
    return [pytest.param(key, reach, id=key) for key, reach in sorted(found, key=lambda one: one[0])]


@pytest.mark.parametrize(("key", "reach"), reaches())
async def test_a_changed_setting_is_in_force(key: str, reach: Reach, home: Path) -> None:
    value = reach.value.replace("HOME", str(home)) if isinstance(reach.value, str) else reach.value
    changed = await assembled(home, {**reach.given, key: value}, ENVIRON)
    assert reach.look(changed) == reach.found
    if key == "service.trace":  # without it there is no recorder
        return
    default = await assembled(home, reach.given, ENVIRON)
    assert reach.look(default) != reach.found


async def test_outputs_and_inputs_of_the_settings_are_tools(home: Path) -> None:
    parts = await assembled(home, {"gpio.outputs": [OUTPUT], "gpio.inputs": [INPUT]}, ENVIRON)
    assert parts["open_switches"]["wiring"] == {"fan": (5, True)}
    assert parts["open_contacts"]["wiring"] == {"door": {"pin": 6, "pull": "down", "active_low": False}}
    assert {key: parts["NamedOutput"][key] for key in OUTPUT if key not in ("pin", "active_low")} == {
        key: value for key, value in OUTPUT.items() if key not in ("pin", "active_low")
    }
    said = {key: INPUT[key] for key in ("name", "description", "phrases")}
    assert {key: parts["NamedInput"][key] for key in said} == said
    assert {key: parts["InputReports"][key] for key in ("tells", "asks")} == {"tells": "press", "asks": True}


def test_the_offline_brain_is_built_from_its_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: dict[str, Any] = {}
    monkeypatch.setattr(pipeline, "build_pipeline", lambda **options: built.update(options))
    more = BRAIN | {"brain.phrases_dir": str(home), "brain.chat_key_env": "MY_KEY"}
    words, said = english(), [""]
    open_pipeline(load_settings(None, {}, overrides=more), ENVIRON, words, recognisers=3, remark=said.append)
    assert (built["wording"], built["recognisers"], built["remark"]) == (words, 3, said.append)
    assert {f"brain.{key}": value for key, value in built.items() if f"brain.{key}" in BRAIN} == {
        key: value for key, value in BRAIN.items() if key.startswith("brain.")
    }
    assert (built["language"], built["phrases_dir"], built["chat_key"]) == ("de", home, "my-key")


@pytest.mark.parametrize("index", [0, 1])
async def test_endpoints_of_the_policy_are_those_of_the_transport(index: int, home: Path) -> None:
    """The budget and the failover turn to the offline brain by its place."""
    order = [f"{SERVER} offline", f"offline {SERVER}"][index]
    parts = await assembled(home, {"link.fallbacks": order}, ENVIRON)
    assert policy("endpoints")(parts) == 3
    assert names(parts)[policy("offline_endpoint")(parts)] == "offline brain"


async def test_only_the_first_server_gets_the_key(home: Path) -> None:
    """A fallback may belong to someone else."""
    more = {"link.fallbacks": f"{SERVER} wss://other.example/v1", "link.safety_identifier": "h4sh"}
    parts = await assembled(home, more, ENVIRON)
    first, *others = parts["open_transport"]["endpoints"]
    assert first.headers()["Authorization"] == "Bearer key-of-the-variable"
    assert [dict(one.headers()) for one in others] == [{}, {}]


async def test_no_conversation_is_stored_for_a_budget_alone(home: Path) -> None:
    parts = await assembled(home, BUDGET, ENVIRON)
    assert parts["ConversationStore"]["max_items"] == 0


async def test_agents_and_sentences_are_in_the_policy(home: Path) -> None:
    """A double tap turns to the next agent; outputs of calls that no tool produces are in the device's language."""
    parts = await assembled(home, {"assistant.language": "de"}, ENVIRON)
    assert policy("next_agents")(parts) == {"Assistant": "Assistant"}
    assert policy("outputs")(parts) == parts.built["open_wording"].table("output") != english().table("output")


async def test_every_part_of_the_device_has_its_tools(home: Path) -> None:
    parts = await assembled(home, {"outputs.dimmer_pin": 12}, ENVIRON)
    found = {"set_lamp", "set_light", "set_volume", "mute_microphone", "start_timer", "device_status"}
    assert tools(parts) >= found
    device = parts["DeviceParts"]
    assert device["wording"] is parts["StatusLine"]["wording"] is parts.built["open_wording"]
    assert parts["Timers"]["path"] == home / "state" / "timers.json", "timers outlive a restart"


async def test_parts_share_the_sentences_and_watch_the_same_conversation(home: Path) -> None:
    parts = await assembled(home, {"history.persist": True}, ENVIRON)
    agents, words = parts["AgentRuntime"], parts.built["open_wording"]
    assert agents["wording"] is parts["LocalAnnouncer"]["wording"] is words
    assert agents["history"]() == parts.built["Conversation"].history
    assert not agents["are_servers_needed"], "an MCP server that is away does not prevent the start"
    seen = {type(getattr(one, "__self__", one)).__name__ for one in parts["Driver"]["observers"]}
    assert seen >= {"ConversationStore", "Days", "MuteFile", "PowerSwitch", "RestartAtRest", "StatusLine", "TurnLog"}


@pytest.mark.parametrize(("hour", "loudest"), [(12, 100), (23, 25)])
async def test_volume_is_capped_in_the_night_hours_only(
    hour: int, loudest: int, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    night = {"audio.night_hours": "22:00-07:00", "audio.night_volume": 25}
    parts = await assembled(home, night, ENVIRON)
    monkeypatch.setattr(app, "datetime", SimpleNamespace(now=lambda: datetime(2026, 1, 1, hour)))
    assert parts["AudioStreams"]["loudest"]() == loudest
