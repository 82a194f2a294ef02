"""A `VideoTransformer` without token grid, packed for the decode kernels.

What reads its input through an RMS norm takes over the norm's weight (`fold_norm`); queries, keys
and values are one matrix, and so are gate and up, row by row in turn (`interleave_rows`). The
unembedding keeps the last norm apart: heads that draft tokens need the normed state itself, and a
second, folded copy of the largest matrix would cost more than one launch per step.

Precisions:

- "model": matrices in the model's own type; those that need no packing are the model's own memory.
- "int8": rows of int8 with a scale each (`quantize_rows`), under activations of the model's type.
- "fp8": rows of float8 e4m3 with a scale each, under float16 activations, into which such weights
  widen with one conversion (bfloat16 needs three). A residual stream may not fit into float16, so
  it is float32 then and is normalised before it is rounded.

Both halve what a step reads against bfloat16. Neither samples the tokens of the model itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from worldbridge.kernels.medusa_heads import max_medusa_rows
from worldbridge.kernels.quantize import fold_norm, quantize_rows
from worldbridge.kernels.skinny_gemm import MAX_ROWS, interleave_rows
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.models.transformer.layers import Block
from worldbridge.runtime.decoding.options import WeightDtype

__all__ = ["CrossWeights", "CudaWeights", "LayerWeights", "Matrix", "WeightDtype"]

# What decoders of one model share, such as those that follow each other while modes are measured:
# packing reads all weights and writes gigabytes. A value holds memory of its module, not the module
# itself, and goes with it.
_PACKED: WeakKeyDictionary[nn.Module, dict[tuple[str, torch.dtype], Any]] = WeakKeyDictionary()
_Packed = TypeVar("_Packed")
_QUANTISED = {"fp8": torch.float8_e4m3fn, "int8": torch.int8}


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight [n, k] as `skinny_gemm` takes it, with a scale [n] where its rows are quantised."""

    rows: Tensor
    scale: Tensor | None = None

    @classmethod
    def of(cls, weight: Tensor, precision: WeightDtype) -> Matrix:
        if precision == "model":
            return cls(weight.contiguous())
        return cls(*quantize_rows(weight, _QUANTISED[precision]))

    @property
    def bytes(self) -> int:
        scales = 0 if self.scale is None else self.scale.nbytes
        return self.rows.nbytes + scales


@dataclass(frozen=True, slots=True)
class CrossWeights:
    """Attention to a constant context. Its keys and values are made by the model itself."""

    query: Matrix  # [H * D, dim], under the norm before it
    query_norm: Tensor  # [D]
    out: Matrix  # [dim, H * D]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    qkv: Matrix  # [(H + 2 Hkv) * D, dim], under the norm before it
    query_norm: Tensor  # [D]
    key_norm: Tensor  # [D]
    out: Matrix  # [dim, H * D]
    gate_up: Matrix  # [2 * ffn, dim], under the norm before it, gate and up in turn
    down: Matrix  # [dim, ffn]
    cross: CrossWeights | None


