"""What the transformer of a world with a spatial memory receives, and its sizes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.guided.config import GUIDE_CHANNELS
from worldbridge.models.procedural.actions import PITCH_LIMIT_DEG, TRAINED_ACTIONS
from worldbridge.models.procedural.plain import PLAIN_THEMES
from worldbridge.models.transformer import TransformerConfig, VideoTransformer, WavefrontConfig
from worldbridge.models.transformer.active import draw_order

__all__ = [
    "GUIDED_CONDITION_DIM",
    "GUIDED_TRANSFORMER",
    "block_guide",
    "draw_active",
    "guided_condition",
]

_CELL = 4  # pixels of a guide that are averaged
GUIDED_CONDITION_DIM = len(TRAINED_ACTIONS) + 1 + len(PLAIN_THEMES)

GUIDED_TRANSFORMER = TransformerConfig(
    dim=192,
    n_layers=4,
    n_heads=3,
    n_kv_heads=1,
    head_dim=64,
    ffn_hidden_size=576,
    vocab_size=8**12,
    latent_shape=(1, 20, 32),
    rope_theta=100.0,
    conditioning="modulation",
    condition_dim=GUIDED_CONDITION_DIM,
    grid=WavefrontConfig(
        fsq_levels=(8,) * 12,
        previous_latents=1,
        window_frames=1,
        guide_dim=GUIDE_CHANNELS * (16 // _CELL) ** 2,
    ),
)


def block_guide(guide: Tensor) -> Tensor:
    """Return the guide by blocks, float [B, H / 16, W / 16, guide_dim].

    guide float [B, 6, H, W], as `make_guide` gives it. A block has 4 x 4 averages of each channel.
    """
    cells = F.avg_pool2d(guide, _CELL)
    return F.pixel_unshuffle(cells, 16 // _CELL).movedim(1, -1)


def guided_condition(actions: Tensor, pitch: Tensor, place: str) -> Tensor:
    """Return conditions [..., GUIDED_CONDITION_DIM].

    actions [..., axes] in [-1, 1], of which the trained ones are taken; pitch [...] in radians;
    place is one of PLAIN_THEMES, and a locality is also its theme.

    Raises ValueError for an unknown place.
    """
    places = torch.zeros(*actions.shape[:-1], len(PLAIN_THEMES))
    for name in {place, place.split("/")[0]}:
        if name not in PLAIN_THEMES:
            raise ValueError(f"expected a place among {', '.join(PLAIN_THEMES)}; got {place!r}")
        places[..., PLAIN_THEMES.index(name)] = 1.0
    gaze = (pitch / math.radians(PITCH_LIMIT_DEG))[..., None]
    return torch.cat([actions[..., : len(TRAINED_ACTIONS)].float(), gaze.float(), places], -1)


@torch.no_grad()
def draw_active(
    model: VideoTransformer,
    active: Tensor,
    guide: Tensor,
    previous: Tensor,
    condition: Tensor,
    generator: torch.Generator,
    temperature: float = 1.0,
) -> Tensor:
    """Return drawn digits int64 [H, W, D] of one latent, -1 where a block is not active.

    The plain way, with a whole forward a step, for training; arguments as in `ActiveDecoder`.
    """
    levels = model.output.levels
    assert isinstance(levels, tuple)
    digits = torch.full((*active.shape, len(levels)), -1)
    order = draw_order(active[None])
    flat = digits.flatten(0, 1)
    for step in range(int(order.max()) + 1):
        features, layout = model.active_features(
            digits.clamp_min(0)[None], active[None], guide[None], previous[None], condition[None]
        )
        rows = layout.step[0] == step
        codes = model.output.draw(features[0, rows], generator, temperature)  # type: ignore[operator]
        for d, level in enumerate(levels):
            flat[layout.slots[0, rows], d] = codes % level
            codes = codes // level
    return digits
