"""What a raster decoder can be asked for, and what callers may get wrong."""

from __future__ import annotations

from worldbridge.models.transformer import MedusaHeads, TransformerConfig

__all__ = [
    "DEFAULT_DIAGONAL",
    "DEFAULT_WIDTH",
    "RASTER_MODES",
    "SLIDES",
    "check_heads",
    "check_options",
    "is_exact",
]

RASTER_MODES = ("sequential", "jacobi", "medusa", "diagonal")
SLIDES = ("reprefill", "rotate")
DEFAULT_DIAGONAL = 2  # as others use with models of this kind
DEFAULT_WIDTH = 16  # tokens that a forward of mode `jacobi` feeds, as the decoders have it


def is_exact(mode: str, config: TransformerConfig) -> bool:
    """Whether a mode draws the tokens of sequential decoding from such a model.

    Diagonals are exact where the model was trained with their mask, which those with a token grid
    were. From others `diagonal` draws something else, because a token no longer sees all before it.
    """
    return mode != "diagonal" or config.grid is not None


def check_heads(
    config: TransformerConfig, mode: str, heads: MedusaHeads | None
) -> MedusaHeads | None:
    """The heads that the mode makes use of. Raises ValueError."""
    if heads is None and mode == "medusa":
        raise ValueError("mode 'medusa' needs the model's heads, got none; use mode 'jacobi'")
    if heads is not None and heads.dim != config.dim:
        raise ValueError(f"expected heads for a model {config.dim} wide, got {heads.dim}")
    return heads if mode in ("jacobi", "medusa") else None


def check_options(
    config: TransformerConfig, mode: str, slide: str, most: int, keep: int, least_rows: int
) -> None:
    """Raises ValueError."""
    if config.grid is not None:
        raise ValueError("this model has a token grid; decode it with GridDecoder")
    if config.conditioning == "modulation":
        raise ValueError("a model without token grid has no conditioning 'modulation'")
    if mode not in RASTER_MODES:
        raise ValueError(f"unknown decode mode {mode!r}; expected one of {RASTER_MODES}")
    if slide not in SLIDES:
        raise ValueError(f"unknown slide {slide!r}; expected one of {SLIDES}")
    if slide == "rotate" and config.apply_abs_pos_emb:
        raise ValueError(
            "slide 'rotate' cannot move absolute position embeddings, which this model adds to "
            "every layer; use slide 'reprefill'"
        )
    if slide == "rotate" and config.takes_camera:
        raise ValueError(
            "slide 'rotate' cannot move cameras, which are relative to a window's first latent; "
            "use slide 'reprefill'"
        )
    if not 2 <= most <= config.latent_shape[0]:
        raise ValueError(
            f"max_latents must be in 2..{config.latent_shape[0]}, the trained range, got {most}"
        )
    if not 1 <= keep < most:
        raise ValueError(f"keep must be in 1..{most - 1}, below max_latents, got {keep}")
    if least_rows < 1:
        raise ValueError("width and padding must be at least 1")
