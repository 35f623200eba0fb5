"""The offline brain with its pipeline: private to this process, or open to other programs.

Both load their models at the first connection: a device whose server answers never loads them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.brain.private_socket import private_socket
from appliance.brain.server import BrainServer
from appliance.errors import ApplianceError
from appliance.speech.pipeline import ChainedPipeline, build_pipeline

__all__ = ["offline_brain", "serving"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def offline_brain(
    pipeline: ChainedPipeline | None = None, *, folder: Path | None = None
) -> AsyncIterator[BrainServer]:
    """Serve a pipeline to this process only, until the context exits.

    The server has a `private_socket`: connect to its `url` with its `headers`.

    Args:
        pipeline: Closed on exit; None builds one with `build_pipeline()`.
        folder: See `private_socket`.

    Raises:
        ApplianceError: The pipeline cannot be built, or the socket cannot be made.
    """
    chain = build_pipeline() if pipeline is None else pipeline
    with private_socket(folder) as private:
        server = BrainServer(chain, private=private)
        async with serving(chain, server):
            yield server


@asynccontextmanager
async def serving(pipeline: ChainedPipeline, server: BrainServer) -> AsyncIterator[None]:
    """Run a server, and load the models of its pipeline once there is a client; close both on exit.

    Raises:
        ApplianceError: The server cannot listen on its address.
    """
    async with server:
        warming = asyncio.create_task(_warm_up(pipeline, server))
        try:
            yield
        finally:
            warming.cancel()
            pipeline.close()


async def _warm_up(pipeline: ChainedPipeline, server: BrainServer) -> None:
    """Load the models once there is a client; a load error is logged here and raised again on first use."""
    await server.was_used.wait()
    try:
        await pipeline.warm_up()
    except ApplianceError as exc:
        log.warning("the offline brain: %s", exc)
