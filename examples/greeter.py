"""A greeter that hands off to a specialist; the model sees the handoff as a tool, `transfer_to_gardener`.

python examples/greeter.py

With OPENAI_API_KEY the gardener takes over. The offline brain only matches phrases, so it stays with the greeter.
"""

from __future__ import annotations

import asyncio

from appliance import RealtimeAgent, RealtimeSession, RealtimeSessionSettings, handoff, tool


@tool
def water_need(plant: str) -> str:
    """Look up how much water a plant needs.

    Args:
        plant: Its common name.
    """
    return {"tomato": "two litres a day", "cactus": "a sip a month"}.get(plant.lower(), "half a litre a day")


gardener = RealtimeAgent(
    name="Gardener",
    instructions="You are a gardener. Answer questions about plants in one sentence; look the water up.",
    handoff_description="Knows plants, soil and water.",
    tools=[water_need],
)
greeter = RealtimeAgent(
    name="Greeter",
    instructions="Greet the caller in one sentence. Hand over to the gardener as soon as it is about plants.",
    handoffs=[handoff(gardener, first_sentence="Hello, this is the gardener.")],
)
settings = RealtimeSessionSettings(output_modalities=("text",))  # written answers: no sound to play


async def main(url: str | None = None, *, question: str = "Hello! How much water does a tomato need?") -> str:
    """Ask one question; return the name of the agent that is active at the end."""
    async with RealtimeSession(greeter, settings, url=url) as session:
        print(f"You: {question}")
        session.send_message(question)
        async for event in session:
            match event.type:
                case "handoff":
                    print(f"({event.from_agent} hands over to {event.to_agent})")
                case "tool_end":
                    print(f"({event.agent} looked up: {event.output})")
                case "answer_text" if event.is_final:
                    print(f"{session.agent.name}: {event.text}")
                case "error":
                    print(f"error: {event.message}")
                case "turn_end":
                    break
        return session.agent.name


if __name__ == "__main__":
    asyncio.run(main())
