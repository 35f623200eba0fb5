"""The device: button, sound cards, mute, alarms, pre-roll, and the trouble that the light shows. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from appliance.conversation.commands import CloseCapture, OpenCapture, PowerOff, Sentence
from appliance.conversation.events import AlarmRang, AudioCaptured, ButtonEdge, Direction
from appliance.conversation.notices import Error, TroubleKind
from appliance.conversation.policy import Policy
from appliance.conversation.support.alarms import Alarms
from appliance.conversation.support.gestures import Gesture, Gestures, HoldKind
from appliance.conversation.support.outbox import Outbox
from appliance.realtime.protocol import SAMPLE_RATE

__all__ = ["Device"]


class PreRoll:
    """The newest periods of the microphone: `frames` and at most one period more."""

    def __init__(self) -> None:
        self.wanted = 0
        """Frames to keep."""
        self._periods: deque[AudioCaptured] = deque()
        self._frames = 0

    def keep(self, period: AudioCaptured, *, forgets: bool = True) -> None:
        """Add a period; forget the oldest ones that are not wanted, unless the button has just gone down."""
        self._periods.append(period)
        self._frames += len(period.pcm) // 2
        while forgets and self._periods and self._frames - len(self._periods[0].pcm) // 2 >= self.wanted:
            self._frames -= len(self._periods.popleft().pcm) // 2

    def take(self) -> list[AudioCaptured]:
        """Return the kept periods, oldest first, and forget them."""
        periods, self._periods, self._frames = list(self._periods), deque(), 0
        return periods

    def forget(self) -> None:
        self._periods.clear()
        self._frames = 0


@dataclass(frozen=True, slots=True)
class Mute:
    """Who mutes the microphone: the switch on the device, and everything else."""

    is_asked: bool
    """By a gesture, a tool, a signal or the program; kept over a restart."""
    is_switched: bool = False
    """By the position of the switch: nothing else unmutes."""

    @property
    def is_on(self) -> bool:
        return self.is_asked or self.is_switched

    def set(self, is_muted: bool) -> Mute:
        return Mute(is_muted, self.is_switched)

    def moved(self, is_muted: bool) -> Mute:
        """Return the state after the switch was moved: the last one to act decides."""
        return Mute(self.is_asked and is_muted, is_muted)


def _set_times(button: Gestures, policy: Policy, holds: Mapping[HoldKind, float], *, double_tap_s: float = 0.0) -> None:
    """Set the times of a button; `holds` has the seconds of each hold, 0 for none."""
    button.set_times(
        min_press_s=policy.min_press_ms / 1000,
        release_debounce_s=policy.release_debounce_ms / 1000,
        tap_max_s=policy.tap_max_ms / 1000,
        double_tap_s=double_tap_s,
        holds={kind: seconds for kind, seconds in holds.items() if seconds > 0},
        stuck_s=policy.stuck_s,
        longest_press_s=policy.max_turn_s + policy.stuck_s,
    )


class Device:
    """The state of the hardware, independent of turns.

    Owns the gestures of both buttons, lost cards, mute, alarms, the pre-roll, the number of running timers and the last
    trouble.
    """

    def __init__(self, policy: Policy, out: Outbox, *, is_muted: bool) -> None:
        self.policy = policy
        self._out = out
        self._started_at: float | None = None
        self._gestures, self._second = Gestures(), Gestures()
        self._released: set[Gestures] = set()
        """The buttons that were seen released since the start."""
        self._pre_roll = PreRoll()
        self.captured_at = 0.0
        """When the newest microphone period arrived, monotonic seconds."""
        self.mute = Mute(is_muted)
        self._lost_cards: dict[Direction, str] = {}
        self.alarms = Alarms(out, length_s=policy.alarm_s, every_s=policy.alarm_every_s)
        self.timers_running = 0
        self.trouble: TroubleKind | Literal[""] = ""
        """The kind of the last trouble; "" once a new connection is ready."""
        self._error_until: float | None = None
        self._power_off_until: float | None = None
        """When a release no longer switches off; None while no power-off is announced."""
        self.use(policy)

    def use(self, policy: Policy) -> None:
        """Use these times from now on; a press that is held goes on."""
        self.policy = policy
        holds: dict[HoldKind, float] = {
            "hold": policy.hold_ms / 1000,
            "mute_hold": policy.mute_hold_s,
            "power_off_hold": policy.power_off_hold_s if policy.button_mode == "tap" else 0.0,
        }
        double_tap_s = policy.double_tap_ms / 1000 if policy.double_tap else 0.0
        _set_times(self._gestures, policy, holds, double_tap_s=double_tap_s)
        _set_times(self._second, policy, {"power_off_hold": policy.power_off_hold_s})
        self._pre_roll.wanted = policy.pre_roll_ms * SAMPLE_RATE // 1000

    @property
    def is_muted(self) -> bool:
        return self.mute.is_on

    @property
    def is_started(self) -> bool:
        return self._started_at is not None

    @property
    def is_held(self) -> bool:
        """A person holds the button: a release will follow, or the button is reported as stuck."""
        return self._gestures.is_held and not self._gestures.is_stuck

    @property
    def pressed_at(self) -> float:
        """When the button went down, monotonic seconds; inf while it is up."""
        return self._gestures.pressed_at

    @property
    def is_press_pending(self) -> bool:
        """The button went down a moment ago: a press, or a pulse that is withdrawn."""
        return self._gestures.is_pending

    @property
    def holds_commit(self) -> bool:
        """What is said must not be committed yet: the button may continue or discard it."""
        return self._gestures.is_pending or self._gestures.awaits_second_tap

    @property
    def is_stuck(self) -> bool:
        return self._gestures.is_stuck or self._second.is_stuck

    @property
    def has_error(self) -> bool:
        """The error light is on."""
        return self._error_until is not None

    @property
    def cards_lost(self) -> tuple[Direction, ...]:
        return tuple(sorted(self._lost_cards))

    @property
    def has_speaker(self) -> bool:
        return "playback" not in self._lost_cards

    @property
    def refusal(self) -> TroubleKind | None:
        """Why no turn can start now; None if one can."""
        if self.is_muted:
            return "muted"
        return "no_microphone" if "capture" in self._lost_cards else None

    def deadlines(self) -> Iterator[float | None]:
        yield self._gestures.deadline
        yield self._second.deadline
        yield self.alarms.deadline
        yield self._power_off_until
        yield self._error_until

    def start(self, now: float) -> None:
        self._started_at = now
        if self.is_muted:
            self._out.do(CloseCapture())

    # --- the button ---------------------------------------------------------------------------------------------

    def edge(self, event: ButtonEdge, now: float) -> list[Gesture]:
        """Handle one reading of a button; a button held since the start is not a press until it was released.

        An edge that the kernel saw proves that the button was released before it.
        """
        button = self._second if event.is_second else self._gestures
        if not event.pressed or event.at is not None:
            self._released.add(button)
        is_guarded = self._started_at is None or (
            button not in self._released and now < self._started_at + self.policy.start_guard_s
        )
        at = now if event.at is None else min(event.at, now)
        return button.feed(event.pressed, at, is_guarded=is_guarded)

    def late_gestures(self, now: float) -> list[Gesture]:
        return self._gestures.advance(now)

    def late_second_gestures(self, now: float) -> list[Gesture]:
        return self._second.advance(now)

    def use_up_press(self) -> None:
        """Let the press make no more taps and holds: it has answered something."""
        self._gestures.use_up()

    # --- power-off ----------------------------------------------------------------------------------------------

    def announce_power_off(self, now: float) -> None:
        """Say that a release switches the device off."""
        self._power_off_until = now + self.policy.power_off_s
        self._out.announce(Sentence("device.power_off", {"seconds": self.policy.power_off_s}), "offline")

    def release_power_off(self, held_s: float) -> bool:
        """Switch off if that was announced and not withdrawn; returns whether the press was so long."""
        is_long = 0 < self.policy.power_off_hold_s <= held_s
        if is_long and self._power_off_until is not None:
            self._power_off_until = None
            self._out.do(PowerOff())
        return is_long

    def end_power_off(self, now: float) -> None:
        """Keep the device on: the button was not released in time."""
        if self._power_off_until is not None and now >= self._power_off_until:
            self._power_off_until = None
            self._out.announce(Sentence("device.power_kept"), "cancel")

    # --- microphone, cards and mute -----------------------------------------------------------------------------

    def keep(self, period: AudioCaptured) -> None:
        """Add a period to the pre-roll, for a press that comes after the first word."""
        self._pre_roll.keep(period, forgets=not self._gestures.is_pending)

    def take_pre_roll(self, at: float) -> list[AudioCaptured]:
        """Return the sound kept from before a press, and forget it; what is left of an earlier turn is too old.

        Args:
            at: When the button went down, monotonic seconds.
        """
        kept = self._pre_roll.take()
        return kept if at - self.captured_at <= self.policy.pre_roll_ms / 1000 else []

    def lose_card(self, direction: Direction, reason: str, now: float) -> None:
        """Report a lost card."""
        kind: TroubleKind = "no_microphone" if direction == "capture" else "no_speaker"
        self._lost_cards[direction] = reason
        self.report(kind, now, detail=reason)
        if direction == "capture":
            self._pre_roll.forget()

    def find_card(self, direction: Direction) -> None:
        self._lost_cards.pop(direction, None)

    def switch_mute(self, is_muted: bool, *, is_by_switch: bool = False) -> bool:
        """Set the mute state; returns whether it changed."""
        before = self.is_muted
        self.mute = self.mute.moved(is_muted) if is_by_switch else self.mute.set(is_muted)
        if self.is_muted == before:
            return False
        self._pre_roll.forget()
        return True

    def follow_mute(self) -> None:
        self._out.do(CloseCapture() if self.is_muted else OpenCapture())
        self._out.earcon("muted" if self.is_muted else "unmuted")

    # --- alarms -------------------------------------------------------------------------------------------------

    def begin_alarm(self, event: AlarmRang, now: float) -> None:
        self.alarms.begin(event.alarm_id, event.label, now)

    def is_alarm_due(self, now: float) -> bool:
        return self.alarms.deadline is not None and now >= self.alarms.deadline

    def plan_ring(self, now: float) -> bool:
        """Schedule the next ring; returns whether to ring now, False after the time limit."""
        return self.alarms.sound(now)

    def ring(self) -> None:
        self._out.earcon("alarm")
        self._out.announce(self.alarms.sentence, "alarm")

    def silence_alarms(self) -> bool:
        """Acknowledge every alarm; returns whether one was ringing."""
        was_ringing = bool(self.alarms.ringing)
        self.alarms.silence()
        return was_ringing

    # --- troubles -----------------------------------------------------------------------------------------------

    def report(self, kind: TroubleKind, now: float, *, detail: str = "", flash: bool = True) -> None:
        """Emit an `Error`, and light the error light.

        Args:
            kind: What went wrong.
            now: Monotonic seconds.
            detail: Technical, for observers; "" if the kind says everything.
            flash: Whether to light the error light.
        """
        self.trouble = kind
        if flash:
            self._error_until = now + self.policy.error_light_s
        self._out.emit(Error(kind, detail))

    def forget_trouble(self) -> None:
        self.trouble = ""

    def end_error_light(self, now: float) -> None:
        if self._error_until is not None and now >= self._error_until:
            self._error_until = None
