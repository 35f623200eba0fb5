"""New limits and times for a conversation that runs: it then has the state of one that was created with them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from appliance.agents.spec import AgentSpec
from appliance.conversation.events import PolicyReplaced, SettingsRefused
from appliance.conversation.machine import Conversation
from appliance.conversation.notices import Error
from appliance.conversation.policy import Policy
from appliance.conversation.support.prices import PRICES
from tests.support.stage import Stage
from tests.support.state import state_of

FIXED = {"endpoints", "max_history", "guardrail_debounce", "guardrail_s", "hold_audio", "alarm_s", "alarm_every_s"}
"""Figures of which some part keeps a copy: no setting that is read again changes them."""
OTHERS: dict[str, Any] = {
    "button_mode": "tap",
    "double_tap": "mute",
    "next_agents": {"one": "two"},
    "outputs": {"rejected": "no"},
    "offline_endpoint": 0,
    "budget_usd": 2.5,
    "budget_s": 90.0,
    "prices": PRICES.with_prices({"mine": {"per_minute": 1.0}}),
}


@pytest.mark.parametrize("figure", sorted({one.name for one in fields(Policy)} - FIXED))
def test_each_figure_is_in_force_everywhere(figure: str) -> None:
    before = getattr(Policy(), figure)
    new: dict[str, Any] = {figure: OTHERS[figure] if figure in OTHERS else before / 2 or 1}
    policy = Policy(**new)
    assert getattr(policy, figure) != before
    spec = AgentSpec(agent="one", session={})
    changed, made = Conversation(policy=Policy(), specs=[spec]), Conversation(policy=policy, specs=[spec])
    assert state_of(changed) != state_of(made)
    changed.handle(PolicyReplaced(policy), 1.0)
    made.handle(PolicyReplaced(policy), 1.0)
    assert state_of(changed) == state_of(made)


def test_wrong_settings_are_a_trouble_that_the_light_shows() -> None:
    stage = Stage()
    stage.do(SettingsRefused("audio.volume: found 500"))
    assert stage.notices(Error) == [Error("bad_settings", "audio.volume: found 500")]
    assert stage.conversation.view.has_error
