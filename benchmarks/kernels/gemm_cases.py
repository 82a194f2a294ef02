"""The matrix products of a forward pass: `skinny_gemm` and `medusa_heads` beside cuBLAS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.benchmarks.kernels.case import (
    NORM_EPS,
    Case,
    Maker,
    Operands,
    Sizes,
    error_floor,
    type_name,
)
from worldbridge.kernels.medusa_heads import medusa_heads, medusa_workspace, reference_medusa_heads
from worldbridge.kernels.quantize import dequantize_rows, quantize_rows
from worldbridge.kernels.skinny_gemm import (
    QUANTIZED,
    Epilogue,
    Workspace,
    config_for,
    reference_skinny_gemm,
    skinny_gemm,
)

__all__ = ["gemm_cases", "medusa_cases"]


@dataclass(frozen=True, slots=True)
class _Product:
    """One matrix of a layer, with the operations fused into its product."""

    name: str
    n: int
    k: int
    norm: bool
    epilogue: Epilogue


def _products(sizes: Sizes) -> tuple[_Product, ...]:
    """Return the products. Norms are folded into the weights, but rows still have to be scaled."""
    query = sizes.heads * sizes.head_dim
    fused = query + 2 * sizes.kv_heads * sizes.head_dim
    return (
        _Product("qkv", fused, sizes.dim, norm=True, epilogue="none"),
        _Product("o", sizes.dim, query, norm=False, epilogue="residual"),
        _Product("gate_up", 2 * sizes.ffn, sizes.dim, norm=True, epilogue="swiglu"),
        _Product("down", sizes.dim, sizes.ffn, norm=False, epilogue="residual"),
        _Product("lm_head", sizes.vocabulary, sizes.dim, norm=True, epilogue="none"),
    )


def gemm_cases(
    maker: Maker, sizes: Sizes, dtype: torch.dtype, weights: Sequence[torch.dtype]
) -> Iterator[Case]:
    """Yield cases for each type in `weights`: `dtype` of the activations, or types of one byte."""
    for product in _products(sizes):
        for kind in weights:
            taken = _taken(kind, dtype)
            for rows in sizes.rows:
                outputs = product.n // 2 if product.epilogue == "swiglu" else product.n
                added = rows * product.n if product.epilogue == "residual" else 0
                moved = product.n * product.k * kind.itemsize
                moved += (rows * (product.k + outputs) + added) * taken.itemsize
                yield Case(
                    kernel="skinny_gemm",
                    what=product.name,
                    shape={"rows": rows, "n": product.n, "k": product.k},
                    weights=type_name(kind),
                    activations=type_name(taken),
                    bytes_moved=moved,
                    formula="n*k of the weight + rows*(k + outputs + residual) of activations",
                    make=partial(_gemm_operands, maker, product, rows, taken, kind),
                    floor=error_floor(taken),
                )


def _taken(kind: torch.dtype, dtype: torch.dtype) -> torch.dtype:
    """Return the decoder's type of activations for a type of weights.

    fp8 widens into float16 with one conversion, into bfloat16 with three.
    """
    return torch.float16 if kind == torch.float8_e4m3fn and dtype == torch.bfloat16 else dtype


def _gemm_operands(
    maker: Maker, product: _Product, rows: int, dtype: torch.dtype, kind: torch.dtype
) -> Operands:
    n, k = product.n, product.k
    x = maker.normal(rows, k, dtype=dtype)
    plain = maker.normal(n, k, dtype=dtype, scale=k**-0.5)
    residual = maker.normal(rows, n, dtype=dtype) if product.epilogue == "residual" else None
    weight, scale, plain = _stored(plain, kind)
    # a fused launch reads pairs, two launches read one half after the other
    apart = torch.cat([plain[0::2], plain[1::2]]) if product.epilogue == "swiglu" else plain
    eps = NORM_EPS if product.norm else None
    options: dict[str, Any] = {
        "scale": scale,
        "residual": residual,
        "epilogue": product.epilogue,
        "norm_eps": eps,
    }
    workspace = Workspace.allocate([(config_for(rows, kind), n, k)], maker.device)
    out = x.new_empty(rows, n // 2 if product.epilogue == "swiglu" else n)
    fused = partial(_linear, x, apart, residual, product.epilogue, eps)
    return Operands(
        ours=partial(skinny_gemm, x, weight, **options, out=out, workspace=workspace),
        baselines={
            f"torch, {_baseline_name(product)}": fused,
            "F.linear alone": partial(F.linear, x, apart),
        },
        reference=partial(reference_skinny_gemm, x, weight, **options, dtype=torch.float64),
    )


def _stored(plain: Tensor, kind: torch.dtype) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return a weight as stored, its scales, and the same weight in the activations' type.

    torch does not multiply weights of one byte with wider activations, so its baseline reads the
    widened weights, as a model without our kernels would.
    """
    if kind not in QUANTIZED:
        return plain, None, plain
    rows, scale = quantize_rows(plain, kind)
    return rows, scale, dequantize_rows(rows, scale).to(plain.dtype)


