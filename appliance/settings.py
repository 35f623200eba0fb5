"""Typed settings, read from a TOML file, the environment and overrides.

Precedence, lowest first: the defaults below, the TOML file, the environment (``APPLIANCE_AUDIO__VOLUME=50`` is
``audio.volume``), explicit overrides (the command line). Every problem becomes one line of a single `SettingsError`:
the place, the dotted key, the value found, what is allowed, and the nearest known key.

The API key of the endpoint is not a setting. It is in a systemd credential, a separate file or an environment variable;
`read_api_key` reads it again for each connection, and no object of this module keeps it.

Only ``service.app`` uses `Settings`: the components receive plain values.
"""

from __future__ import annotations

import logging
import re
import shlex
import stat
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError, field_validator
from pydantic.fields import FieldInfo

from appliance.conversation.policy import Policy
from appliance.errors import SettingsError, ToolError, did_you_mean, is_loopback, one_line, shown
from appliance.hardware.wiring import WIRING
from appliance.places import SYSTEM_FILE
from appliance.safe_text import KEY_SHAPE, Secrets, redact_json

__all__ = [
    "OPENAI_URL",
    "AssistantSettings",
    "AudioSettings",
    "BrainSettings",
    "ButtonSettings",
    "DeadlineSettings",
    "EndpointSettings",
    "GpioInput",
    "GpioOutput",
    "GpioSettings",
    "LightSettings",
    "LinkSettings",
    "OutputSettings",
    "PinSettings",
    "ServiceSettings",
    "Settings",
    "key_place",
    "load_settings",
    "read_api_key",
    "read_instructions",
    "state_directory",
    "used_pins",
]

logger = logging.getLogger(__name__)

ENV_PREFIX: Final = "APPLIANCE_"
OPENAI_URL: Final = "wss://api.openai.com/v1"

_I2S_PINS: Final = frozenset({18, 19, 20, 21})  # bit clock, frame clock, input, output on every model
_NEEDED_PINS: Final = frozenset({"button.pin", "light.pin", "light.red_pin", "light.green_pin", "light.blue_pin"})
_HAT_ID_PINS: Final = frozenset({0, 1})  # the firmware reads the HAT's EEPROM on these pins
_LAMPS: Final = ("lamp", "light", "volume")  # whose tools set_lamp, set_light and set_volume exist
_HOURS: Final = r"([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d"
_SPI_PINS: Final = (10, 11)  # data and clock of SPI 0
_LIGHT_PINS: Final = {"led": ("pin",), "rgb": ("red_pin", "green_pin", "blue_pin")}
"""Kind of light on pins → the keys of its pins, in order."""
_SECRET_NAME: Final = re.compile(r"key|token|secret|password|sig", re.IGNORECASE)
_PATH_KEYS: Final = frozenset(
    {
        "link.key_file",
        "assistant.instructions_file",
        "assistant.agents_file",
        "assistant.wording_dir",
        "brain.phrases_dir",
        "service.state_dir",
        "service.trace",
    }
)
_WHERE_KEYS_LIVE: Final = (
    "the systemd credential named by link.credential, a separate file named by link.key_file, "
    "or the environment variable named by link.key_env"
)

_POLICY: Final = Policy()  # defaults of settings that are part of the policy

_REFERENCE: Final = '"module:attribute", such as "my_module:agent", or empty'

