"""The offline brain inside this process: a `BrainServer` on loopback that loads its models at the first connection.

A device whose server answers never loads them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from appliance.brain.server import BrainServer
from appliance.errors import ApplianceError
from appliance.speech.pipeline import ChainedPipeline, build_pipeline

__all__ = ["offline_brain"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def offline_brain(
    pipeline: ChainedPipeline | None = None, *, host: str = "127.0.0.1", port: int = 0, token: str | None = None
) -> AsyncIterator[BrainServer]:
    """Serve a pipeline until the context exits; yields the server, and clients connect to its `url`.

    Args:
        pipeline: Closed on exit; None builds one with `build_pipeline()`.
        host: See `BrainServer`.
        port: See `BrainServer`.
        token: See `BrainServer`.

    Raises:
        ApplianceError: The pipeline cannot be built, or the server cannot listen on the address.
    """
    chain = build_pipeline() if pipeline is None else pipeline
    async with BrainServer(chain, host=host, port=port, token=token) as server:
        warming = asyncio.create_task(_warm_up(chain, server))
        try:
            yield server
        finally:
            warming.cancel()
            chain.close()


async def _warm_up(pipeline: ChainedPipeline, server: BrainServer) -> None:
    """Load the models once there is a client; a load error is logged here and raised again on first use."""
    await server.was_used.wait()
    try:
        await pipeline.warm_up()
    except ApplianceError as exc:
        log.warning("the offline brain: %s", exc)
