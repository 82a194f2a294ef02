"""Packed weights: what is shared, what a step reads, and what one byte per weight costs."""

from __future__ import annotations

import copy
from unittest import mock

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.runtime.decoding.test_raster_decoder import build as plain_build
from tests.support.cuda_models import (
    ACTIONS,
    PLAIN,
    SAMPLING,
    SHORT,
    build,
    decode,
    heads_for,
    opened,
)
from tests.support.decoders import cuda_decoder, eager_decoder
from worldbridge.kernels.quantize import dequantize_rows
from worldbridge.models.transformer import MedusaHeads, TransformerConfig, VideoTransformer
from worldbridge.models.transformer.config import cosmos_4b_320p
from worldbridge.runtime.decoding.executors.cuda import layers as device_layers
from worldbridge.runtime.decoding.executors.cuda.step import CudaStep, StepShape
from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights, Matrix
from worldbridge.runtime.decoding.options import WeightDtype


def test_matrices_that_need_no_packing_are_the_models_own() -> None:
    model, heads = build(PLAIN), heads_for(PLAIN, 2)
    packed = CudaWeights.pack(model, heads)
    block = model.layers[0]
    assert packed.heads is not None and packed.count_of_heads == 2
    for mine, own in [
        (packed.embedding, model.tok_embeddings.weight),
        (packed.output.rows, model.output.weight),
        (packed.layers[0].out.rows, block.attention.wo.weight),
        (packed.layers[0].down.rows, block.feed_forward.w2.weight),
        (packed.heads.rows, heads.weight),
    ]:
        assert mine.data_ptr() == own.data_ptr()
    gamma = block.attention_norm.weight
    expected = torch.cat([block.attention.wq.weight, block.attention.wk.weight]) * gamma
    assert torch.equal(packed.layers[0].qkv.rows[: len(expected)], expected)


@pytest.mark.parametrize(
    ("precision", "heads", "gigabytes"),
    [("model", 0, 7.504), ("model", 9, 7.806), ("fp8", 0, 3.755), ("int8", 9, 3.907)],
)
def test_a_step_of_the_4b_reads_what_arithmetic_says(
    precision: WeightDtype, heads: int, gigabytes: float
) -> None:
    with torch.device("meta"):
        model = VideoTransformer(cosmos_4b_320p()).bfloat16()
        guessing = MedusaHeads(4096, heads).bfloat16() if heads else None
        packed = CudaWeights.pack(model, guessing, precision)
    read = packed.bytes_read(1, packed.count_of_heads + 1)
    assert read / 1e9 == pytest.approx(gigabytes, abs=0.002)


@pytest.mark.parametrize(
    ("heads", "sessions", "rows", "gigabytes"),
    [
        (0, 8, 20, 7.504),  # a diagonal
        (0, 12, 20, 7.504),
        (0, 13, 20, 2 * 7.504),  # 260 rows
        (9, 2, 10, 7.806),  # guesses behind all of 20 rows: 200
        (9, 3, 10, 8.330),  # behind 3 of 30, which are known only then
        (9, 1, 16, 7.806),
        (9, 2, 16, 8.330),
        (9, 26, 10, 2 * 7.504 + 2 * (0.302 + 0.524)),
    ],
)
def test_what_is_read_depends_on_the_number_of_rows(
    heads: int, sessions: int, rows: int, gigabytes: float
) -> None:
    with torch.device("meta"):
        model = VideoTransformer(cosmos_4b_320p()).bfloat16()
        packed = CudaWeights.pack(model, MedusaHeads(4096, heads).bfloat16() if heads else None)
    assert packed.bytes_read(sessions, rows) / 1e9 == pytest.approx(gigabytes, abs=0.003)


