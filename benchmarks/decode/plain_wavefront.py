"""Decoding a token grid the plain way, which the decode modes are compared with.

One slot after the other through the model's own layers in float32, by the operations that training
uses: nothing is fused, packed or recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.transformer import CacheRows, KVCache, VideoTransformer
from worldbridge.models.transformer.wavefront import DigitHead, slot_mask
from worldbridge.runtime.decoding.noise import position_noise
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, sample
from worldbridge.runtime.process import one_thread

__all__ = ["PlainWavefront"]


class PlainWavefront:
    """One stream. Keys and values of the newest latents lie in a ring, as in `Decoder`."""

    def __init__(
        self, model: VideoTransformer, sampling: Sampling, seed: int, frames: int = 0
    ) -> None:
        config = model.config
        assert config.grid is not None, "this model has no token grid"
        self.model, self.config, self.grid = model, config, config.grid
        self.sampling, self.seed, self.frames = sampling, seed, frames
        _, self.height, self.width = config.latent_shape
        self.slots = self.height * self.width
        self.recent: list[Tensor] = []  # newest first, [H, W] codes
        self.device = model.norm.weight.device
        entries = self.grid.window_frames * self.slots
        self.cache = KVCache.allocate(config, 1, entries, model.norm.weight)

    @torch.inference_mode()
    def prefill(self, codes: Tensor, condition: Tensor) -> None:
        """Append a known latent: codes [H, W], condition [C]."""
        previous, hidden = self._before(condition)
        x = self.model.grid_input(codes[None], previous, hidden)[0].flatten(0, 1)
        self._features(x, torch.arange(self.slots, device=self.device), hidden)
        self._append(codes)

    @one_thread()  # as in `Decoder`: these steps are too small for two
    @torch.inference_mode()
    def draw(self, condition: Tensor, mark: Callable[[], None]) -> Tensor:
        """The next latent [H, W]; `mark` is called before every forward and after the last one."""
        previous, hidden = self._before(condition)
        base = self.model.grid_input.neighbourhood(previous, hidden)[0]
        codes = torch.zeros(self.height, self.width, dtype=torch.long, device=self.device)
        uniform = position_noise(
            self.seed, self.frames * self.slots, self.slots, sum(self.grid.fsq_levels)
        )
        noise = gumbel(uniform).to(self.device)
        for slot in range(self.slots):
            mark()
            row, column = divmod(slot, self.width)
            x = base[row, column][None]
            if column > 0:
                x = x + self.model.grid_input.left(codes[row, column - 1][None])
            else:
                x = x + self.model.grid_input.row_start[row]
            if row > 0:
                x = x + self.model.grid_input.above(codes[row - 1, column][None])
            place = torch.tensor([slot], device=self.device)
            features = self._features(x, place, hidden)
            codes[row, column] = self._code(features, noise[slot : slot + 1])
        mark()
        self._append(codes)
        return codes

    def _before(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The latents before, [1, history, H, W], and the condition's hidden state [1, C]."""
        nothing = torch.full((self.height, self.width), -1, device=self.device)
        missing = self.grid.previous_latents - len(self.recent)
        previous = torch.stack([*self.recent, *[nothing] * missing])
        return previous[None], self.model.condition(condition[None].to(self.device))

    def _append(self, codes: Tensor) -> None:
        self.recent = [codes, *self.recent][: self.grid.previous_latents]
        self.frames += 1

    def _features(self, x: Tensor, slots: Tensor, hidden: Tensor) -> Tensor:
        """Features [n, dim] of the slots [n] of the next latent, whose inputs are x [n, dim]."""
        ring, end = self.frames % self.grid.window_frames, self.cache.keys.shape[3]
        cos, sin = (t[0, slots] for t in self.model.grid_rotation(self.frames, 1, x))
        rows = CacheRows(0, ring * self.slots + slots, end, self._mask()[slots])
        attend = self.cache.attend([rows])
        return self.model.hidden(x[None], cos, sin, attend, condition=hidden)[0]

    def _mask(self) -> Tensor:
        """[slots, window * slots]: every slot sees the latents before, and its own by its mask."""
        window = self.grid.window_frames
        mask = torch.zeros(self.slots, window, self.slots, dtype=torch.bool)
        for age in range(1, min(self.frames, window - 1) + 1):
            mask[:, (self.frames - age) % window] = True
        mask[:, self.frames % window] = slot_mask(self.height, self.width, self.grid.diagonal)
        return mask.flatten(1).to(self.device)

    def _code(self, features: Tensor, noise: Tensor) -> Tensor:
        """The code drawn from features [1, dim], digit by digit."""
        head = cast(DigitHead, self.model.output)
        state = head.project(features)
        first, basis = 0, 1
        code = torch.zeros(1, dtype=torch.long, device=self.device)
        for d, level in enumerate(head.levels):
            block = slice(first, first + level)
            logits = F.linear(F.silu(state + head.place[d]), head.weight[block], head.bias[block])
            digit = sample(logits, noise[:, block], self.sampling)
            code += digit * basis
            state = state + F.embedding(digit + first, head.earlier)
            first, basis = first + level, basis * level
        return code[0]
