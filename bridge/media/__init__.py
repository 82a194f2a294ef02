"""Video: encode and broadcast the frames of a session, the newest only."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

Item = TypeVar("Item")


class LatestValue(Generic[Item]):
    """For one taker on one event loop. `put` never blocks and never grows anything."""

    def __init__(self) -> None:
        self._item: Item | None = None
        self._full = asyncio.Event()
        self.dropped = 0

    def put(self, item: Item) -> Item | None:
        """Leave `item`. Return the older one that it replaces, if there is one."""
        assert item is not None, "None stands for an empty queue"
        replaced, self._item = self._item, item
        if replaced is not None:
            self.dropped += 1
        self._full.set()
        return replaced

    async def get(self) -> Item:
        """Wait for an item and take it."""
        while self._item is None:
            await self._full.wait()
        item, self._item = self._item, None
        self._full.clear()
        return item


class KeyframeGate:
    """Lets through what one viewer's video decoder can use: from a key frame on, unbroken."""

    def __init__(self) -> None:
        self._broken = True
        self._layer = ""

    def admits(self, is_keyframe: bool, layer: str) -> bool:
        """Return whether a packet of an encoder's layer can be decoded."""
        if layer != self._layer:  # from another encoder
            self._layer, self._broken = layer, True
        self._broken = self._broken and not is_keyframe
        return not self._broken

    def lose(self) -> None:
        """Note that a packet was lost."""
        self._broken = True
