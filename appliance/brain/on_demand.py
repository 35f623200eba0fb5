"""An offline brain that its first client loads.

Its socket listens from the start, so the client waits in the kernel meanwhile. A device whose server answers spends
neither time at its start nor memory on the brain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from appliance.brain.private_socket import PrivateSocket
from appliance.errors import ApplianceError

if TYPE_CHECKING:
    from appliance.speech.pipeline import ChainedPipeline

__all__ = ["OnDemandBrain"]

log = logging.getLogger(__name__)


class OnDemandBrain:
    """Serves `private` once there is a client.

    Args:
        private: Where clients connect; closed if the brain cannot be loaded, so that they are refused.
        open_pipeline: Called once, on a thread, because it imports for tenths of a second; closed at the end of `run`.
        is_needed: Whether nothing else answers, so that a brain which cannot be loaded ends `run`.
    """

    def __init__(
        self, private: PrivateSocket, open_pipeline: Callable[[], ChainedPipeline], *, is_needed: bool
    ) -> None:
        self._private = private
        self._open_pipeline = open_pipeline
        self._is_needed = is_needed

    async def run(self) -> None:
        """Wait for a client, load the brain and serve until cancelled.

        Raises:
            ApplianceError: The brain is needed and cannot be loaded; see `build_pipeline`.
        """
        await self._first_client()
        try:
            pipeline = await asyncio.to_thread(self._load)
        except ApplianceError as exc:
            if self._is_needed:
                raise
            log.warning("no offline fallback: %s", exc)
            self._private.listening.close()
            return
        from appliance.brain.offline import serving
        from appliance.brain.server import BrainServer

        async with serving(pipeline, BrainServer(pipeline, private=self._private)):
            await asyncio.Event().wait()

    async def _first_client(self) -> None:
        loop, is_there = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._private.listening, is_there.set)
        try:
            await is_there.wait()
        finally:
            loop.remove_reader(self._private.listening)

    def _load(self) -> ChainedPipeline:
        import appliance.brain.offline  # noqa: F401

        return self._open_pipeline()
