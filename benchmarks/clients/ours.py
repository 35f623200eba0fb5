"""This project's client: transport, protocol, conversation, rings, resampling and a card paced like a real one.

``duplex`` runs capture (card → ring → pump → conversation, the button held down → socket) and playback (socket →
protocol → playback → ring → card) at once for the whole time. A press-to-talk device never does both, so this is an
upper bound. ``daemon`` imports everything that `appliance run` imports: tools, settings and pins too.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.clients import measure


def _load() -> None:
    """Import what a program imports."""
    from appliance import RealtimeSession  # noqa: F401


def _load_daemon() -> None:
    import appliance.service.app  # noqa: F401


def run(mode: str, url: str, seconds: float) -> dict[str, float]:
    figures = measure.timed_import(_load_daemon if mode == "daemon" else _load)
    if mode == "duplex":
        import asyncio

        figures |= asyncio.run(_duplex(url, seconds))
    elif mode == "micro":
        figures |= _micro()
    return figures


class _Nothing:
    """Replaces the adapters that this measurement does not need."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


async def _duplex(url: str, seconds: float) -> dict[str, float]:
    import asyncio
    import gc

    from appliance.agents.spec import AgentSpec
    from appliance.audio.backends.simulated import SimulatedBackend
    from appliance.audio.streams import AudioStreams
    from appliance.conversation.events import ButtonEdge, Event, ServerEventReceived, Started
    from appliance.conversation.machine import Conversation
    from appliance.conversation.policy import Policy
    from appliance.realtime.protocol import OutputAudioDelta
    from appliance.realtime.transports.websocket import Endpoint, WebSocketTransport
    from appliance.runtime.driver import Driver

    received = 0

    def post(event: Event) -> None:
        nonlocal received
        if isinstance(event, ServerEventReceived) and isinstance(event.event, OutputAudioDelta):
            received += len(event.event.delta)  # the button is held: the conversation would not play it
            audio.play(conversation.epoch, "item", event.event.delta)
        driver.post(event)

    transport = WebSocketTransport(Endpoint(url, dict), post=post)
    card = SimulatedBackend(rate=48_000)
    card.loudspeaker.take = lambda at, block: None  # type: ignore[method-assign]  # a real card keeps no recording
    audio = AudioStreams(card, post=post, pre_roll_s=0.3, max_turn_s=60.0, playback_ring_ms=300, prebuffer_ms=60)
    policy = Policy(button_mode="hold", max_turn_s=3600.0, start_guard_s=0.0)
    conversation = Conversation(policy=policy, specs=[AgentSpec(agent="assistant", session={"type": "realtime"})])
    nothing: Any = _Nothing()
    driver = Driver(
        conversation,
        transport=transport,
        audio=audio,
        tools=nothing,
        agents=nothing,
        light=nothing,
        announcer=nothing,
        alarms=nothing,
    )
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part.run()) for part in (transport, audio, driver)]
        driver.post(Started())
        driver.post(ButtonEdge(False))
        await asyncio.sleep(1.0)
        gc.collect()
        gc.freeze()
        driver.post(ButtonEdge(True))
        load = measure.Load()
        await asyncio.sleep(seconds)
        figures = load.figures()
        gc.unfreeze()
        for task in tasks:
            task.cancel()
    return figures | {"received_s": received / 48_000, "xruns": float(audio.xruns.total)}


def _micro() -> dict[str, float]:
    from appliance.agents.spec import AgentSpec
    from appliance.conversation.events import AudioCaptured, ButtonEdge, ServerEventReceived, Started
    from appliance.conversation.machine import Conversation
    from appliance.conversation.policy import Policy
    from appliance.realtime import protocol
    from benchmarks.clients.frames import delta_frame

    frame, block = delta_frame(), b"\x10\x00" * 480

    def conversation() -> Conversation:
        one = Conversation(
            policy=Policy(button_mode="hold", pre_roll_ms=0, post_roll_ms=0),
            specs=[AgentSpec(agent="assistant", session={"type": "realtime"})],
        )
        one.handle(Started(), 0.0)
        one.handle(ServerEventReceived(1, protocol.SessionCreated(session={})), 1.0)
        one.handle(ButtonEdge(True), 10.0)
        for index in range(10):
            one.handle(AudioCaptured(block, 4000, -20.0), 10.0 + index / 50)
        return one

    speaking = conversation()
    speaking.handle(ButtonEdge(False), 11.0)
    speaking.handle(AudioCaptured(block, 4000, -20.0), 11.05)
    from appliance.conversation.events import DeadlinePassed

    speaking.handle(DeadlinePassed(), 11.1)
    created = protocol.ResponseCreated(response=protocol.Response(id="resp_1", metadata={"turn": "turn_1"}))
    speaking.handle(ServerEventReceived(1, created), 12.0)

    def receive() -> None:
        commands = speaking.handle(ServerEventReceived(1, protocol.decode(frame)), 12.0)
        assert commands, "the delta must reach the loudspeaker"

    listening = conversation()
    event = AudioCaptured(block, 4000, -20.0)

    def send() -> None:
        for command in listening.handle(event, 10.5):
            command.event.encode()  # type: ignore[union-attr]

    return {
        "receive_us": measure.per_call_us(receive, 2000),
        "decode_us": measure.per_call_us(lambda: protocol.decode(frame), 2000),
        "send_us": measure.per_call_us(send, 400),
        "encode_us": measure.per_call_us(lambda: protocol.InputAudioBufferAppend(audio=block).encode(), 10_000),
    }


if __name__ == "__main__":
    measure.report(run(sys.argv[1], sys.argv[2], float(sys.argv[3])))
