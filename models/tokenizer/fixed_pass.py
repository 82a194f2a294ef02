"""One step of a stream whose memory has the same shapes at every step, as fixed graphs need it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.tokenizer.stream import Pass

__all__ = ["SEEN", "FixedPass"]

SEEN = "seen"  # int32 [1, 1]: how many latents of the attention's memory are real


class FixedPass(Pass):
    """`Pass` of one latent of one stream, whose temporal attention always keeps `window` latents.

    Until so many have been seen, the memory begins with zeros that no query looks at. The
    result is that of a stream with this window.
    """

    def __init__(self, window: int | None, past: Mapping[str, Tensor] | None) -> None:
        super().__init__(1)
        self.first = past is None
        self.window = window
        self.past = past or {}
        self.written: dict[str, Tensor] = {}

    def recall(self, key: str) -> Tensor:
        return self.past[key]

    def keep(self, key: str, value: Tensor) -> None:
        if key.endswith((".k", ".v")):  # of the temporal attention, [1, latents, pixels, C]
            assert self.window is not None
            value = F.pad(value, (0, 0, 0, 0, self.window - value.shape[1], 0))
        self.written[key] = value

    def mask(self, new: int, total: int, device: torch.device) -> Tensor | None:
        assert new == 1
        if self.first:
            return None
        slot = torch.arange(total, dtype=torch.int32, device=device)
        return (slot >= total - 1 - self.past[SEEN]).view(1, 1, 1, total)

    def memory(self) -> dict[str, Tensor]:
        """What the next step has to be given; with the count only where attention needs it."""
        if not any(key.endswith(".k") for key in self.written):
            return self.written
        if self.first:
            device = next(iter(self.written.values())).device
            seen = torch.ones(1, 1, dtype=torch.int32, device=device)
        else:
            seen = (self.past[SEEN] + 1).clamp(max=self.window)
        return {**self.written, SEEN: seen}
