"""How much of its past a converted world is drawn from, as its world.json says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding.options import DecodeOptions

__all__ = ["Window", "window_of"]


@dataclass(frozen=True, slots=True)
class Window:
    """`latents` at most, the one being drawn included; a full window slides to its newest `keep`,
    whose keys are computed again ("reprefill") or turned back in time ("rotate")."""

    latents: int
    keep: int
    slide: str


def window_of(manifest: dict[str, Any], config: TransformerConfig) -> Window:
    """From `window` in a world.json; without it all latents that the model was trained on, and half
    of them after a slide. Raises ValueError."""
    told = manifest.get("window", {})
    if not isinstance(told, dict) or set(told) - {"latents", "keep", "slide"}:
        raise ValueError(f"expected a window of latents, keep and slide, got {told!r}")
    latents = told.get("latents", config.latent_shape[0])
    if not isinstance(latents, int):
        raise ValueError(f"expected a whole number of latents, got {latents!r}")
    keep, slide = told.get("keep", max(1, latents // 2)), told.get("slide", "reprefill")
    if not isinstance(keep, int):
        raise ValueError(f"expected to keep a whole number of latents, got {keep!r}")
    DecodeOptions("sequential", latents, keep, slide).resolve(config)
    return Window(latents, keep, slide)