def _linear(
    x: Tensor, weight: Tensor, residual: Tensor | None, epilogue: Epilogue, eps: float | None
) -> Tensor:
    """Compute the same product with torch's own operations."""
    if eps is not None:
        x = F.rms_norm(x, x.shape[-1:], eps=eps)
    y = F.linear(x, weight)
    if epilogue == "swiglu":
        gate, up = y.chunk(2, -1)
        return F.silu(gate) * up
    return y if residual is None else residual + y


def _baseline_name(product: _Product) -> str:
    parts = ["rms_norm"] if product.norm else []
    parts.append("F.linear")
    parts += {"swiglu": ["silu, mul"], "residual": ["add"]}.get(product.epilogue, [])
    return ", ".join(parts)


# --- Medusa heads --------------------------------------------------------------------------------


def medusa_cases(
    maker: Maker, sizes: Sizes, dtype: torch.dtype, weights: Sequence[torch.dtype]
) -> Iterator[Case]:
    """Yield cases with the logits of the network and of all heads."""
    count, dim, vocabulary = sizes.medusa, sizes.dim, sizes.vocabulary
    for kind in weights:
        taken = _taken(kind, dtype)
        for rows in sizes.medusa_rows:
            logits = rows * (count + 1) * vocabulary
            states = rows * (count + 1) * dim
            moved = (count * dim * dim + vocabulary * dim) * kind.itemsize
            moved += (rows * dim + 2 * states + logits) * taken.itemsize
            yield Case(
                kernel="medusa_heads",
                what=f"{count} heads",
                shape={"rows": rows, "heads": count, "dim": dim, "vocabulary": vocabulary},
                weights=type_name(kind),
                activations=type_name(taken),
                bytes_moved=moved,
                formula="heads*dim*dim + vocabulary*dim of the weights + inputs, states (written "
                "and read) and logits",
                make=partial(_medusa_operands, maker, sizes, rows, taken, kind),
                floor=2 * error_floor(taken),  # rounded twice: the states are stored
            )


def _medusa_operands(
    maker: Maker, sizes: Sizes, rows: int, dtype: torch.dtype, kind: torch.dtype
) -> Operands:
    count, dim, scale = sizes.medusa, sizes.dim, sizes.dim**-0.5
    x = maker.normal(rows, dim, dtype=dtype)
    heads = _stored(maker.normal(count * dim, dim, dtype=dtype, scale=scale), kind)
    unembedding = _stored(maker.normal(sizes.vocabulary, dim, dtype=dtype, scale=scale), kind)
    scales: dict[str, Any] = {"head_scale": heads[1], "unembedding_scale": unembedding[1]}
    buffers: dict[str, Any] = {
        "hidden": x.new_empty(rows, count + 1, dim),
        "out": x.new_empty(rows, count + 1, sizes.vocabulary),
        "workspace": medusa_workspace(rows, heads[0], unembedding[0]),
    }
    return Operands(
        ours=partial(medusa_heads, x, heads[0], unembedding[0], **scales, **buffers),
        baselines={"torch, 2 F.linear, silu, add": partial(_medusa, x, heads[2], unembedding[2])},
        reference=partial(
            reference_medusa_heads, x, heads[0], unembedding[0], **scales, dtype=torch.float64
        ),
    )


def _medusa(x: Tensor, heads: Tensor, unembedding: Tensor) -> Tensor:
    """Compute all heads, then all logits, with one product each, as the model does."""
    states = F.silu(F.linear(x, heads).view(len(x), -1, x.shape[1])) + x[:, None]
    return F.linear(torch.cat([x[:, None], states], dim=1), unembedding)
