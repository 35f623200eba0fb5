"""The offline brain with its pipeline: private to this process, or open to other programs.

Both load their models at the first connection: a device whose server answers never loads them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir

from appliance.brain.server import BrainServer
from appliance.errors import ApplianceError
from appliance.speech.pipeline import ChainedPipeline, build_pipeline

__all__ = ["offline_brain", "serving"]

log = logging.getLogger(__name__)

_MAX_FOLDER_BYTES = 75  # the path of a Unix socket has at most 107, of which ours adds 32


@asynccontextmanager
async def offline_brain(
    pipeline: ChainedPipeline | None = None, *, folder: Path | None = None
) -> AsyncIterator[BrainServer]:
    """Serve a pipeline to this process only, until the context exits.

    The server listens on a Unix socket of mode 0600 in a folder of mode 0700, and needs a random token: connect to its
    `url` with its `headers`. The folder is removed on exit.

    Args:
        pipeline: Closed on exit; None builds one with `build_pipeline()`.
        folder: Where the folder of the socket is made; None uses the system's folder for temporary files. If its path
            is too long for a socket, ``/tmp`` is used.

    Raises:
        ApplianceError: The pipeline cannot be built, or the socket cannot be made.
    """
    chain = build_pipeline() if pipeline is None else pipeline
    try:
        parent = folder or gettempdir()
        if len(os.fsencode(parent)) > _MAX_FOLDER_BYTES:
            parent = "/tmp"
        private = TemporaryDirectory(prefix="appliance-brain-", dir=parent, ignore_cleanup_errors=True)
    except OSError as exc:
        raise ApplianceError(
            f"the offline brain cannot make a folder for its socket ({exc}): choose another one, as with TMPDIR"
        ) from exc
    with private as path:
        server = BrainServer(chain, socket_path=Path(path, "socket"), token=secrets.token_urlsafe(32))
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
