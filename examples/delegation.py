"""Delegation: a quick voice model asks a stronger text model, and sends it the conversation so far.

CHAT_URL=http://localhost:11434/v1 CHAT_MODEL=llama3.2 python examples/delegation.py

The text model runs behind any OpenAI-compatible chat endpoint: CHAT_URL (else OpenAI's), CHAT_MODEL, and CHAT_KEY (else
OPENAI_API_KEY). The voice model needs OPENAI_API_KEY; without it the offline brain answers, which never delegates.
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import Any
from urllib.request import Request, urlopen

from appliance import RealtimeAgent, RealtimeSession, RealtimeSessionSettings, ToolContext, tool


@tool(timeout_s=60, working_after_ms=800, filler="Let me think about that.")
def ask_expert(context: ToolContext[Any], question: str) -> str:
    """Ask an expert who thinks longer. Use it for anything that needs reasoning or facts.

    Args:
        question: The whole question.
    """
    said = [{"role": one.role, "content": one.text} for one in context.history if one.role and one.text]
    order = {"role": "system", "content": "Advise a voice assistant. Answer in two short sentences to be spoken."}
    body = {
        "model": os.environ.get("CHAT_MODEL", "gpt-5-mini"),
        "messages": [order, *said, {"role": "user", "content": question}],
    }
    key = os.environ.get("CHAT_KEY") or os.environ.get("OPENAI_API_KEY", "")
    request = Request(
        os.environ.get("CHAT_URL", "https://api.openai.com/v1").rstrip("/") + "/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})},
    )
    with urlopen(request, timeout=50) as response:  # a sync tool runs in a thread, so it may block
        return str(json.load(response)["choices"][0]["message"]["content"])


agent = RealtimeAgent(
    name="Quick",
    instructions="Chat briefly. For anything hard call ask_expert, and say its answer in your own words.",
    tools=[ask_expert],
)
settings = RealtimeSessionSettings(output_modalities=("text",))  # written answers: no sound to play


async def main(url: str | None = None, *, question: str = "Why is the sky blue?") -> str:
    """Ask one question; return the answer."""
    answer = ""
    async with RealtimeSession(agent, settings, url=url) as session:
        print(f"You: {question}")
        session.send_message(question)
        async for event in session:
            match event.type:
                case "announcement":
                    print(f"({event.text})")
                case "tool_end":
                    print(f"(the expert: {event.output})")
                case "answer_text" if event.is_final:
                    answer = event.text
                    print(f"{agent.name}: {answer}")
                case "turn_end":
                    break
    return answer


if __name__ == "__main__":
    asyncio.run(main())