@dataclass(frozen=True, slots=True)
class CudaWeights:
    """All that a decode step reads, except the context of cross-attention."""

    embedding: Tensor  # [rows, dim], the model's own
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # [dim], of the last norm
    output: Matrix  # [vocab, dim]
    heads: Matrix | None  # [heads * dim, dim]
    activations: torch.dtype  # what products take
    stream: torch.dtype  # of the residual stream

    @classmethod
    @torch.no_grad()
    def pack(
        cls, model: VideoTransformer, heads: MedusaHeads | None, precision: WeightDtype = "model"
    ) -> CudaWeights:
        """Return packed weights. What was packed before of these modules is shared."""
        own = model.norm.weight.dtype
        network = _once(model, precision, own, lambda: cls._of_network(model, precision))
        if heads is None:
            return network
        drafting = _once(
            heads, precision, own, lambda: Matrix.of(heads.weight.detach().to(own), precision)
        )
        return dataclasses.replace(network, heads=drafting)

    @classmethod
    def _of_network(cls, model: VideoTransformer, precision: WeightDtype) -> CudaWeights:
        own = model.norm.weight.dtype
        half = precision == "fp8"
        layers = tuple(_layer(cast(Block, block), precision) for block in model.layers)
        return cls(
            embedding=model.tok_embeddings.weight.detach(),
            layers=layers,
            norm=model.norm.weight.detach(),
            output=Matrix.of(_weight(model.output), precision),
            heads=None,
            activations=torch.float16 if half else own,
            stream=torch.float32 if half else own,
        )

    @property
    def count_of_heads(self) -> int:
        return 0 if self.heads is None else len(self.heads.rows) // len(self.norm)

    def bytes_read(self, sessions: int, rows: int) -> int:
        """What a step reads of them for so many sessions of so many rows: every matrix once for
        each `MAX_ROWS` rows. With heads, where these cannot draft behind all rows at once
        (`drafts_together`), they and the unembedding are read again for the drafts."""
        passes = -(-sessions * rows // MAX_ROWS)
        total = passes * sum(matrix.bytes for matrix in self._of_layers())
        if self.heads is None:
            return total + passes * self.output.bytes
        both = self.heads.bytes + self.output.bytes
        if self.drafts_together(sessions * rows):
            return total + both
        drafting = -(-sessions // max(1, max_medusa_rows(self.count_of_heads)))
        return total + passes * self.output.bytes + drafting * both

    def drafts_together(self, rows: int) -> bool:
        """Whether one pass over the unembedding makes the model's logits and all heads' for so
        many rows. Which of the rows draft is known only when the model's own have sampled."""
        return self.heads is not None and rows <= max_medusa_rows(self.count_of_heads)

    def _of_layers(self) -> list[Matrix]:
        matrices = []
        for layer in self.layers:
            matrices += [layer.qkv, layer.out, layer.gate_up, layer.down]
            if layer.cross is not None:
                matrices += [layer.cross.query, layer.cross.out]
        return matrices


def _layer(block: Block, precision: WeightDtype) -> LayerWeights:
    attention, ffn = block.attention, block.feed_forward
    qkv = torch.cat([_weight(part) for part in (attention.wq, attention.wk, attention.wv)])
    gate_up = interleave_rows(_weight(ffn.w1), _weight(ffn.w3))
    return LayerWeights(
        qkv=Matrix.of(fold_norm(qkv, _weight(block.attention_norm)), precision),
        query_norm=_weight(attention.q_norm),
        key_norm=_weight(attention.k_norm),
        out=Matrix.of(_weight(attention.wo), precision),
        gate_up=Matrix.of(fold_norm(gate_up, _weight(block.ffn_norm)), precision),
        down=Matrix.of(_weight(ffn.w2), precision),
        cross=_cross(block, precision),
    )


def _cross(block: Block, precision: WeightDtype) -> CrossWeights | None:
    if block.cross_attention is None:
        return None
    cross = block.cross_attention
    query = fold_norm(_weight(cross.wq), _weight(block.cross_attention_norm))
    return CrossWeights(
        query=Matrix.of(query, precision),
        query_norm=_weight(cross.q_norm),
        out=Matrix.of(_weight(cross.wo), precision),
    )


def _weight(module: nn.Module) -> Tensor:
    return cast(Tensor, module.weight).detach()


def _once(
    module: nn.Module, precision: WeightDtype, dtype: torch.dtype, make: Callable[[], _Packed]
) -> _Packed:
    """Return what `make` gives, now or earlier, for this module, precision and type."""
    kinds = _PACKED.setdefault(module, {})
    if (precision, dtype) not in kinds:
        kinds[precision, dtype] = make()
    packed: _Packed = kinds[precision, dtype]
    return packed
