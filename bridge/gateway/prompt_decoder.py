"""Pictures are decoded beside the event loop, one client's after another's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from worldbridge.bridge.gateway.prompts import read_pictures
from worldbridge.bridge.protocol import PromptFrames, WorldSpec

__all__ = ["PromptDecoder"]


class PromptDecoder:
    """One thread. What waits for it waits outside, where it can be cancelled and is then gone:
    a client that changes its mind all the time cannot pile up megabytes."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="pictures")
        self._free = asyncio.Lock()

    async def decode(self, files: Sequence[bytes], spec: WorldSpec) -> PromptFrames:
        """The pictures at the size of that world. Raises BridgeError bad_picture."""
        async with self._free:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._thread, read_pictures, files, spec.height, spec.width)
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])  # a thread cannot be cancelled: it is not free before
                raise

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