def dequantized(model: VideoTransformer, weights: CudaWeights) -> VideoTransformer:
    """A copy of a model whose norms are all 1, with the weights that the rows stand for."""
    model = copy.deepcopy(model)

    def whole(matrix: Matrix) -> Tensor:
        assert matrix.scale is not None
        return dequantize_rows(matrix.rows, matrix.scale)

    model.output.weight.copy_(whole(weights.output))
    for block, layer in zip(model.layers, weights.layers, strict=True):
        attention, ffn = block.attention, block.feed_forward
        sizes = [len(part.weight) for part in (attention.wq, attention.wk, attention.wv)]
        parts = whole(layer.qkv).split(sizes)
        for linear, part in zip((attention.wq, attention.wk, attention.wv), parts, strict=True):
            linear.weight.copy_(part)
        attention.wo.weight.copy_(whole(layer.out))
        ffn.w1.weight.copy_(whole(layer.gate_up)[0::2])
        ffn.w3.weight.copy_(whole(layer.gate_up)[1::2])
        ffn.w2.weight.copy_(whole(layer.down))
        if layer.cross is not None:
            block.cross_attention.wq.weight.copy_(whole(layer.cross.query))
            block.cross_attention.wo.weight.copy_(whole(layer.cross.out))
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("config", [SHORT, ACTIONS], ids=["plain", "actions"])
@pytest.mark.parametrize(("precision", "allowed"), [("int8", 1e-4), ("fp8", 2e-3)])
def test_logits_are_those_of_the_weights_that_bytes_stand_for(
    config: TransformerConfig, precision: WeightDtype, allowed: float
) -> None:
    """Up to float16's rounding under fp8. Then a latent is drawn, with heads of bytes too."""
    model = plain_build(config)  # norms of 1: what is folded stays what it is
    heads = heads_for(config, 2)
    device = cuda_decoder(
        model, 1, SAMPLING, "medusa", heads=heads, weight_dtype=precision, split=32
    )
    session = opened(device, 1)
    reference = eager_decoder(dequantized(model, device.executor.weights), 1, SAMPLING)
    twin = opened(reference, 1)
    for own, rings in (
        (reference.cache.keys, device.cache.keys),
        (reference.cache.values, device.cache.values),
    ):
        own[..., : rings.shape[3], :] = rings[..., : own.shape[3], :]  # past latents are exact
    line = torch.cat([session.window[-1].flatten()[-1:], session.window[-1].flatten()[:2]])
    with torch.inference_mode():
        batch = device.executor.begin([session], [told(config)], None)
        device.executor.write_state(batch)
        if config.takes_camera:
            twin.view = session.view
        device.executor.steps.run(1)
    mine = device.executor.step.own_logits(1)[0]
    expected = reference.executor.logits([twin], line[None], [0], told(config))[0]
    exact = device.executor.logits([session], line[None], [0], told(config))[0]
    scale = exact.std()
    assert float((mine - expected).abs().max() / scale) <= allowed * 10
    assert float((mine - expected).square().mean().sqrt() / scale) <= allowed
    lost = float((mine - exact).square().mean().sqrt() / scale)
    assert (0.03 if precision == "int8" else 0.3) > lost > 2 * allowed
    codes = decode(device, [session])
    assert int(codes.min()) >= 0 and int(codes.max()) < config.vocab_size


def told(config: TransformerConfig) -> Tensor | None:
    return torch.arange(4.0) if config.takes_actions else None


@pytest.mark.usefixtures("interpreter")
def test_more_rows_than_a_product_takes_are_taken_in_parts() -> None:
    weights = CudaWeights.pack(build(SHORT), None)
    rings = torch.zeros(2, 9, 2, 34, 16)
    shape = StepShape(sessions=9, rows=30, width=30, size=6, follow=False)
    step = CudaStep(SHORT, weights, rings, rings.clone(), SAMPLING, shape)
    x = torch.randn(270, 48)
    out, stream = torch.full((270, 128), torch.nan), torch.randn(270, 48)
    torch.testing.assert_close(
        step._product(x, weights.layers[0].qkv, out), x @ weights.layers[0].qkv.rows.T
    )
    expected = stream + out[:, :64] @ weights.layers[0].out.rows.T
    step._add_product(out[:, :64], weights.layers[0].out, stream)
    torch.testing.assert_close(stream, expected)
    with mock.patch.object(device_layers, "skinny_gemm") as product:
        step._product(x, weights.layers[0].qkv, out)
    assert [len(call.args[0]) for call in product.call_args_list] == [135, 135]
