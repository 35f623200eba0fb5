"""The outputs and inputs of ``[gpio]``: settings, limits, events, and the path to the model, on mock pins."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from gpiozero.pins.mock import MockFactory, MockPWMPin

from appliance.agents.tools import Tool
from appliance.cli import main
from appliance.conversation.events import Event, MessageGiven, Started
from appliance.errors import SettingsError, ToolError
from appliance.hardware.inputs import open_contacts
from appliance.hardware.outputs import open_switches
from appliance.hours import covers
from appliance.service.app import Appliance, check_assistant
from appliance.settings import load_settings
from appliance.speech.phrases import PhraseBook
from appliance.toolbox import DeviceParts, device_tools
from appliance.toolbox.gpio import InputReports, NamedInput, NamedOutput, input_tool, output_tool
from appliance.wording import english
from tests.support.rig import COMMITTED, Rig, answer, calling, offered, outputs, running
from tests.support.scripted_server import SESSION_CREATED, ScriptedServer, Step, expect, hold, reply, send
from tests.support.stage import Stage
from tests.support.virtual_time import in_virtual_time

BOOK = Path(__file__).parents[2] / "config" / "phrases"
GATE: dict[str, Any] = {"name": "gate", "pin": 5, "description": "Opens the garden gate."}
BELL: dict[str, Any] = {"name": "doorbell", "pin": 13, "description": "The bell at the gate."}


@pytest.fixture
def factory() -> Iterator[MockFactory]:
    made = MockFactory(pin_class=MockPWMPin)
    yield made
    made.close()


def levels(factory: MockFactory, pin: int) -> list[bool]:
    """Return every level that an output had, in order."""
    return [bool(one.state) for one in factory.pin(pin).states]


# --- settings -----------------------------------------------------------------------------------------------------


def problems(**overrides: Any) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {}, overrides={f"gpio.{key}": value for key, value in overrides.items()})
    return str(caught.value).splitlines()


def test_tables_of_the_file_and_json_of_the_environment_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text('[[gpio.outputs]]\nname = "gate"\npin = 5\ndescription = "Opens the garden gate."\n')
    of_file = load_settings(path, {})
    of_environment = load_settings(None, {"APPLIANCE_GPIO__OUTPUTS": json.dumps([GATE])})
    assert of_file.gpio == of_environment.gpio
    assert of_file.gpio.outputs[0].name == "gate"
    assert of_file.origin("gpio.outputs") == f"{path}:1"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (GATE | {"pin": 99}, "table 2: pin: found 99; allowed: a whole number from 0 to 27"),
        ({"name": "gate", "pin": 6}, "table 2: description: missing; allowed: a string of 1 to 500 characters"),
        (GATE | {"hours": "6-22"}, 'table 2: hours: found "6-22"; allowed: hours such as "06:00-22:00", or empty'),
        (GATE | {"name": "Gate 2"}, "table 2: name: found \"Gate 2\"; allowed: 1 to 32 of a-z, 0-9 and '_', a letter"),
        (GATE | {"phrases": [1]}, "table 2: phrases: found a list; allowed: a list of sentences"),
        (GATE | {"plus_s": 1}, "table 2: plus_s: unknown key; allowed: name, pin, description, active_low"),
    ],
)
def test_a_wrong_value_in_a_table_is_one_line_with_its_column(row: dict[str, Any], said: str) -> None:
    [line] = problems(outputs=[GATE | {"name": "fan", "pin": 6}, row])
    assert line.startswith(f"override: gpio.outputs: {said}")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"outputs": [GATE, GATE | {"name": "door"}]}, "gpio.outputs: found 5, which gpio.outputs already uses"),
        ({"outputs": [GATE], "inputs": [BELL | {"pin": 5}]}, "gpio.inputs: found 5, which gpio.outputs already uses"),
        ({"inputs": [BELL | {"pin": 17}]}, "gpio.inputs: found 17, which button.pin already uses; allowed: an unused"),
        ({"inputs": [BELL | {"pin": 19}]}, "gpio.inputs: found 19, which carries the sound of a HAT"),
        ({"outputs": [GATE | {"pin": 1}]}, "gpio.outputs: found 1, which belongs to the HAT's EEPROM"),
        ({"outputs": [GATE, GATE | {"pin": 6}]}, 'gpio.outputs: found the name "gate", which gpio.outputs already has'),
        (
            {"outputs": [GATE], "inputs": [BELL | {"name": "gate"}]},
            'gpio.inputs: found the name "gate", which gpio.out',
        ),
        ({"outputs": [GATE | {"name": "lamp"}]}, 'gpio.outputs: found the name "lamp", which the device already has'),
    ],
)
def test_a_pin_or_a_name_that_is_taken_is_refused(rows: dict[str, Any], said: str) -> None:
    [line] = problems(**rows)
    assert line.startswith(f"override: {said}")
    assert '"none"' not in line


def test_a_reserved_pin_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"gpio.outputs: found 5, which the HAT uses itself"):
        load_settings(None, {}, overrides={"gpio.outputs": [GATE], "pins.reserved": "5"})


@pytest.mark.parametrize(("key", "row"), [("outputs", GATE | {"pulse_s": 1.0}), ("inputs", BELL)])
async def test_config_check_refuses_a_phrase_that_cannot_be_said(key: str, row: dict[str, Any]) -> None:
    settings = load_settings(None, {}, overrides={f"gpio.{key}": [row | {"phrases": ["open it!"]}]})
    with pytest.raises(SettingsError, match=rf"^override: gpio.{key}: .*'open it!' has '!'"):
        await check_assistant(settings, {})


# --- outputs ------------------------------------------------------------------------------------------------------


class Gate:
    """One output on a mock pin, at a settable time of the day."""

    def __init__(self, factory: MockFactory, *, active_low: bool = False, **more: Any) -> None:
        self.stack = AsyncExitStack()
        self.hour = 12
        loop = asyncio.get_running_loop()
        self._opened = open_switches({"gate": (5, active_low)}, factory=factory, loop=loop)
        switch = self.stack.enter_context(self._opened)["gate"]
        self.tool = output_tool(
            NamedOutput(name="gate", description="Opens the gate.", switch=switch, **more), english(), now=self.now
        )

    def now(self) -> datetime:
        return datetime(2026, 11, 20, self.hour, 30)


def test_pulse_ends_by_itself_and_a_second_call_does_not_prolong_it(factory: MockFactory) -> None:
    async def scene() -> None:
        async with (gate := Gate(factory, pulse_s=2.0)).stack:
            call = asyncio.create_task(gate.tool())
            assert await call == {"on_s": 2.0}
            await asyncio.sleep(1.5)
            assert await gate.tool() == {"on_s": 0.5}
            assert factory.pin(5).state
            await asyncio.sleep(0.6)
            assert not factory.pin(5).state
            assert await gate.tool() == {"on_s": 2.0}
            await asyncio.sleep(2.1)

    in_virtual_time(scene())
    assert levels(factory, 5) == [False, True, False, True, False]


@pytest.mark.parametrize("active_low", [False, True])
def test_a_stop_in_a_pulse_switches_the_output_off(
    factory: MockFactory, active_low: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with (gate := Gate(factory, pulse_s=2.0, active_low=active_low)).stack:
            await gate.tool()
        await asyncio.sleep(3)  # the timer of the pulse is gone

    in_virtual_time(scene())
    rest = [False, active_low] if active_low else [False]
    expected = [*rest, not active_low, active_low]
    assert levels(factory, 5)[: len(expected)] == expected  # a mock pin that is closed is low
    assert caplog.records == []


@pytest.mark.parametrize("active_low", [False, True])
async def test_output_without_a_pulse_is_switched(factory: MockFactory, active_low: bool) -> None:
    async with (gate := Gate(factory, active_low=active_low)).stack:
        assert gate.tool.name == "set_gate"
        assert await gate.tool(on=True) == {"on": True}
        assert bool(factory.pin(5).state) is not active_low
        assert await gate.tool(on=False) == {"on": False}
        assert bool(factory.pin(5).state) is active_low


async def test_outside_its_hours_an_output_can_only_be_switched_off(factory: MockFactory) -> None:
    async with (gate := Gate(factory, hours="06:00-22:00")).stack:
        await gate.tool(on=True)
        gate.hour = 23
        assert await gate.tool(on=False) == {"on": False}
        with pytest.raises(ToolError) as caught:
            await gate.tool(on=True)
        assert str(caught.value) == "gate can be switched on only from 06:00 to 22:00; it is 23:30 now."
        assert not factory.pin(5).state


async def test_outside_its_hours_there_is_no_pulse(factory: MockFactory) -> None:
    async with (gate := Gate(factory, hours="22:00-06:00", pulse_s=1.0)).stack:
        with pytest.raises(ToolError, match="from 22:00 to 06:00; it is 12:30 now"):
            await gate.tool()
    assert True not in levels(factory, 5)


def test_hours_may_span_midnight_and_end_before_their_last_minute() -> None:
    times = [datetime(2026, 11, 20, hour, minute).time() for hour, minute in ((5, 59), (6, 0), (21, 59), (22, 0))]
    assert [covers("06:00-22:00", at) for at in times] == [False, True, True, False]
    assert [covers("22:00-06:00", at) for at in times] == [True, False, False, True]


async def test_a_pin_that_cannot_be_used_is_left_out_with_one_line(
    factory: MockFactory, caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    wiring: dict[str, Any] = {"gate": {"pin": 5}, "bell": {"pin": 6}}
    with (
        open_switches({"gate": (5, False), "fan": (5, False)}, factory=factory, loop=loop) as switches,
        open_contacts(
            wiring, on_change=dict.fromkeys(wiring, lambda is_active: None), factory=factory, loop=loop
        ) as contacts,
    ):
        assert (list(switches), list(contacts)) == (["gate"], ["bell"])
    said = [record.getMessage() for record in caplog.records]
    assert [one.partition(":")[0] for one in said] == ["output fan", "input gate"]
    assert all("GPIO 5 is used twice" in one for one in said)


# --- inputs -------------------------------------------------------------------------------------------------------


class Bell:
    """One input on a mock pin, and what the model is told of it."""

    def __init__(self, factory: MockFactory, *, tells: Any = "press", asks: bool = False, pull: str = "up") -> None:
        self.stack = AsyncExitStack()
        self.posted: list[Event] = []
        self.pin = factory.pin(13)
        loop = asyncio.get_running_loop()
        reports = InputReports(
            "doorbell", "At the gate.", tells=tells, asks=asks, post=self.posted.append, wording=english(), loop=loop
        )
        wiring = {"doorbell": {"pin": 13, "pull": pull, "active_low": True}}
        opened = open_contacts(wiring, on_change={"doorbell": reports.on_change}, factory=factory, loop=loop)
        self.contact = self.stack.enter_context(opened)["doorbell"]

    async def ring(self) -> None:
        """Press for 100 ms, with contacts that bounce."""
        for drive in (self.pin.drive_low, self.pin.drive_high):
            for bounce in (drive, self.pin.drive_high, self.pin.drive_low, drive):
                bounce()
                await asyncio.sleep(0.002)
            await asyncio.sleep(0.1)

    @property
    def told(self) -> list[tuple[str, bool]]:
        """The text of each message without the description, and whether it asks for an answer."""
        messages = [one for one in self.posted if isinstance(one, MessageGiven)]
        assert len(messages) == len(self.posted)
        assert all(one.must_wait and one.is_event and one.item["role"] == "system" for one in messages)
        assert len({one.item["id"] for one in messages}) == len(messages)
        return [(one.text.replace(" At the gate.", ""), one.wants_answer) for one in messages]


ON = "Event of the device: the input doorbell was switched on."
OFF = "Event of the device: the input doorbell was switched off."


@pytest.mark.parametrize(
    ("tells", "told"), [("press", [ON]), ("release", [OFF]), ("both", [ON, OFF]), ("", [])], ids=lambda one: str(one)
)
def test_a_bouncing_press_is_told_once(factory: MockFactory, tells: str, told: list[str]) -> None:
    async def scene() -> None:
        async with (bell := Bell(factory, tells=tells)).stack:
            await bell.ring()
            await asyncio.sleep(3)
            assert [text for text, _ in bell.told] == told

    in_virtual_time(scene())


def test_a_pulse_shorter_than_the_debounce_is_no_event(factory: MockFactory) -> None:
    async def scene() -> None:
        async with (bell := Bell(factory, tells="both")).stack:
            bell.pin.drive_low()
            await asyncio.sleep(0.01)
            bell.pin.drive_high()
            await asyncio.sleep(3)
            assert bell.told == []

    in_virtual_time(scene())


def test_input_that_is_active_at_the_start_is_no_event(factory: MockFactory) -> None:
    async def scene() -> None:
        async with (bell := Bell(factory, tells="both", pull="down")).stack:
            await asyncio.sleep(3)
            assert bell.told == []
            assert bell.contact.is_active

    in_virtual_time(scene())


def test_chattering_input_is_told_once_a_second_with_a_count(factory: MockFactory) -> None:
    async def scene() -> None:
        async with (bell := Bell(factory)).stack:
            for _ in range(12):  # 0.216 s each
                await bell.ring()
            await asyncio.sleep(5)
            counts = [int(text.removeprefix(ON).split()[0]) if text != ON else 1 for text, _ in bell.told]
            assert counts == [1, 4, 5, 2]

    in_virtual_time(scene())


def test_input_that_asks_for_an_answer_asks_again_after_ten_seconds(factory: MockFactory) -> None:
    async def scene() -> None:
        async with (bell := Bell(factory, asks=True)).stack:
            for _ in range(3):
                await bell.ring()
                await asyncio.sleep(6)
            assert bell.told == [(ON, True), (ON, False), (ON, True)]

    in_virtual_time(scene())


def test_closed_input_tells_nothing(factory: MockFactory) -> None:
    async def scene() -> None:
        async with (bell := Bell(factory, tells="both")).stack:
            bell.pin.drive_low()
            await asyncio.sleep(0.01)
        await asyncio.sleep(1)
        assert bell.told == []

    in_virtual_time(scene())


async def test_input_is_read(factory: MockFactory) -> None:
    async with (bell := Bell(factory)).stack:
        read = input_tool(NamedInput(name="doorbell", description="At the gate.", contact=bell.contact), english())
        assert read.name == "read_doorbell"
        assert await read() == "The input doorbell is off."
        bell.pin.drive_low()
        assert await read() == "The input doorbell is on."


async def test_offline_brain_knows_the_phrases_of_both(factory: MockFactory) -> None:
    async with (
        (gate := Gate(factory, pulse_s=1.0, phrases=["open the [garden] gate"])).stack,
        (bell := Bell(factory)).stack,
    ):
        read = input_tool(
            NamedInput(name="doorbell", description=".", contact=bell.contact, phrases=["is somebody there"]), english()
        )
        live = PhraseBook.load(BOOK, "en").live([offline(gate.tool), offline(read)])
        matches = [live.match(one) for one in ("open the garden gate", "is somebody there")]
        assert [one.phrase.call.tool for one in matches if one and one.phrase.call] == ["pulse_gate", "read_doorbell"]


def offline(tool: Tool) -> dict[str, Any]:
    """Return a tool as our client gives it to the offline brain."""
    return tool.definition() | {"phrases": tool.spoken}


@pytest.mark.parametrize(("offline_endpoint", "asked"), [(None, 1), (0, 0)])
def test_offline_brain_is_not_asked_to_answer_an_event(offline_endpoint: int | None, asked: int) -> None:
    stage = Stage(offline_endpoint=offline_endpoint).ready()
    content = [{"type": "input_text", "text": ON}]
    item = {"id": "input_1", "type": "message", "role": "system", "content": content}
    stage.do(MessageGiven(item, ON, must_wait=True, is_event=True))
    stage.server({"type": "conversation.item.added", "previous_item_id": None, "item": item})
    types = [one["type"] for one in stage.sent()]
    assert types.count("response.create") == asked
    assert types.count("conversation.item.create") == 1


def test_names_of_the_device_are_refused_for_outputs() -> None:
    parts = DeviceParts(lamp=Any, light=Any, volume=Any)  # type: ignore[arg-type]
    names = [one.name.removeprefix("set_") for one in device_tools(parts) if one.name.startswith("set_")]
    assert names == ["lamp", "light", "volume"]
    for name in names:
        [line] = problems(outputs=[GATE | {"name": name}])
        assert "which the device already has" in line


def test_simulation_leaves_the_pin_of_its_dimmer_to_an_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "appliance.toml"
    path.write_text('[[gpio.inputs]]\nname = "bell"\npin = 6\ndescription = "Rings."\n', encoding="utf-8")
    assert main(["ask", str(tmp_path / "missing.wav"), "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert "missing.wav" in said
    assert "already uses" not in said


# --- the whole path -----------------------------------------------------------------------------------------------

OPENED: list[Step] = [send(SESSION_CREATED), expect("session.update")]
SPOKEN: list[Step] = [expect("input_audio_buffer.commit"), send(COMMITTED), expect("response.create")]
ANSWERED: list[Step] = [expect("response.create"), reply(answer)]


async def test_model_opens_the_gate_after_an_approval_and_the_pulse_ends(tmp_path: Path) -> None:
    """An agent in TOML names the tool; the user taps for yes."""
    agents = tmp_path / "agents.toml"
    agents.write_text('name = "Ada"\ninstructions = "Be brief."\ntools = ["pulse_gate"]\n', encoding="utf-8")
    script = [*OPENED, *SPOKEN, reply(calling("pulse_gate")), expect("conversation.item.create"), *ANSWERED, hold()]
    async with ScriptedServer(script) as server:
        rig = Rig(
            server.base_url,
            assistant__agents_file=str(agents),
            gpio__outputs=[GATE | {"pulse_s": 0.1, "needs_approval": True}],
        )
        async with running(rig):
            await rig.at_rest()
            await rig.talk()
            await rig.until(lambda: rig.light == "approval")
            assert levels(rig.device.factory, 5) == [False]
            rig.device.finger.hold(0.1)
            await rig.until(lambda: bool(rig.outcomes))
            await rig.until_true(lambda: levels(rig.device.factory, 5) == [False, True, False])
        (connection,) = server.connections
        assert (offered(connection), rig.outcomes) == (["pulse_gate"], ["answered"])
        assert outputs(connection) == ['{"on_s":0.1}']


async def test_press_of_the_doorbell_is_told_to_the_model_which_answers() -> None:
    script = [*OPENED, expect("conversation.item.create"), *ANSWERED, hold()]
    async with ScriptedServer(script) as server:
        rig = Rig(server.base_url, gpio__inputs=[BELL | {"tells": "press", "asks": True}])
        async with running(rig):
            await rig.at_rest()
            rig.device.factory.pin(13).drive_low()
            await rig.until(lambda: bool(rig.outcomes))
        (connection,) = server.connections
    assert rig.outcomes == ["answered"]
    assert rig.answer_ms >= 200
    item = connection.last("conversation.item.create")["item"]
    assert item["role"] == "system"
    assert item["content"] == [{"type": "input_text", "text": f"{ON} The bell at the gate."}]


async def test_event_of_an_input_that_does_not_ask_is_told_without_a_response() -> None:
    script = [*OPENED, expect("conversation.item.create"), *SPOKEN, reply(answer), hold()]
    async with ScriptedServer(script) as server:
        rig = Rig(server.base_url, gpio__inputs=[BELL | {"tells": "press"}])
        async with running(rig):
            await rig.at_rest()
            rig.device.factory.pin(13).drive_low()
            await rig.until_true(lambda: "conversation.item.create" in server.connections[0].types)
            assert rig.outcomes == []
            assert await rig.turn() == "answered"
        assert server.connections[0].types.count("response.create") == 1


async def test_events_during_the_start_are_handled_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def post_early(appliance: Appliance, *arguments: Any) -> Callable[[], Sequence[Any]]:
        appliance.post(MessageGiven({"id": "input_1", "role": "system", "content": []}, "Rung.", wants_answer=False))
        return original(appliance, *arguments)  # type: ignore[no-any-return]

    original: Any = Appliance._open_conversation
    monkeypatch.setattr(Appliance, "_open_conversation", post_early)
    async with ScriptedServer([*OPENED, hold()]) as server:
        rig = Rig(server.base_url)
        rig.device.observe(lambda now, event, commands, view: seen.append(type(event).__name__))
        async with running(rig):
            await rig.until(lambda: "MessageGiven" in seen)
    assert seen[0] == Started.__name__
