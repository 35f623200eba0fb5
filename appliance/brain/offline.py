"""The offline brain with its pipeline: private to this process, or open to other programs.

Both load their models when a client connects or speaks, and give them back when nobody has used them for long: a device
whose server answers never loads them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.brain.activity import Activity
from appliance.brain.private_socket import private_socket
from appliance.brain.server import BrainServer
from appliance.errors import ApplianceError
from appliance.speech.pipeline import ChainedPipeline, build_pipeline

__all__ = ["keep_models", "offline_brain", "serving"]

log = logging.getLogger(__name__)


_IDLE_S = 3600.0  # the recogniser takes 150 MB, a Zero 2 W has 512
_LEFT_S = 300.0  # the server answers again; a connection that was just lost may be lost again


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
    """Run a server with the models of its pipeline loaded while they are used; close both on exit.

    Raises:
        ApplianceError: The server cannot listen on its address.
    """
    async with server:
        keeping = asyncio.create_task(keep_models(pipeline, server.activity))
        try:
            yield
        finally:
            keeping.cancel()
            pipeline.close()


async def keep_models(pipeline: ChainedPipeline, activity: Activity) -> None:
    """Load the models when a client connects or speaks, close the pipeline after `_IDLE_S` or `_LEFT_S`, forever.

    A load error is logged here and raised again on first use.
    """
    while True:
        await activity.begins()
        try:
            await pipeline.warm_up()
        except ApplianceError as exc:
            log.warning("the offline brain: %s", exc)
        await activity.ends(idle_s=_IDLE_S, left_s=_LEFT_S)
        pipeline.close()
        log.info("the offline brain gave the memory of its recogniser back; the next press loads it again")
