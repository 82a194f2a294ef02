"""The video transformer: Llama-like decoder over FSQ codes in (t, h, w) raster order."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.conditioning.camera import RAY_DIM
from worldbridge.models.transformer.active import (
    ActiveLayout,
    GuidedInput,
    draw_order,
    known_neighbours,
    neighbour_digits,
)
from worldbridge.models.transformer.cache import (
    Attend,
    CacheRows,
    KVCache,
    attend_causally,
    attend_to,
)
from worldbridge.models.transformer.config import TransformerConfig
from worldbridge.models.transformer.layers import Block, RMSNorm
from worldbridge.models.transformer.positions import absolute_table, rotary_angles, rotary_table
from worldbridge.models.transformer.wavefront import ClipWindow, DigitHead, FactorisedEmbedding

__all__ = ["ConditionEmbedder", "VideoTransformer"]

_Pairs = Sequence[tuple[Tensor, Tensor]]  # per layer: keys, values [B, Hkv, M, head_dim]


class ConditionEmbedder(nn.Module):
    """The published action recipe: Linear - ReLU - Linear on the per-latent condition vector."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(inputs, hidden)
        self.fc2 = nn.Linear(hidden, outputs)

    def forward(self, condition: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(condition)))


class VideoTransformer(nn.Module):
    """One class for every size; see `TransformerConfig`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        if config.grid is None:
            self.tok_embeddings = nn.Embedding(config.embedding_rows, config.dim)
            self.output: nn.Module = nn.Linear(config.dim, config.vocab_size, bias=False)
        else:
            if config.grid.guide_dim:
                self.guided_input = GuidedInput(config, config.grid)
            else:
                self.grid_input = FactorisedEmbedding(config, config.grid)
            self.output = DigitHead(config.grid.fsq_levels, config.dim, config.grid.head_hidden)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.dim, config.norm_eps)
        if config.conditioning == "modulation":
            width = config.condition_hidden
            self.condition = ConditionEmbedder(config.condition_dim, 2 * width, width)
        elif config.conditioning == "cross_attention":
            assert config.context_dim is not None
            self.condition = ConditionEmbedder(config.condition_dim, 256, config.context_dim)
        if config.takes_camera:
            self.camera_embedding = nn.Linear(RAY_DIM, config.dim, bias=False)
            nn.init.zeros_(self.camera_embedding.weight)  # without training it changes nothing
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor, Tensor]] = {}

    # -- plain (Cosmos) sequences ---------------------------------------------------------------

    def forward(
        self,
        tokens: Tensor,
        cache: KVCache | None = None,
        context: _Pairs | None = None,
        rays: Tensor | None = None,
    ) -> Tensor:
        """tokens [B, S] -> logits [B, S, vocab].

        With a cache the tokens continue it; without one they start at position 0. `context` comes
        from `context_keys_values`, and rays [B, S, 6], of what each position predicts, from
        `models/conditioning/camera.py`.
        """
        if (rays is not None) != self.config.takes_camera:
            wanted = "camera rays [B, S, 6]" if self.config.takes_camera else "no camera rays"
            raise ValueError(f"this model takes {wanted}, got {'none' if rays is None else 'some'}")
        start = 0 if cache is None else cache.length
        count = tokens.shape[1]
        cos, sin, absolute = self._position_tables(tokens.device)
        if start + count > cos.shape[0]:
            raise ValueError(
                f"positions {start}..{start + count - 1} are outside the trained range of "
                f"{cos.shape[0]} (latent_shape {self.config.latent_shape}); start a new window"
            )
        index = slice(start, start + count)
        h = self.tok_embeddings(tokens)
        if rays is not None:
            h = h + self.camera_embedding(rays.to(h))
        added = absolute[index].to(h.dtype) if self.config.apply_abs_pos_emb else None
        attend: Attend = attend_causally
        if cache is not None:
            slots = range(len(tokens))
            attend = cache.attend([CacheRows.continuing(b, start, count, h.device) for b in slots])
            cache.length = start + count
        hidden = self.hidden(h, cos[index], sin[index], attend, context=context, absolute=added)
        return self.output(hidden)

    def hidden(
        self,
        h: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Attend,
        *,
        context: _Pairs | None = None,
        absolute: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return the last hidden states [..., S, dim] of inputs h [..., S, dim].

        The one loop over the layers; `Block.forward` says what the arguments are. absolute [S, dim]
        or [..., S, dim] is added before every layer.
        """
        for i, block in enumerate(self.layers):
            if absolute is not None:
                h = h + absolute
            pair = None if context is None else context[i]
            h = block(h, cos, sin, partial(attend, i), pair, condition)
        normed: Tensor = self.norm(h)
        return normed

    def context_keys_values(self, context: Tensor) -> list[tuple[Tensor, Tensor]]:
        """context [B, M, context_dim] -> keys and values per layer, computed once per session."""
        pairs = []
        for block in self.layers:
            assert isinstance(block, Block) and block.cross_attention is not None
            pairs.append(block.cross_attention.keys_values(context))
        return pairs

    def action_keys_values(self, action: Tensor) -> list[tuple[Tensor, Tensor]]:
        """The published action recipe: action [B, condition_dim] -> a context for `forward`.

        The embedded action, repeated condition_dim times, stands where a text would (Cosmos 1.0,
        `cosmos_action_control`).
        """
        if self.config.conditioning != "cross_attention":
            raise ValueError(
                "actions as context need conditioning 'cross_attention', "
                f"this model has {self.config.conditioning!r}"
            )
        context = self.condition(action)[:, None].expand(-1, self.config.condition_dim, -1)
        return self.context_keys_values(context)

    def _position_tables(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.norm.weight.dtype
        key = (device, dtype)
        if key not in self._tables:
            angles = rotary_table(self.config).to(device)
            absolute = torch.empty(0, device=device)
            if self.config.apply_abs_pos_emb:
                absolute = absolute_table(self.config).to(device, dtype)
            self._tables[key] = (angles.cos().to(dtype), angles.sin().to(dtype), absolute)
        return self._tables[key]

    # -- token grids ----------------------------------------------------------------------------

    def clip_features(
        self, codes: Tensor, condition: Tensor, seen: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """Teacher-forced features of a clip, from which `output` predicts its codes.

        codes [B, T, H, W]; condition [B, T, condition_dim], where condition[:, t] is what leads to
        latent t. `seen` is how the codes appear to later latents, in case these should see them as
        the model may have sampled them; `first` is the absolute position of the first latent.
        Returns [B, T, H, W, dim]; a latent without a predecessor is predicted from nothing.
        """
        if seen is None:
            seen = codes
        grid = self.config.grid
        assert grid is not None, "this model has no token grid"
        batch, frames, height, width = codes.shape
        hidden = self.condition(condition)  # [B, T, C]
        x = self.grid_input(
            codes.flatten(0, 1),
            previous_latents(seen, grid.previous_latents).flatten(0, 1),
            hidden.flatten(0, 1),
        ).view(batch, frames, height * width, -1)
        cos, sin = self.grid_rotation(first, frames, x)
        window = ClipWindow(frames, height, width, grid, codes.device)
        features = self.hidden(x, cos, sin, window.attend, condition=hidden[:, :, None])
        return features.view(batch, frames, height, width, -1)

    def active_features(
        self, digits: Tensor, active: Tensor, guide: Tensor, previous: Tensor, condition: Tensor
    ) -> tuple[Tensor, ActiveLayout]:
        """Return teacher-forced features of the active blocks, from which `output` predicts them.

        digits int [B, H, W, D]; active bool [B, H, W]; guide float [B, H, W, guide_dim]; previous
        int [B, H, W, D], the digits of the latent before, -1 where it has none; condition
        [B, condition_dim]. Returns [B, N, dim] and which block each row is.
        """
        inputs, grid = self.guided_input, self.config.grid
        assert grid is not None and grid.guide_dim, "this model has no guide"
        order = draw_order(active)
        layout = ActiveLayout.of(order)
        batches = torch.arange(len(digits), device=digits.device)[:, None]
        places, known = (part[batches, layout.slots] for part in known_neighbours(order))
        near = neighbour_digits(digits.flatten(1, 2), places, known)
        x = inputs.base(guide, previous, layout.slots) + inputs.drawn(near)
        x = torch.cat([inputs.summaries(guide), x], 1)
        cos, sin = self.active_rotation(layout.slots, x)
        mask = layout.mask(inputs.summary_count)

        def attend(_: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attend_to(q, k, v, mask)

        hidden = self.condition(condition)[:, None]
        features = self.hidden(x, cos, sin, attend, condition=hidden)
        return features[:, inputs.summary_count :], layout

    def active_rotation(self, slots: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return cos and sin [B, summary + N, head_dim / 2] of the summary and of slots [B, N].

        A part of the summary is at its middle block, one step before the latent.
        """
        grid, (_, height, width) = self.config.grid, self.config.latent_shape
        assert grid is not None
        down, across = height // grid.summary[0], width // grid.summary[1]
        h, w = torch.meshgrid(
            torch.arange(grid.summary[0], device=slots.device) * down + down // 2,
            torch.arange(grid.summary[1], device=slots.device) * across + across // 2,
            indexing="ij",
        )
        rows = torch.cat([h.flatten().expand(len(slots), -1), slots // width], 1)
        columns = torch.cat([w.flatten().expand(len(slots), -1), slots % width], 1)
        time = torch.ones_like(rows)
        time[:, : h.numel()] = 0
        angles = rotary_angles(self.config, time, rows, columns)
        return angles.cos().to(like), angles.sin().to(like)

    def grid_rotation(self, first: int, frames: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [frames, H*W, head_dim/2] of latents first..first+frames-1."""
        t, h, w = torch.meshgrid(
            torch.arange(first, first + frames),
            torch.arange(self.config.latent_shape[1]),
            torch.arange(self.config.latent_shape[2]),
            indexing="ij",
        )
        angles = rotary_angles(self.config, t.flatten(1), h.flatten(1), w.flatten(1))
        return angles.cos().to(like), angles.sin().to(like)


def previous_latents(codes: Tensor, history: int) -> Tensor:
    """codes [B, T, H, W] -> [B, T, history, H, W]: the latents before each one, newest first.

    Where there is none, -1.
    """
    frames = codes.shape[1]
    padded = F.pad(codes, (0, 0, 0, 0, history, 0), value=-1)
    shifted = (padded[:, history - n : history - n + frames] for n in range(1, history + 1))
    return torch.stack(list(shifted), 2)
