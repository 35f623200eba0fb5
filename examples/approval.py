"""A tool that needs approval: the call waits until the user says yes or no.

python examples/approval.py            # says yes
python examples/approval.py no         # says no

Without OPENAI_API_KEY the offline brain answers, which needs no network.
"""

from __future__ import annotations

import asyncio
import sys

from appliance import RealtimeAgent, RealtimeSession, RealtimeSessionSettings, tool

lamp = {"is_on": False}


@tool(needs_approval=True)
def set_lamp(on: bool) -> dict[str, bool]:
    """Switch the lamp.

    Args:
        on: True to switch it on.
    """
    lamp["is_on"] = on
    return {"on": on}


agent = RealtimeAgent(name="House", instructions="You switch the lamp. Be brief.", tools=[set_lamp])
settings = RealtimeSessionSettings(output_modalities=("text",))  # written answers: no sound to play


async def main(url: str | None = None, *, is_allowed: bool = True) -> str:
    """Ask for the lamp, and approve or reject the call; return the agent's last answer."""
    answer = ""
    async with RealtimeSession(agent, settings, url=url) as session:
        session.send_message("turn on the lamp")
        async for event in session:
            match event.type:
                case "tool_approval_requested":
                    print(f"May I call {event.name}({event.arguments})? {'yes' if is_allowed else 'no'}")
                    if is_allowed:
                        session.approve(event)
                    else:
                        session.reject(event, message="The user said no.")
                case "answer_text" if event.is_final:
                    answer = event.text
                    print(f"{agent.name}: {answer}")
                case "error":
                    print(f"error: {event.message}")
                case "turn_end":
                    break
    return answer


if __name__ == "__main__":
    asyncio.run(main(is_allowed="no" not in sys.argv[1:]))