_INSTRUCTIONS: Final = (
    "You are a voice assistant inside a small box on a shelf. Your answers are heard, not read: keep them to one or "
    "two short sentences, with no lists, no markup and no addresses. Use the tools to act on the device, say in a few "
    "words what you did, and say so plainly when something did not work."
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class LinkSettings(_Section):
    """The connection to the model. Without a base_url and an API key, the built-in offline brain answers."""

    provider: Literal["auto", "offline", "openai", "compatible"] = Field(
        default="auto",
        description="What answers. auto: compatible if base_url is set, else openai if there is a key, else offline.",
    )
    base_url: str = Field(
        default="",
        description="Address of a Realtime server up to /v1, such as ws://127.0.0.1:8790/v1. Empty: set by provider.",
        json_schema_extra={"allowed": "an address with ws://, wss://, http:// or https://, or empty"},
    )
    model: str = Field(
        default="gpt-realtime-2.1", min_length=1, description="Name of the speech-to-speech model; not checked here."
    )
    transport: str = Field(
        default="websocket",
        min_length=1,
        description="Transport of the Realtime protocol.",
        json_schema_extra={"allowed": '"websocket" or the name of an installed transport'},
    )
    credential: str = Field(
        default="openai_api_key", description="Name of the systemd credential with the API key; tried first."
    )
    key_file: str = Field(default="", description="File with only the API key, mode 0600; tried second. Empty: none.")
    key_env: str = Field(default="OPENAI_API_KEY", description="Environment variable with the API key; tried last.")
    api_key_header: Literal["authorization", "api-key"] = Field(
        default="authorization", description="Header that carries the API key; Azure uses api-key."
    )
    safety_identifier: str = Field(
        default="",
        max_length=64,
        description="Stable, hashed name of the user, sent as OpenAI-Safety-Identifier. Empty: none.",
    )
    connect_timeout_s: float = Field(
        default=10.0, ge=1, le=120, description="Seconds to wait for the connection and its first event."
    )
    ping_interval_s: float = Field(default=20.0, ge=1, le=600, description="Seconds between two pings.")
    ping_timeout_s: float = Field(
        default=10.0, ge=1, le=600, description="Seconds to wait for a pong before the connection counts as lost."
    )
    backoff_initial_s: float = Field(
        default=_POLICY.backoff_initial_s, ge=0.05, le=60, description="Seconds before the first retry."
    )
    backoff_max_s: float = Field(
        default=_POLICY.backoff_max_s, ge=0.05, le=3600, description="Maximum seconds between two retries."
    )
    fallbacks: str = Field(
        default="offline",
        description="Servers to try in order if the endpoint cannot be reached, separated by spaces or as a list: "
        "addresses as in base_url, or offline. They do not get the API key. Empty: none.",
        json_schema_extra={"allowed": "addresses with ws://, wss://, http:// or https://, and offline"},
    )
    failback_s: float = Field(
        default=_POLICY.failback_s, ge=1, le=86400, description="Seconds between attempts to return from a fallback."
    )
    rotate_after_minutes: float = Field(
        default=_POLICY.rotate_after_s / 60,
        ge=1,
        le=1440,
        description="Minutes until the connection is replaced, between two turns; OpenAI closes it at 60.",
    )

    @field_validator("fallbacks", mode="before")
    @classmethod
    def _list_is_words(cls, value: object) -> object:
        return " ".join(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value


class AssistantSettings(_Section):
    """The assistant: its instructions, voice and language."""

    name: str = Field(default="Assistant", min_length=1, max_length=64, description="Name of the assistant.")
    instructions: str = Field(default=_INSTRUCTIONS, description="Instructions for the model.")
    instructions_file: str = Field(
        default="", description="Text file (UTF-8) that replaces the instructions above. Empty: none."
    )
    agents_file: str = Field(
        default="", description="TOML file that describes the assistant; replaces the keys above. Empty: none."
    )
    agent: str = Field(
        default="",
        description="The assistant in Python; replaces the keys above: a RealtimeAgent, or a function that takes the "
        "device's tools by name and returns one. The module is in this file's folder or installed. Empty: none.",
        json_schema_extra={"allowed": _REFERENCE},
    )
    tools: str = Field(
        default="",
        description="More tools, separated by spaces: module:attribute of a Tool or a list of Tools, or names of tools "
        "of installed packages. Those are always added; a name here makes a failure to load them an error.",
        json_schema_extra={"allowed": "tool names and module:attribute references"},
    )
    hooks: str = Field(
        default="",
        description="A RealtimeRunHooks object in Python, called on session events, for every kind of assistant. "
        "Empty: none.",
        json_schema_extra={"allowed": _REFERENCE},
    )
    voice: str = Field(default="marin", min_length=1, description="Voice of the model.")
    speed: float = Field(default=1.0, ge=0.25, le=1.5, description="Speed of speech; 1.0 is normal.")
    language: str = Field(
        default="en",
        pattern=r"^[a-z]{2,3}(-[A-Za-z0-9]{2,8})*$",
        description="Language of the user, as an ISO 639-1 code.",
        json_schema_extra={"allowed": 'a language code such as "en" or "pt-BR"'},
    )
    wording_dir: str = Field(
        default="",
        description="Folder of <language>.toml files, whose sentences replace the installed ones. Empty: none.",
    )
    transcription_model: str = Field(
        default="gpt-transcribe", description="Model that transcribes the user's speech. Empty: no transcript."
    )
    noise_reduction: Literal["near_field", "far_field", ""] = Field(
        default="near_field",
        description="Noise filter of the server: near_field for speech close to the device, far_field for a room.",
    )
    max_output_tokens: Literal["inf"] | int = Field(
        default="inf",
        description="Maximum tokens in one answer, including audio.",
        json_schema_extra={"allowed": '"inf" or a whole number from 1 to 4096'},
    )
    reasoning_effort: Literal["", "minimal", "low", "medium", "high", "xhigh"] = Field(
        default="", description="How long the model thinks (models of the 2 series only). Empty: the server's default."
    )


class AudioSettings(_Section):
    """The sound card."""

    backend: Literal["portaudio", "simulated"] = Field(
        default="portaudio", description="portaudio for a real sound card, simulated for none."
    )
    capture_card: str = Field(
        default="default",
        min_length=1,
        description="Microphone: id, USB path or name of the card, not its index. `appliance devices` lists them.",
    )
    playback_card: str = Field(
        default="default",
        min_length=1,
        description="Loudspeaker: id, USB path or name of the card, not its index. `appliance devices` lists them.",
    )
    rate: int = Field(default=48000, ge=8000, le=192000, description="Sampling rate of the card in Hz.")
    period_ms: int = Field(default=20, ge=5, le=100, description="Length of one period in ms.")
    buffer_ms: int = Field(
        default=60,
        ge=20,
        le=500,
        description="Audio that the card holds, in ms. A program that is late by less causes no gap.",
    )
    pre_roll_ms: int = Field(
        default=_POLICY.pre_roll_ms, ge=0, le=2000, description="Audio kept from before a press, in ms."
    )
    post_roll_ms: int = Field(
        default=_POLICY.post_roll_ms, ge=0, le=2000, description="Audio kept from after a release, in ms."
    )
    mixer_control: str = Field(
        default="auto",
        min_length=1,
        description="The loudspeaker's control that sets the volume, such as Speaker or PCM,1; `appliance devices` "
        "shows it. auto: Master, PCM or another usual one; software does what it cannot. none: the card is not "
        "changed.",
    )
    volume: int = Field(default=70, ge=0, le=100, description="Volume at start, in percent.")
    earcon_volume: int = Field(
        default=100,
        ge=0,
        le=100,
        description="Loudness of the cues, in percent of the volume; alarms always have the full volume.",
    )
    night_hours: str = Field(
        default="",
        pattern=rf"^(|always|{_HOURS})$",
        description="Local time in which nothing is louder than night_volume. Empty: never.",
        json_schema_extra={"allowed": 'hours such as "22:00-07:00", "always", or empty'},
    )
    night_volume: int = Field(default=40, ge=0, le=100, description="Highest volume in the night hours, in percent.")
    night_alarms: bool = Field(
        default=False, description="true: in the night hours alarms sound at the full volume, not at night_volume."
    )
    prebuffer_ms: int = Field(
        default=60, ge=0, le=1000, description="Audio buffered before an answer starts to play, in ms."
    )
    max_prebuffer_ms: int = Field(
        default=600,
        ge=0,
        le=2000,
        description="The most of prebuffer_ms: each pause of the network within an answer doubles it up to this, and "
        "three answers without a pause halve it. 0: it stays as it is.",
    )
    idle_after_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        description="The loudspeaker is closed after so many seconds without sound, and opened before the next sound. "
        "0: it stays open, so that no amplifier cuts off the first syllable.",
    )
    playback_ring_ms: int = Field(default=300, ge=40, le=2000, description="Size of the playback buffer, in ms.")
    max_turn_s: float = Field(
        default=_POLICY.max_turn_s,
        ge=1,
        le=600,
        description="Maximum length of a turn in seconds. Past it, a sound is played and nothing more is recorded; "
        "a held button sends at its release.",
    )
    announcements: bool = Field(default=True, description="Speak announcements (no connection, no key, no microphone).")


class ButtonSettings(_Section):
    """The push-to-talk button."""

    pin: int = Field(
        default=WIRING["button.pin"],
        ge=0,
        le=27,
        description="BCM number of the pin (17: ReSpeaker, Adafruit; 23: AIY).",
    )
    pull: Literal["up", "down", "none"] = Field(default=WIRING["button.pull"], description="Internal pull resistor.")
    active_low: bool = Field(default=True, description="true if a press pulls the pin to ground.")
    mode: Literal["auto", "hold", "tap"] = Field(
        default="auto",
        description="hold: talk while held. tap (a toggle): tap to start, tap to end. auto: both, by duration of the "
        "press.",
    )
    min_press_ms: int = Field(
        default=15,
        ge=0,
        le=200,
        description="Minimum duration of a press, in ms; a shorter pulse is ignored. Sound is sent after this time.",
    )
    tap_max_ms: int = Field(
        default=_POLICY.tap_max_ms, ge=50, le=2000, description="Maximum duration of a tap, in ms (mode = auto)."
    )
    min_turn_ms: int = Field(
        default=_POLICY.min_turn_ms,
        ge=100,
        le=5000,
        description="Shorter turns, in ms, are discarded. The server refuses less than 100.",
    )
    release_debounce_ms: int = Field(
        default=_POLICY.release_debounce_ms, ge=0, le=500, description="Minimum duration of a release, in ms."
    )
    silence_ms: int = Field(
        default=_POLICY.silence_ms, ge=200, le=10000, description="Silence that ends a tapped turn, in ms."
    )
    no_speech_s: float = Field(
        default=_POLICY.no_speech_s,
        ge=1,
        le=60,
        description="Seconds after which a tapped turn without speech ends.",
    )
    double_tap: Literal["", "mute", "new_conversation", "next_agent"] = Field(
        default="",
        description="What a double tap does. Empty: nothing. Else a sentence that a tap ends waits for the second one.",
    )
    double_tap_ms: int = Field(
        default=_POLICY.double_tap_ms,
        ge=100,
        le=2000,
        description="Maximum time from the end of the first tap to the start of the second, in ms.",
    )
    hold_ms: int = Field(
        default=_POLICY.hold_ms, ge=300, le=2000, description="Duration of a hold that rejects a request, in ms."
    )
    mute_hold_s: float = Field(
        default=4.0,
        ge=2.5,
        le=30,
        description="Seconds of a hold that unmutes; with mode = tap it also mutes.",
    )
    mute_pin: int | None = Field(
        default=None,
        ge=0,
        le=27,
        examples=[22],
        description="BCM number of the pin of a mute switch: muted while it reads pressed, wired as the button.",
    )
    second_pin: int | None = Field(
        default=None,
        ge=0,
        le=27,
        examples=[27],
        description="BCM number of the pin of a second button, which mutes and unmutes; wired as the button.",
    )
    power_off_command: str = Field(
        default="",
        examples=["systemctl poweroff"],
        description="Program and arguments that switch the device off, after a long hold of the second button, or of "
        "the button with mode = tap. Empty: no such hold.",
    )
    power_off_hold_s: float = Field(
        default=10.0, ge=5, le=60, description="Seconds of the hold that announces the power-off."
    )

    @property
    def wiring(self) -> dict[str, Any]:
        """The arguments of `hardware.button.open_buttons`."""
        return {key: getattr(self, key) for key in ("pin", "second_pin", "mute_pin", "pull", "active_low")}

    @field_validator("mute_pin", "second_pin", mode="before")
    @classmethod
    def _none_is_no_pin(cls, value: object) -> object:
        return None if value == "none" else value  # TOML has no null


class LightSettings(_Section):
    """The light that shows the state of the device."""

    kind: str = Field(
        default=WIRING["light.kind"],
        min_length=1,
        description="led: one LED. rgb: three colours on three pins. apa102 (also SK9822) and ws2812: strips on SPI 0. "
        "Several: led+apa102. none: no light.",
        json_schema_extra={"allowed": '"led", "rgb", "apa102", "ws2812", "none" or the name of an installed light'},
    )
    pin: int = Field(default=WIRING["light.pin"], ge=0, le=27, description="BCM number of the LED's pin (kind = led).")
    red_pin: int = Field(default=25, ge=0, le=27, description="BCM number of red (kind = rgb).")
    green_pin: int = Field(default=24, ge=0, le=27, description="BCM number of green (kind = rgb).")
    blue_pin: int = Field(default=WIRING["light.blue_pin"], ge=0, le=27, description="BCM number of blue (kind = rgb).")
    active_high: bool = Field(default=WIRING["light.active_high"], description="true if a high pin lights the LED.")
    count: int = Field(default=3, ge=1, le=144, description="Number of LEDs of a strip (kind = apa102, ws2812).")
    quiet_hours: str = Field(
        default="",
        pattern=rf"^(|always|{_HOURS})$",
        description="Local time in which the light is dimmed, except for problems and alarms. always: silent mode. "
        "Empty: never.",
        json_schema_extra={"allowed": 'hours such as "22:00-07:00", "always", or empty'},
    )
    quiet_level: int = Field(default=0, ge=0, le=100, description="Brightness in the quiet hours, in percent. 0: off.")
    i2s: bool = Field(
        default=True,
        description="true if the sound card is on the pin header (HAT), which then uses pins 18 to 21.",
    )

    @property
    def pins(self) -> dict[str, int]:
        """Key → BCM number of each pin that the light uses."""
        return {key: getattr(self, key) for kind, keys in _LIGHT_PINS.items() if kind in self.kinds for key in keys}

    @property
    def kinds(self) -> list[str]:
        """The kinds of light that are used at once."""
        return [one.strip() for one in self.kind.split("+")]

    @property
    def wiring(self) -> dict[str, Any]:
        """The arguments of `hardware.lights.Light`."""
        pins = {kind: [getattr(self, key) for key in keys] for kind, keys in _LIGHT_PINS.items() if kind in self.kinds}
        return {"kind": self.kind, "pins": pins, "active_high": self.active_high, "count": self.count}


class OutputSettings(_Section):
    """Lamps that the assistant can switch."""

    lamp_pin: int | None = Field(
        default=26, ge=0, le=27, description="BCM number of the pin of a lamp; harmless if nothing is connected."
    )
    dimmer_pin: int | None = Field(
        default=None, ge=0, le=27, examples=[12], description="BCM number of the pin of a dimmable lamp (PWM)."
    )
    active_high: bool = Field(
        default=True, description="true if a high pin switches the lamp on; most relay boards need false."
    )

    @field_validator("lamp_pin", "dimmer_pin", mode="before")
    @classmethod
    def _none_is_no_pin(cls, value: object) -> object:
        return None if value == "none" else value  # TOML has no null


_PIN_NAME: Final = r"^[a-z][a-z0-9_]{0,31}$"
_PIN_NAMES: Final[dict[str, Any]] = {"allowed": "1 to 32 of a-z, 0-9 and '_', a letter first"}
_SENTENCES: Final[dict[str, Any]] = {"allowed": "a list of sentences"}


class GpioOutput(_Section):
    """An output that is a tool: ``set_NAME(on)``, or with `pulse_s` ``pulse_NAME()``."""

    name: str = Field(
        pattern=_PIN_NAME, description="Name of the output, part of the tool's name.", json_schema_extra=_PIN_NAMES
    )
    pin: int = Field(ge=0, le=27, description="BCM number.")
    description: str = Field(min_length=1, max_length=500, description="What it does, for the model.")
    active_low: bool = Field(default=False, description="true if a low pin switches it on, as most relay boards need.")
    pulse_s: float = Field(
        default=0.0, ge=0, le=3600, description="Seconds until it switches itself off. 0: it is switched on and off."
    )
    hours: str = Field(
        default="",
        pattern=rf"^(|{_HOURS})$",
        description="Local time in which it can be switched on. Empty: always.",
        json_schema_extra={"allowed": 'hours such as "06:00-22:00", or empty'},
    )
    needs_approval: bool = Field(default=False, description="Ask for a press of the button before each call.")
    phrases: list[str] = Field(
        default=[], description="Sentences by which the offline brain calls it.", json_schema_extra=_SENTENCES
    )


class GpioInput(_Section):
    """An input that is a tool, ``read_NAME()``, with events that the model can learn of."""

    name: str = Field(
        pattern=_PIN_NAME, description="Name of the input, part of the tool's name.", json_schema_extra=_PIN_NAMES
    )
    pin: int = Field(ge=0, le=27, description="BCM number.")
    description: str = Field(min_length=1, max_length=500, description="What it means, for the model.")
    pull: Literal["up", "down", "none"] = Field(default="up", description="The resistor inside the chip.")
    active_low: bool = Field(default=True, description="true if the contact connects the pin to ground.")
    tells: Literal["", "press", "release", "both"] = Field(
        default="", description="Events to report to the model: it becomes active, or inactive. Empty: none."
    )
    asks: bool = Field(default=False, description="The model answers these events; else it only knows of them.")
    phrases: list[str] = Field(
        default=[], description="Sentences by which the offline brain calls it.", json_schema_extra=_SENTENCES
    )


class GpioSettings(_Section):
    """Outputs and inputs that are tools; see docs/gpio.md."""

    outputs: list[GpioOutput] = Field(
        default=[],
        description="Outputs by name. Keys: name, pin, description, active_low, pulse_s, hours, needs_approval, "
        "phrases. In the environment: as JSON.",
        examples=[
            '[[gpio.outputs]]\nname = "gate"\npin = 5\ndescription = "Opens the garden gate."\npulse_s = 1.0\n'
            'hours = "06:00-22:00"\nneeds_approval = true\nphrases = ["open the gate"]'
        ],
        json_schema_extra={"allowed": "tables under [[gpio.outputs]]"},
    )
    inputs: list[GpioInput] = Field(
        default=[],
        description="Inputs by name. Keys: name, pin, description, pull, active_low, tells, asks, phrases. "
        "In the environment: as JSON.",
        examples=[
            '[[gpio.inputs]]\nname = "doorbell"\npin = 6\ndescription = "The bell at the garden gate."\n'
            'tells = "press"\nasks = true'
        ],
        json_schema_extra={"allowed": "tables under [[gpio.inputs]]"},
    )


class PinSettings(_Section):
    """Access to the GPIO pins."""

    reserved: str = Field(
        default="",
        description="BCM numbers of pins that a HAT uses itself, separated by spaces or as a list; no other key may "
        "name them. Empty: none.",
        json_schema_extra={"allowed": "whole numbers from 0 to 27"},
    )

    @field_validator("reserved", mode="before")
    @classmethod
    def _list_is_numbers(cls, value: object) -> object:
        return (
            " ".join(map(str, value)) if isinstance(value, list) and all(type(one) is int for one in value) else value
        )

    factory: Literal["gpiod", "lgpio", "rpigpio", "mock"] = Field(
        default=WIRING["pins.factory"],
        description="gpiod: every model; lgpio: too, but it polls; rpigpio: kernels before 6.6; mock: no hardware.",
    )


class BrainSettings(_Section):
    """The offline brain."""

    stt: str = Field(
        default="pocketsphinx",
        min_length=1,
        description="Speech-to-text engine.",
        json_schema_extra={"allowed": '"pocketsphinx" or the name of an installed engine'},
    )
    workflow: str = Field(
        default="phrases",
        min_length=1,
        description="phrases: the sentences of the phrase book. chat: a chat endpoint.",
        json_schema_extra={"allowed": '"phrases", "chat" or the name of an installed workflow'},
    )
    tts: str = Field(
        default="auto",
        min_length=1,
        description="Text-to-speech engine. auto: flite for English, else espeak-ng.",
        json_schema_extra={"allowed": '"auto", "flite", "espeak-ng" or the name of an installed engine'},
    )
    voice: str = Field(default="", description="Voice of the text-to-speech engine. Empty: its default.")
    phrases_dir: str = Field(default="", description="Folder of the phrase book. Empty: the installed folder.")
    chat_url: str = Field(
        default="",
        description="OpenAI-compatible chat endpoint up to /v1, such as http://127.0.0.1:8080/v1 (workflow = chat).",
        json_schema_extra={"allowed": "an address with http:// or https://, or empty"},
    )
    chat_model: str = Field(default="", description="Model of the chat endpoint. Empty: the endpoint's default.")
    chat_key_env: str = Field(default="", description="Environment variable with the chat endpoint's key. Empty: none.")


class DeadlineSettings(_Section):
    """Timeouts in seconds. On a timeout, the device announces the problem and returns to ready."""

    connect_s: float = Field(default=_POLICY.connect_s, ge=1, le=300, description="Time until the session is ready.")
    commit_s: float = Field(
        default=_POLICY.commit_s, ge=0.5, le=60, description="Time until the server confirms the user's audio."
    )
    answer_s: float = Field(default=_POLICY.answer_s, ge=1, le=300, description="Time until the answer starts.")
    playout_stall_s: float = Field(
        default=_POLICY.playout_stall_s, ge=0.5, le=60, description="Time without playback progress during an answer."
    )
    tool_s: float = Field(default=_POLICY.tool_s, ge=0.5, le=600, description="Time for one tool call.")
    approval_s: float = Field(default=_POLICY.approval_s, ge=1, le=600, description="Time to approve a call.")
    link_wait_s: float = Field(
        default=_POLICY.link_wait_s,
        ge=1,
        le=86400,
        description="Time that speech is kept without a connection.",
    )
    cancel_s: float = Field(
        default=_POLICY.cancel_s, ge=0.5, le=30, description="Time until the server confirms a cancelled answer."
    )


class GuardrailSettings(_Section):
    """Checks of the model's answers, for agents with output guardrails."""

    debounce_characters: int = Field(
        default=_POLICY.guardrail_debounce,
        ge=-1,
        le=10000,
        description="New characters between two checks of an answer; -1: check only the complete text.",
    )
    timeout_s: float = Field(
        default=_POLICY.guardrail_s, ge=0.1, le=60, description="Seconds until an unfinished check counts as tripped."
    )
    hold_audio: bool = Field(
        default=_POLICY.hold_audio,
        description="Play audio only after its text was checked; answers start later.",
    )
    parallel: bool = Field(default=True, description="Run several checks at the same time; false: one after the other.")


class HistorySettings(_Section):
    """The conversation history."""

    persist: bool = Field(default=False, description="Keep the conversation across restarts, in service.state_dir.")
    max_items: int = Field(default=200, ge=1, le=100000, description="Number of newest items to keep.")
    max_age_days: float = Field(default=30.0, ge=0.01, le=3650, description="Days to keep an item.")
    replay_items: int = Field(
        default=_POLICY.replay_items,
        ge=0,
        le=10000,
        description="Number of newest items sent to a new connection; they cost tokens.",
    )


class BudgetSettings(_Section):
    """The daily budget: a warning at 80 percent; at 100 percent the offline brain, if it is a fallback."""

    daily_usd: float = Field(
        default=0.0, ge=0, le=100000, description="US dollars per day, for models with a known price. 0: no limit."
    )
    daily_minutes: float = Field(
        default=0.0, ge=0, le=1440, description="Minutes of speech per day, both directions. 0: no limit."
    )
    prices: list[dict[str, Any]] = Field(
        default=[],
        description="More prices in US dollars, one table per model: per million tokens of each modality, or, for "
        "transcription, per_minute, or input and output. In the environment: as JSON.",
        examples=[
            '[[budget.prices]]\nmodel = "my-realtime"\ntext = { input = 4.0, cached = 0.4, output = 16.0 }\n'
            "audio = { input = 32.0, cached = 0.4, output = 64.0 }\n"
            '[[budget.prices]]\nmodel = "my-transcriber"\nper_minute = 0.006'
        ],
        json_schema_extra={"allowed": "tables under [[budget.prices]]"},
    )


class ServiceSettings(_Section):
    """The daemon."""

    state_dir: str = Field(
        default="", description="Folder for files that survive a restart. Empty: systemd's folder, else the user's."
    )
    trace: str = Field(
        default="", description="File that records every event for replay, including the audio. Empty: none."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Minimum severity of logged messages."
    )
    watchdog: bool = Field(
        default=True, description="Feed systemd's watchdog while the device is healthy; false only for debugging."
    )


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """The endpoint, derived from provider, base_url and the presence of a key."""

    kind: Literal["offline", "openai", "compatible"]
    url: str
    """A ws:// or wss:// address up to ``/v1``, without a trailing slash; empty for the offline brain."""
    needs_key: bool
    """True if the server always refuses a connection without a key."""


class Settings(BaseModel):
    """All sections, validated together; immutable. ``Settings()`` has the defaults; see `load_settings`."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    link: LinkSettings = LinkSettings()
    assistant: AssistantSettings = AssistantSettings()
    audio: AudioSettings = AudioSettings()
    button: ButtonSettings = ButtonSettings()
    light: LightSettings = LightSettings()
    outputs: OutputSettings = OutputSettings()
    gpio: GpioSettings = GpioSettings()
    pins: PinSettings = PinSettings()
    brain: BrainSettings = BrainSettings()
    deadlines: DeadlineSettings = DeadlineSettings()
    guardrails: GuardrailSettings = GuardrailSettings()
    history: HistorySettings = HistorySettings()
    budget: BudgetSettings = BudgetSettings()
    service: ServiceSettings = ServiceSettings()

    _origins: dict[str, str] = PrivateAttr(default_factory=dict)
    _key_origin: str = PrivateAttr(default="")
    _folder: Path | None = PrivateAttr(default=None)

    @property
    def folder(self) -> Path | None:
        """The absolute folder of the settings file, searched for Python modules; None without a file."""
        return self._folder

    @property
    def key_origin(self) -> str:
        """Where `load_settings` found the key, such as ``credential openai_api_key``; "" if nowhere. Never the key."""
        return self._key_origin

    def origin(self, key: str) -> str:
        """Return the source of a dotted key's value: ``default``, ``FILE:LINE``, a variable's name or ``override``."""
        return self._origins.get(key, "default")

    def price_rows(self) -> dict[str, dict[str, Any]]:
        """The user's own prices by model, as `PriceTable.with_prices` takes them.

        Raises:
            SettingsError: A row names no model, or one that another row has.
        """
        rows: dict[str, dict[str, Any]] = {}
        for row in self.budget.prices:
            model = row.get("model")
            if not isinstance(model, str) or not model or model in rows:
                raise SettingsError(f"found {shown(model)} as a model; allowed: a unique model name in each table")
            rows[model] = {key: value for key, value in row.items() if key != "model"}
        return rows

    def price_remark(self) -> str:
        """One line on models whose cost a budget in dollars cannot count; "" if there are none."""
        prices, model, transcriber = _POLICY.prices, self.link.model, self.assistant.transcription_model
        prices = prices.with_prices(self.price_rows())
        unknown = [model] if prices.response_usd(model, None) is None else []
        unknown += [transcriber] if transcriber and prices.transcription_usd(transcriber, None) is None else []
        if not (unknown and self.budget.daily_usd) or self.endpoint().kind == "offline":
            return ""
        remedy = "give it under [[budget.prices]]" + ", or set budget.daily_minutes" * (not self.budget.daily_minutes)
        return f"budget.daily_usd: no price is known for {' and '.join(unknown)}, which counts as nothing; {remedy}"

    @contextmanager
    def about(self, key: str) -> Iterator[None]:
        """Prefix the errors of a block with the place and the key of the value that it uses.

        Raises:
            SettingsError: The block raised a `SettingsError` or a `ToolError`.
        """
        try:
            yield
        except (SettingsError, ToolError) as error:
            raise SettingsError(f"{self.origin(key)}: {key}: {error}") from error

    def endpoint(self) -> EndpointSettings:
        """Return the endpoint; a key counts only if it was present when the settings were loaded."""
        link = self.link
        kind = link.provider
        if kind == "auto":
            kind = "compatible" if link.base_url else "openai" if self._key_origin else "offline"
        if kind == "offline":
            return EndpointSettings("offline", "", needs_key=False)
        if kind == "openai":
            return EndpointSettings("openai", _websocket_url(link.base_url or OPENAI_URL), needs_key=True)
        return EndpointSettings("compatible", _websocket_url(link.base_url), needs_key=False)

    def masked(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return section → key → ``{"value": …, "origin": …}``, with secrets redacted."""
        dump: dict[str, dict[str, dict[str, object]]] = {
            section: {
                key: {"value": redact_json(value), "origin": self.origin(f"{section}.{key}")}
                for key, value in values.items()
            }
            for section, values in self.model_dump().items()
        }
        found = f"set ({self._key_origin})" if self._key_origin else "not set"
        dump["link"]["api_key"] = {"value": found, "origin": self._key_origin or "default"}
        return dump

    def remarks(self) -> list[str]:
        """Return warnings about valid settings, one line each; for ``config check``."""
        endpoint = self.endpoint()
        lines = []
        if endpoint.needs_key and not self._key_origin:
            lines.append(f"link.provider is {self.link.provider}, and no key was found; put it in {_WHERE_KEYS_LIVE}")
        if (
            endpoint.url.startswith("ws://")
            and self._key_origin
            and not is_loopback(urlsplit(endpoint.url).hostname or "")
        ):
            lines.append("link.base_url is not encrypted: the key and all speech cross the network in plain text")
        if endpoint.kind == "offline" and self._key_origin:
            lines.append(f'a key was found ({self._key_origin}), but link.provider = "offline" ignores it')
        if remark := self.price_remark():
            lines.append(remark)
        if self.service.trace:
            lines.append("service.trace is set: the file records all speech near the device")
        return lines


def load_settings(
    path: Path | None,
    environ: Mapping[str, str],
    credentials_dir: Path | None = None,
    *,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """Read and check the configuration.

    Args:
        path: The TOML file, or None. Relative paths in it are relative to its folder.
        environ: The environment; only names that start with ``APPLIANCE_`` and the key's variable are used.
        credentials_dir: systemd's ``$CREDENTIALS_DIRECTORY``, or None.
        overrides: Dotted keys (``{"audio.volume": 50}``) or nested tables; strings are parsed as in the environment.

    Raises:
        SettingsError: One line per problem; all problems of a kind are reported together.
    """
    problems: list[str] = []
    found = {
        **(_from_file(path, problems) if path is not None else {}),
        **_from_environment(environ, problems),
        **_from_overrides(overrides or {}, problems),
    }
    settings = _validated(found, problems)
    if settings is not None and not problems:
        unset = _Found(None, str(path) if path is not None else "default")
        problems = [_line(found.get(key, unset), key, text) for key, text in _clashes(settings)]
    if problems or settings is None:
        raise SettingsError("\n".join(problems))
    settings._origins.update({key: item.origin for key, item in found.items()})
    settings._folder = path.absolute().parent if path is not None else None
    _, settings._key_origin = _find_key(settings, environ, credentials_dir)
    _KEYS.add(environ.get(settings.link.key_env, ""), environ.get(settings.brain.chat_key_env, ""))
    return settings


def read_api_key(settings: Settings, environ: Mapping[str, str], credentials_dir: Path | None = None) -> str | None:
    """Return the endpoint's API key: from the credential, the file or the environment. Call it for each connection.

    Returns:
        The key without surrounding white space, or None. Do not keep it.

    Raises:
        SettingsError: ``link.key_file`` cannot be read, or the key is not a single word of printable ASCII, or it is
            written as ``NAME=key``.
    """
    key, origin = _find_key(settings, environ, credentials_dir)
    if assignment := _ASSIGNMENT.fullmatch(key):
        _KEYS.add(assignment["key"].strip("\"'"))
        raise SettingsError(f"{origin}: found a name and an equals sign before the key; allowed: only the key")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise SettingsError(f"{origin}: found several words or characters invalid in a header; allowed: only the key")
    return key or None


def key_place(settings: Settings, credentials_dir: Path | None = None) -> tuple[str, str]:
    """Return where a person puts the key, by the order of `read_api_key`: a file, "" for none, and a variable."""
    link = settings.link
    if credentials_dir is not None and link.credential:
        return str(SYSTEM_FILE.parent / link.credential), link.key_env  # the unit's LoadCredential=
    return link.key_file, link.key_env


def read_instructions(settings: Settings) -> str:
    """Return the assistant's instructions: those of the file if it is set, else the setting.

    Raises:
        SettingsError: The file cannot be read.
    """
    named = settings.assistant.instructions_file
    if not named:
        return settings.assistant.instructions
    try:
        return Path(named).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(_line(None, "assistant.instructions_file", f"cannot read {named}: {error}")) from error


def state_directory(settings: Settings, environ: Mapping[str, str]) -> Path:
    """Return the state folder (not created): the setting, else systemd's, else the user's XDG folder."""
    if settings.service.state_dir:
        return Path(settings.service.state_dir)
    if by_systemd := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        return Path(by_systemd)
    base = environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base else Path.home() / ".local" / "state") / "voice-appliance"


# Gathering: every source becomes dotted keys with their origins.


@dataclass(frozen=True, slots=True)
class _Found:
    value: object
    origin: str


_SECTIONS: Final[dict[str, dict[str, FieldInfo]]] = {name: type(section).model_fields for name, section in Settings()}
"""Section → key → field, in the order of the file."""


def _from_file(path: Path, problems: list[str]) -> dict[str, _Found]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors may add a byte order mark
        tables = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise SettingsError(
            f"{path}: is not TOML: nested too deeply; no setting is nested more than four deep"
        ) from error
    except ValueError as error:  # also a number of 5,000 digits
        raise SettingsError(f"{path}: is not TOML: {one_line(str(error))}") from error
    lines = _line_numbers(text)
    found: dict[str, _Found] = {}
    for section, table in tables.items():
        where = f"{path}:{lines[section]}" if section in lines else str(path)
        if section not in _SECTIONS:
            hint = _owner_of(section) or did_you_mean(section, _SECTIONS)
            problems.append(f"{where}: {section}: unknown section; allowed: {', '.join(_SECTIONS)}{hint}")
        elif not isinstance(table, Mapping):
            problems.append(
                f"{where}: {section}: found {shown(table)}; allowed: a table [{section}] with keys below it"
            )
        else:
            for key, value in table.items():
                dotted = f"{section}.{key}"
                origin = f"{path}:{lines[dotted]}" if dotted in lines else str(path)
                found[dotted] = _Found(_anchored(dotted, value, path.parent), origin)
    return _known(found, problems)


def _owner_of(key: str) -> str:
    """Return "; did you mean 'section.key'?" if another section has that key, else ""."""
    owner = next((name for name, fields in _SECTIONS.items() if key in fields), None)
    return f"; did you mean '{owner}.{key}'?" if owner else ""


def _line_numbers(text: str) -> dict[str, int]:
    """Return the line of each section and dotted key, which tomllib does not report; multi-line strings may mislead."""
    lines: dict[str, int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(r"\s*\[\[?\s*([\w.-]+)\s*\]", line):
            section = match[1]
            lines.setdefault(section, number)
        elif match := re.match(r"\s*([\w.-]+)\s*=", line):
            lines.setdefault(f"{section}.{match[1]}" if section else match[1], number)
    return lines


def _anchored(dotted: str, value: object, folder: Path) -> object:
    if dotted in _PATH_KEYS and isinstance(value, str) and value:
        with suppress(RuntimeError):  # "~name" of an unknown user stays as it is
            value = str(Path(value).expanduser())
        return str((folder / value).absolute())
    return value


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    single = {f"{ENV_PREFIX}{s}_{k}".upper(): f"{s}.{k}" for s, fields in _SECTIONS.items() for k in fields}
    for name in sorted(environ):
        if not name.startswith(ENV_PREFIX):
            continue
        section, separator, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
        if separator:
            found[f"{section}.{key}"] = _Found(environ[name], name)
        elif name in single:
            right = ENV_PREFIX + single[name].upper().replace(".", "__")
            problems.append(f"{name}: {single[name]}: one underscore between section and key; did you mean {right!r}?")
    return _parsed(_known(found, problems))


def _from_overrides(overrides: Mapping[str, object], problems: list[str]) -> dict[str, _Found]:
    found: dict[str, _Found] = {}
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            found.update({f"{name}.{key}": _Found(item, "override") for key, item in value.items()})
        else:
            found[name] = _Found(value, "override")
    return _parsed(_known(found, problems))


def _known(found: dict[str, _Found], problems: list[str]) -> dict[str, _Found]:
    """Return the known keys; report the others without their values, which may be misplaced secrets."""
    kept: dict[str, _Found] = {}
    for dotted, item in found.items():
        section, _, key = dotted.partition(".")
        if section not in _SECTIONS:
            text = f"unknown section {section!r}; allowed: {', '.join(_SECTIONS)}{did_you_mean(section, _SECTIONS)}"
        elif key in _SECTIONS[section]:
            kept[dotted] = item
            continue
        elif key in {"api_key", "apikey", "key", "token"}:
            text = f"a key does not belong in the configuration; put it in {_WHERE_KEYS_LIVE}"
        else:
            hint = did_you_mean(key, _SECTIONS[section]) or _owner_of(key)
            text = f"unknown key; allowed: {', '.join(_SECTIONS[section])}{hint}"
        problems.append(f"{item.origin}: {one_line(dotted)}: {text}")
    return kept


def _parsed(found: dict[str, _Found]) -> dict[str, _Found]:
    return {dotted: _Found(_from_text(item.value, dotted), item.origin) for dotted, item in found.items()}


def _from_text(value: object, dotted: str) -> object:
    """Parse a string as the type of its key; return it unchanged if it does not fit, so that validation reports it."""
    section, _, key = dotted.partition(".")
    annotation: Any = _SECTIONS[section][key].annotation
    if not isinstance(value, str):
        return value
    if type(None) in get_args(annotation) and value.strip().lower() in {"", "none"}:
        return None
    try:
        if get_origin(annotation) is list:
            return TypeAdapter(annotation).validate_json(value)
        return TypeAdapter(annotation).validate_strings(value if annotation is str else value.strip())
    except ValidationError:
        return value


# Validation: one line per pydantic error.


def _validated(found: Mapping[str, _Found], problems: list[str]) -> Settings | None:
    problems += [
        _line(item, key, f"found what looks like a secret; a key belongs in {_WHERE_KEYS_LIVE}")
        for key, item in found.items()
        if isinstance(item.value, str) and KEY_SHAPE.search(item.value)
    ]
    tables: dict[str, dict[str, object]] = {}
    for dotted, item in found.items():
        section, _, key = dotted.partition(".")
        tables.setdefault(section, {})[key] = item.value
    try:
        return Settings.model_validate(tables)
    except ValidationError as error:
        wrong = dict.fromkeys(map(_place, error.errors()))
        problems += [_explained(section, key, found[f"{section}.{key}"], inner) for section, key, inner in wrong]
        return None


def _place(error: Mapping[str, Any]) -> tuple[str, str, tuple[int, str] | None]:
    """Return the section and the key of an error, and for a value of a row of tables its number and column."""
    section, key, *inner = error["loc"]
    is_in_row = len(inner) > 1 and isinstance(inner[0], int)
    return str(section), str(key), (inner[0], str(inner[1])) if is_in_row else None


def _explained(section: str, key: str, item: _Found, inner: tuple[int, str] | None) -> str:
    field = _SECTIONS[section][key]
    if inner is not None:
        return _line(item, f"{section}.{key}", _explained_row(field, item.value, *inner))
    is_word = get_origin(field.annotation) is Literal and isinstance(item.value, str)
    hint = did_you_mean(str(item.value), get_args(field.annotation)) if is_word else ""
    return _line(item, f"{section}.{key}", f"found {shown(item.value)}; allowed: {allowed_text(field)}{hint}")


def _explained_row(field: FieldInfo, rows: Any, row: int, column: str) -> str:
    """Return what is wrong with a column of a row of tables; not the value of an unknown one, which may be a secret."""
    columns = get_args(field.annotation)[0].model_fields
    where = f"table {row + 1}: {one_line(column)}"
    if column not in columns:
        return f"{where}: unknown key; allowed: {', '.join(columns)}{did_you_mean(column, columns)}"
    found = f"found {shown(rows[row][column])}" if column in rows[row] else "missing"
    return f"{where}: {found}; allowed: {allowed_text(columns[column])}"


def allowed_text(field: FieldInfo) -> str:
    """Return what a field accepts: ``a whole number from 0 to 100``; for messages and the reference."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "allowed" in extra:
        return str(extra["allowed"])
    annotation = field.annotation
    if get_origin(annotation) is Literal:
        words = [f'"{word}"' for word in get_args(annotation)]
        return " or ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
    kinds = get_args(annotation) or (annotation,)
    bounds = {type(item).__name__: item for item in field.metadata}
    if bool in kinds:
        return "true or false"
    if str in kinds:
        least = 1 if "MinLen" in bounds else 0
        if "MaxLen" in bounds:
            return f"a string of {least} to {bounds['MaxLen'].max_length} characters"
        return "a non-empty string" if least else "a string"
    number = "a whole number" if int in kinds else "a number"
    or_none = ', or "none"' if type(None) in kinds else ""
    return f"{number} from {bounds['Ge'].ge:g} to {bounds['Le'].le:g}{or_none}"


def _line(item: _Found | None, key: str, text: str) -> str:
    return f"{item.origin if item is not None else 'default'}: {key}: {text}"


# Checks across keys. Each yields the dotted key to change and the message.


def _clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    for clashes in (
        *(_path_clashes, _link_clashes, _assistant_clashes, _audio_clashes),
        *(_button_clashes, _pin_clashes, _gpio_clashes, _brain_clashes),
    ):
        yield from clashes(settings)
    try:
        _POLICY.prices.with_prices(settings.price_rows())
    except SettingsError as error:
        yield "budget.prices", str(error)


def _path_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    for dotted in sorted(_PATH_KEYS):
        section, _, key = dotted.partition(".")
        if "\0" in getattr(getattr(settings, section), key):
            yield dotted, "found a path with a NUL character; allowed: a path without it"


def _is(kind: Callable[[Path], bool], named: str) -> bool:
    try:
        return kind(Path(named))
    except OSError:  # such as a name that is too long
        return False


def _link_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    link = settings.link
    if link.base_url:
        yield from _bad_url("link.base_url", link.base_url, ("ws", "wss", "http", "https"))
    elif link.provider == "compatible":
        yield "link.base_url", 'found ""; allowed: an address, because link.provider = "compatible"'
    for one in link.fallbacks.split():
        if one != "offline":
            yield from _bad_url("link.fallbacks", one, ("ws", "wss", "http", "https"))
    if link.backoff_initial_s > link.backoff_max_s:
        yield (
            "link.backoff_initial_s",
            f"found {link.backoff_initial_s:g}; allowed: at most link.backoff_max_s ({link.backoff_max_s:g})",
        )
    if not re.fullmatch(r"[A-Za-z0-9_.-]*", link.credential):
        yield "link.credential", f"found {shown(link.credential)}; allowed: letters, digits, '_', '.' and '-'"
    for key, name in (("link.key_env", link.key_env), ("brain.chat_key_env", settings.brain.chat_key_env)):
        if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)?", name):
            yield key, "found an invalid variable name; allowed: the name of an environment variable, not its value"


def _assistant_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    assistant = settings.assistant
    tokens = assistant.max_output_tokens
    if isinstance(tokens, int) and not 1 <= tokens <= 4096:
        yield "assistant.max_output_tokens", f'found {tokens}; allowed: "inf" or a whole number from 1 to 4096'
    for key, kind in (("instructions_file", "text"), ("agents_file", "TOML")):
        named = getattr(assistant, key)
        if named and not _is(Path.is_file, named):
            yield f"assistant.{key}", f"found {shown(named)}, which is not a file; allowed: a {kind} file, or empty"
    own_words = "instructions_file" if assistant.instructions_file else "instructions"
    is_told = assistant.instructions_file or assistant.instructions != _INSTRUCTIONS
    given = [*([own_words] if is_told else []), *(key for key in ("agents_file", "agent") if getattr(assistant, key))]
    if len(given) > 1:
        others = " and ".join(f"assistant.{key}" for key in given[:-1])
        allowed = "one of assistant.instructions (or instructions_file), assistant.agents_file and assistant.agent"
        yield f"assistant.{given[-1]}", f"found together with {others}; allowed: {allowed}"


def _audio_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    audio = settings.audio
    if audio.rate * audio.period_ms % 1000:
        frames = audio.rate * audio.period_ms / 1000
        yield (
            "audio.period_ms",
            f"found {audio.period_ms}, which is {frames:g} frames; allowed: whole frames at the rate",
        )
    if audio.playback_ring_ms < 2 * audio.period_ms:
        yield (
            "audio.playback_ring_ms",
            f"found {audio.playback_ring_ms}; allowed: at least two periods ({2 * audio.period_ms})",
        )
    if audio.prebuffer_ms > audio.playback_ring_ms:
        yield (
            "audio.prebuffer_ms",
            f"found {audio.prebuffer_ms}; allowed: at most audio.playback_ring_ms ({audio.playback_ring_ms})",
        )
    for key, card in (("audio.capture_card", audio.capture_card), ("audio.playback_card", audio.playback_card)):
        if card.isdigit():
            yield key, f'found "{card}", an index, which changes between boots; allowed: a card\'s id, USB path or name'


def _button_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    button = settings.button
    if (button.pull, button.active_low) in {("up", False), ("down", True)}:  # the idle level reads as pressed
        wanted = '"down" or "none"' if button.pull == "up" else '"up" or "none"'
        active = "true" if button.active_low else "false"
        yield "button.pull", f'found "{button.pull}"; allowed: {wanted}, because button.active_low = {active}'
    if button.power_off_hold_s <= button.mute_hold_s:
        yield (
            "button.power_off_hold_s",
            f"found {button.power_off_hold_s:g}; allowed: more than button.mute_hold_s ({button.mute_hold_s:g})",
        )
    try:
        shlex.split(button.power_off_command)
    except ValueError as error:
        yield "button.power_off_command", f"found {shown(button.power_off_command)}: {error}; allowed: a command line"


def _pin_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    owner: dict[int, str] = {}
    reserved = settings.pins.reserved.split()
    if wrong := [one for one in reserved if not re.fullmatch(r"1?\d|2[0-7]", one, re.ASCII)]:
        yield "pins.reserved", f"found {shown(wrong[0])}; allowed: whole numbers from 0 to 27"
    for key, pin in used_pins(settings):
        if pin in owner:
            or_none = ' or "none"' if key not in _NEEDED_PINS and not key.startswith("gpio.") else ""
            yield key, f"found {pin}, which {owner[pin]} already uses; allowed: an unused pin{or_none}"
        elif pin in _HAT_ID_PINS:
            yield key, f"found {pin}, which belongs to the HAT's EEPROM; allowed: 2 to 27"
        elif str(pin) in reserved and key != "light.kind":
            yield key, f"found {pin}, which the HAT uses itself (pins.reserved); allowed: an unused pin"
        elif settings.light.i2s and pin in _I2S_PINS:
            yield key, f"found {pin}, which carries the sound of a HAT; allowed: not 18 to 21 while light.i2s = true"
        owner.setdefault(pin, key)


def used_pins(settings: Settings) -> Iterator[tuple[str, int]]:
    """Yield the key and the BCM number of each pin that the settings name."""
    yield "button.pin", settings.button.pin
    for key in ("mute_pin", "second_pin"):
        if (pin := getattr(settings.button, key)) is not None:
            yield f"button.{key}", pin
    for key, pin in settings.light.pins.items():
        yield f"light.{key}", pin
    if {"apa102", "ws2812"} & set(settings.light.kinds):
        yield from (("light.kind", pin) for pin in _SPI_PINS)
    for key in ("lamp_pin", "dimmer_pin"):
        if (pin := getattr(settings.outputs, key)) is not None:
            yield f"outputs.{key}", pin
    yield from (("gpio.outputs", one.pin) for one in settings.gpio.outputs)
    yield from (("gpio.inputs", one.pin) for one in settings.gpio.inputs)


def _gpio_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    owner = dict.fromkeys(_LAMPS, "the device")
    named = [("gpio.outputs", one.name) for one in settings.gpio.outputs]
    for key, name in [*named, *(("gpio.inputs", one.name) for one in settings.gpio.inputs)]:
        if name in owner:
            yield key, f'found the name "{name}", which {owner[name]} already has; allowed: an unused name'
        owner.setdefault(name, key)


def _brain_clashes(settings: Settings) -> Iterator[tuple[str, str]]:
    brain = settings.brain
    if brain.chat_url:
        yield from _bad_url("brain.chat_url", brain.chat_url, ("http", "https"))
    elif brain.workflow == "chat":
        yield "brain.chat_url", 'found ""; allowed: an address, because brain.workflow = "chat"'
    for key, named in (
        ("brain.phrases_dir", brain.phrases_dir),
        ("assistant.wording_dir", settings.assistant.wording_dir),
    ):
        if named and not _is(Path.is_dir, named):
            yield key, f"found {shown(named)}, not a folder; allowed: a folder, or empty"


def _bad_url(key: str, url: str, schemes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    allowed = f"{', '.join(f'{scheme}://' for scheme in schemes)} and a host"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        yield key, f"found an invalid address; allowed: {allowed}"
        return
    if parts.username is not None or any(_SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query)):
        yield key, f"found a password or a key in the address; put it in {_WHERE_KEYS_LIVE}"
    elif parts.scheme not in schemes or not host:
        yield key, f"found {shown(url)}; allowed: {allowed}"


def _websocket_url(url: str) -> str:
    secure = url.startswith(("https://", "wss://"))
    return f"{'wss' if secure else 'ws'}://{url.partition('://')[2].rstrip('/')}"


# The key.

_KEYS: Final = Secrets()  # redacted wherever they might be printed
_ASSIGNMENT: Final = re.compile(r"(?:export\s+)?[A-Za-z_]\w*\s*=\s*(?P<key>[^\s=].*)", re.DOTALL)


def _find_key(settings: Settings, environ: Mapping[str, str], credentials_dir: Path | None) -> tuple[str, str]:
    """Return the key, "" if there is none, and where it was found; from here on it is redacted."""
    key, origin = _look_up_key(settings, environ, credentials_dir)
    _KEYS.add(key)
    return key, origin


def _look_up_key(settings: Settings, environ: Mapping[str, str], credentials_dir: Path | None) -> tuple[str, str]:
    link = settings.link
    if credentials_dir is not None and link.credential:
        try:
            text = (credentials_dir / link.credential).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            text = ""  # every unit declares the credential; most devices have none
        if text:
            return text, f"credential {link.credential}"
    if link.key_file and (text := _read_key_file(Path(link.key_file))):
        return text, f"file {link.key_file}"
    if link.key_env and (text := environ.get(link.key_env, "").strip()):
        return text, f"environment {link.key_env}"
    return "", ""


def _read_key_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError as error:
        raise SettingsError(_line(None, "link.key_file", f"cannot read {path}: {error.strerror or error}")) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        logger.warning("%s contains a key that others can read (mode %03o): run chmod 600", path, stat.S_IMODE(mode))
    return text
