"""Configuration of the video transformer.

The published Cosmos sizes and the embedded world differ only in the values of these fields.
Sources of the published values: cosmos-predict1, `configs/base/model_config.py`, and the paper
arXiv 2501.03575.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar, get_args

__all__ = ["COSMOS", "WavefrontConfig", "TransformerConfig", "Yarn", "cosmos_4b_320p"]

_T = TypeVar("_T")
Conditioning = Literal["none", "cross_attention", "modulation"]
Camera = Literal["none", "pluecker"]


@dataclass(frozen=True, slots=True)
class Yarn:
    """Frequency interpolation as published for 12B and 13B (scales time *and* space)."""

    scale: float = 2.0
    beta_fast: float = 4.0
    beta_slow: float = 1.0
    original_latent_shape: tuple[int, int, int] = (3, 40, 64)


@dataclass(frozen=True, slots=True)
class WavefrontConfig:
    """How a world that was trained for parallel decoding feeds its token grid.

    A row of the latent starts from a learned token of its own, so row r+1 can start as soon as row
    r has `diagonal` tokens. A position also sees, in its input, the token above it and a
    neighbourhood of the previous latents, which makes motion a local operation.
    """

    diagonal: int = 1  # k: row r+1 starts when row r has k tokens
    fsq_levels: tuple[int, ...] = (8, 8, 8, 8, 8, 8)
    head_hidden: int = 128  # width in which the digits of a code are predicted
    window_frames: int = 4  # attention reaches this many latents back, the current one included
    previous_latents: int = 2  # how many earlier latents the neighbourhood covers
    previous_kernel: tuple[int, int] = (3, 5)  # rows, columns
    # Values a block of the guide; 0: no guide, else codes are drawn for active blocks alone.
    guide_dim: int = 0
    # A block also sees `guide_far_dim` features of each block of the guide at most this far away.
    guide_reach: int = 3
    guide_far_dim: int = 24
    summary: tuple[int, int] = (5, 8)  # parts of the guide that every block sees, rows x columns

    def __post_init__(self) -> None:
        if self.diagonal < 1:
            raise ValueError(f"diagonal must be at least 1, got {self.diagonal}")
        if self.window_frames < 1 or self.previous_latents < 1:
            raise ValueError(
                "window_frames and previous_latents must be at least 1, got "
                f"{self.window_frames} and {self.previous_latents}"
            )
        if any(size % 2 == 0 for size in self.previous_kernel):
            raise ValueError(f"previous_kernel must be odd, got {self.previous_kernel}")


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shapes and options of `VideoTransformer`."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn_hidden_size: int
    vocab_size: int
    latent_shape: tuple[int, int, int]  # T, H, W of the trained positions
    input_vocab_rows: int | None = None  # None: as many as vocab_size
    norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    yarn: Yarn | None = None
    apply_abs_pos_emb: bool = False
    begin_of_video_token: int | None = None
    context_dim: int | None = None  # not None: cross-attention in every layer
    conditioning: Conditioning = "none"
    condition_dim: int = 0  # width of the per-latent condition vector (action, pose, theme)
    condition_hidden: int = 128
    camera: Camera = "none"  # "pluecker": a ray per token, see `models/conditioning/camera.py`
    grid: WavefrontConfig | None = None

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"n_heads ({self.n_heads}) must be a multiple of n_kv_heads ({self.n_kv_heads})"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim must be even for rotary positions, got {self.head_dim}")
        if self.conditioning != "none" and self.condition_dim < 1:
            raise ValueError(
                f"conditioning {self.conditioning!r} needs condition_dim >= 1, "
                f"got {self.condition_dim}"
            )
        if self.conditioning == "cross_attention" and self.context_dim is None:
            raise ValueError("conditioning 'cross_attention' needs a context_dim, got None")
        if self.camera not in get_args(Camera):
            raise ValueError(f"unknown camera {self.camera!r}; expected one of {get_args(Camera)}")
        if self.camera != "none" and self.grid is not None:
            raise ValueError(f"a model with a token grid takes no camera, got {self.camera!r}")
        if self.grid is not None and self.grid.guide_dim:
            (_, height, width), (rows, columns) = self.latent_shape, self.grid.summary
            if height % rows or width % columns:
                raise ValueError(
                    f"the summary of a guide ({rows} x {columns}) must divide the latent "
                    f"({height} x {width})"
                )
        if self.grid is not None and _product(self.grid.fsq_levels) != self.vocab_size:
            raise ValueError(
                f"FSQ levels {self.grid.fsq_levels} make {_product(self.grid.fsq_levels)} codes, "
                f"but vocab_size is {self.vocab_size}"
            )

    @property
    def takes_actions(self) -> bool:
        """One action vector [condition_dim] per latent."""
        return self.conditioning != "none"

    @property
    def takes_text(self) -> bool:
        """One context [m, context_dim] per stream; actions as context take its place."""
        return self.context_dim is not None and self.conditioning != "cross_attention"

    @property
    def takes_camera(self) -> bool:
        """One camera pose per latent."""
        return self.camera != "none"

    @property
    def embedding_rows(self) -> int:
        return self.vocab_size if self.input_vocab_rows is None else self.input_vocab_rows

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of `to_dict` (also after a JSON round trip). An unknown key is an error."""
        values = dict(data)
        if values.get("grid") is not None:
            values["grid"] = _build(WavefrontConfig, values["grid"])
        if values.get("yarn") is not None:
            values["yarn"] = _build(Yarn, values["yarn"])
        return _build(cls, values)


def _build(kind: type[_T], data: dict[str, Any]) -> _T:
    known = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"unknown keys for {kind.__name__}: {unknown}; known: {sorted(known)}")
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in data.items()})


def _product(values: tuple[int, ...]) -> int:
    result = 1
    for value in values:
        result *= value
    return result


def _cosmos(dim: int, n_layers: int, *, text: bool, yarn: bool) -> TransformerConfig:
    return TransformerConfig(
        dim=dim,
        n_layers=n_layers,
        n_heads=32,
        n_kv_heads=8,
        head_dim=128,
        ffn_hidden_size=14336,
        vocab_size=64000,
        input_vocab_rows=64064 if text else 64000,
        latent_shape=(5, 40, 64),
        yarn=Yarn() if yarn else None,
        apply_abs_pos_emb=text,
        begin_of_video_token=64000 if text else None,
        context_dim=1024 if text else None,
    )


COSMOS: dict[str, TransformerConfig] = {
    "cosmos-4b": _cosmos(4096, 16, text=False, yarn=False),
    "cosmos-5b-video2world": _cosmos(4096, 16, text=True, yarn=False),
    "cosmos-12b": _cosmos(5120, 40, text=False, yarn=True),
    "cosmos-13b-video2world": _cosmos(5120, 40, text=True, yarn=True),
}


def cosmos_4b_320p() -> TransformerConfig:
    """The 4B at 320x512: 20 x 32 tokens a latent with the 16x spatial tokenizer."""
    return dataclasses.replace(COSMOS["cosmos-4b"], latent_shape=(5, 20, 32))
