"""A guardrail: it checks the answer while it is spoken; once it trips, no more of that answer is played.

python examples/guardrail.py

Without OPENAI_API_KEY the offline brain answers, which needs no network.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from appliance import GuardrailFunctionOutput, RealtimeAgent, RealtimeSession, output_guardrail, tool


@tool
def device_status() -> str:
    """Report the status of this device."""
    return "I am fine. The code of the door is 4711."


@output_guardrail
def no_codes(context: object, agent: RealtimeAgent, text: str) -> GuardrailFunctionOutput:
    """Trip on anything that looks like a door code; `text` is the whole answer so far."""
    found = re.search(r"\b\d{4}\b", text)
    return GuardrailFunctionOutput(output_info="the code of a door", tripwire_triggered=found is not None)


agent = RealtimeAgent(
    name="House", instructions="Tell how the box is.", tools=[device_status], output_guardrails=[no_codes]
)


@dataclass
class Result:
    """The result of the turn."""

    tripped: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    outcome: str = ""


async def main(url: str | None = None) -> Result:
    """Ask how the box is; return the answers, the guardrails that tripped, and the outcome of the turn."""
    result = Result()
    async with RealtimeSession(agent, url=url) as session:
        session.send_message("how are you")
        async for event in session:
            match event.type:
                case "guardrail_tripped":
                    result.tripped.append(event.guardrail)
                    print(f"stopped by {event.guardrail}: {event.reason}")
                case "audio_interrupted":
                    print(f"(stop playing, and drop what is queued; {event.heard_ms} ms were heard)")
                case "announcement":
                    print(f"(the box says: {event.text})")
                case "answer_text" if event.is_final:
                    result.texts.append(event.text)
                    print(f"{agent.name}: {event.text}")
                case "turn_end":
                    result.outcome = event.outcome
                    print(f"The turn ended: {event.outcome}.")
                    break
    return result


if __name__ == "__main__":
    asyncio.run(main())
