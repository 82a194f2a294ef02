"""QK norm, rotation and KV write against the float64 reference and the model's own code."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import rope
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.kernels.rope import reference_rope_write, rope_write
from worldbridge.models.transformer import TransformerConfig
from worldbridge.models.transformer.config import cosmos_4b_320p
from worldbridge.models.transformer.layers import Attention
from worldbridge.models.transformer.positions import rotary_table

interpreted = pytest.mark.usefixtures("interpreter")


def tables(rows: int, half: int) -> tuple[Tensor, Tensor]:
    angles = torch.rand(rows, half) * 6.3
    return angles.cos(), angles.sin()


def compare(given: tuple[Tensor, ...], keys: Tensor, values: Tensor, **places: Any) -> None:
    """Run both and compare everything that may have been written; NaN stays where nothing was."""
    expected = reference_rope_write(*given, keys, values, **places)
    size = keys.shape[-1]
    heads = given[0].shape[2] // size - 2 * keys.shape[1]
    out = torch.full((*given[0].shape[:2], heads, size), torch.nan)
    assert rope_write(*given, keys, values, **places, out=out) is out
    for found, wanted in zip((out, keys, values), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=3e-6, equal_nan=True)


@interpreted
@pytest.mark.parametrize("seed", range(8))
def test_matches_the_reference_for_random_shapes_strides_and_places(seed: int) -> None:
    choose = random.Random(seed)
    torch.manual_seed(seed)
    batch, tokens, kv_heads = choose.randint(1, 3), choose.randint(1, 5), choose.randint(1, 5)
    heads, size = kv_heads * choose.randint(1, 3), choose.choice([8, 12, 20, 32])
    ring, capacity = choose.randint(tokens, 30), batch + choose.randint(0, 2)
    wide = torch.randn(batch, tokens, (heads + 2 * kv_heads) * size + 5)
    given = (wide[..., 5:], torch.randn(size), torch.randn(size), *tables(50, size // 2))
    if choose.random() < 0.5:  # entries outside of heads
        keys = torch.full((2, capacity, ring, kv_heads, size), torch.nan).transpose(2, 3)
    else:
        keys = torch.full((2, capacity, kv_heads, ring, size), torch.nan)
    slots = torch.randperm(capacity)[:batch] if choose.random() < 0.5 else None
    if choose.random() < 0.5:
        # idle, young, at the end of the tables, long wrapped
        starts = [choose.choice([-1, 0, 48, 10**12]) for _ in range(batch)]
        compare(given, *keys, positions=torch.tensor(starts), slots=slots)
    else:
        entries = torch.stack([torch.randperm(ring)[:tokens] for _ in range(batch)])
        entries[0, 0] = -1
        rows = torch.randint(0, 50, (batch, tokens))
        compare(given, *keys, entries=entries, rows=rows, slots=slots)


@interpreted
def test_does_what_the_model_does() -> None:
    torch.manual_seed(0)
    config = TransformerConfig(
        dim=24,
        n_layers=1,
        n_heads=4,
        n_kv_heads=2,
        head_dim=36,
        ffn_hidden_size=8,
        vocab_size=8,
        latent_shape=(3, 4, 5),
    )
    layer, angles = Attention(config).double(), rotary_table(config)
    for norm in (layer.q_norm, layer.k_norm):
        torch.nn.init.normal_(norm.weight)
    x, first, count = torch.randn(2, 6, 24).double(), 13, 6
    turn = angles[first : first + count]
    q, k, v = layer.qkv(x, turn.cos(), turn.sin())
    qkv = torch.cat([part(x) for part in (layer.wq, layer.wk, layer.wv)], dim=-1).float()
    keys, values = torch.zeros(2, 2, 2, 17, 36)
    out = rope_write(
        qkv.detach(),
        layer.q_norm.weight.detach().float(),
        layer.k_norm.weight.detach().float(),
        angles.cos().float(),
        angles.sin().float(),
        keys,
        values,
        torch.tensor([first] * 2),
        eps=config.norm_eps,
    )
    entries = [(first + t) % 17 for t in range(count)]
    written = (out.transpose(1, 2), keys[:, :, entries], values[:, :, entries])
    for found, wanted in zip(written, (q, k, v), strict=True):
        torch.testing.assert_close(found.double(), wanted.detach(), rtol=0, atol=3e-6)
    rest = [s for s in range(17) if s not in entries]
    assert not keys[:, :, rest].any() and not values[:, :, rest].any()


@interpreted
def test_neighbours_change_nothing_and_a_rejected_draft_is_overwritten() -> None:
    torch.manual_seed(1)
    given = (torch.randn(3, 4, 8 * 16), torch.randn(16), torch.randn(16), *tables(40, 8))
    rings = torch.zeros(2, 3, 2, 9, 16)
    positions = torch.tensor([5, 7, 30])
    whole = rope_write(*given, *rings, positions)
    alone_rings = torch.zeros(2, 3, 2, 9, 16)
    for b in range(3):
        row = (given[0][b : b + 1], *given[1:])
        alone = rope_write(*row, *alone_rings, positions[b : b + 1], slots=torch.tensor([b]))
        assert torch.equal(alone[0], whole[b])
    assert torch.equal(alone_rings, rings)
    # tokens 2 and 3 were rejected; what comes instead lands where they were
    rejected, fresh = rings.clone(), torch.randn(3, 2, 8 * 16)
    rope_write(fresh, *given[1:], *rings, positions + 2)
    kept = (given[0][:, :2], *given[1:])
    straight = torch.zeros(2, 3, 2, 9, 16)
    rope_write(*kept, *straight, positions)
    rope_write(fresh, *given[1:], *straight, positions + 2)
    assert torch.equal(straight, rings) and not torch.equal(rejected, rings)


@interpreted
def test_wrong_numbers_from_the_device_write_nothing() -> None:
    torch.manual_seed(2)
    given = (torch.randn(2, 2, 6 * 8), torch.ones(8), torch.ones(8), *tables(5, 4))
    rings = torch.zeros(2, 2, 2, 9, 8)
    rows = torch.tensor([[10**9, -4], [0, 0]])
    entries = torch.tensor([[9, 10**9], [-7, -1]])
    assert bool(rope_write(*given, *rings, entries=entries, rows=rows).isfinite().all())
    rope_write(*given, *rings, torch.tensor([1, 1]), slots=torch.tensor([2, -1]))
    assert not rings.any()


def _arguments() -> dict[str, Any]:
    cos, sin = tables(40, 8)
    return {
        "qkv": torch.randn(2, 3, 8 * 16),
        "q_weight": torch.ones(16),
        "k_weight": torch.ones(16),
        "cos": cos,
        "sin": sin,
        "positions": torch.tensor([0, 4]),
        "keys": torch.zeros(2, 2, 9, 16),
        "values": torch.zeros(2, 2, 9, 16),
    }


@interpreted
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"qkv": torch.randn(2, 3, 100)}, "qkv"),
        ({"qkv": torch.randn(2, 3, 4 * 16)}, "qkv"),
        ({"qkv": torch.randn(2, 10, 8 * 16)}, "qkv"),
        ({"qkv": torch.randn(2, 3, 16 * 16)[..., ::2]}, "qkv"),
        ({"qkv": torch.randn(2, 3, 8 * 16).double()}, "qkv"),
        ({"q_weight": torch.ones(8)}, "q_weight"),
        ({"k_weight": torch.ones(16).half()}, "k_weight"),
        ({"cos": torch.ones(40, 16)}, "cos"),
        ({"sin": torch.ones(39, 8)}, "sin"),
        ({"sin": torch.ones(40, 8).double()}, "sin"),
        ({"keys": torch.zeros(1, 2, 9, 16), "values": torch.zeros(1, 2, 9, 16)}, "keys"),
        ({"values": torch.zeros(2, 2, 8, 16)}, "values"),
        ({"values": torch.zeros(2, 2, 9, 16).half()}, "values"),
        ({"values": torch.zeros(2, 9, 2, 16).transpose(1, 2)}, "values"),
        ({"positions": torch.tensor([0, 4]).int()}, "positions"),
        ({"positions": torch.tensor([0, 4, 5])}, "positions"),
        ({"positions": None}, "positions"),
        ({"entries": torch.zeros(2, 3, dtype=torch.int64)}, "positions"),
        ({"positions": None, "entries": torch.zeros(2, 3, dtype=torch.int64)}, "positions"),
        ({"slots": torch.tensor([0])}, "slots"),
        ({"out": torch.zeros(2, 3, 4, 8)}, "out"),
        ({"out": torch.zeros(2, 3, 4, 16).half()}, "out"),
    ],
)
def test_refuses_what_it_cannot_take(change: dict[str, Any], name: str) -> None:
    with pytest.raises(KernelArgumentError) as caught:
        rope_write(**{**_arguments(), **change})
    assert caught.value.message == name


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        rope_write(**_arguments())


def _published(device: str, tokens: int) -> tuple[tuple[Tensor, ...], Tensor]:
    """The 4B's layer at 320 x 512: arguments up to the tables, and rings."""
    angles = rotary_table(cosmos_4b_320p()).to(device)
    half = {"dtype": torch.bfloat16, "device": device}
    qkv, weight = torch.randn(1, tokens, 48 * 128).to(**half), torch.rand(2, 128).to(**half)
    rings = torch.zeros(2, 1, 8, 3264, 128).to(**half)
    return (qkv, *weight, angles.cos().float(), angles.sin().float()), rings


@pytest.mark.parametrize("placed", [False, True])
def test_compiles_for_hopper_without_spills(placed: bool) -> None:
    given, rings = _published("cpu", 10)
    where: dict[str, Tensor] = {"positions": torch.tensor([3000])}
    if placed:
        where = {name: torch.arange(10)[None] for name in ("entries", "rows")}
    (found,) = compile_launches(lambda: rope_write(*given, *rings, **where), rope.__name__)
    assert not found.spills
    assert found.instructions("ld.global.v2|ld.global.v4")  # loads are vectors


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_error_is_at_most_twice_that_of_torch() -> None:
    torch.manual_seed(3)
    given, rings = _published("cuda", 10)
    positions = torch.tensor([3000], device="cuda")
    exact = reference_rope_write(*given, *rings, positions)
    plain = reference_rope_write(*given, *rings, positions, precision=torch.bfloat16)
    found = (rope_write(*given, *rings, positions), *rings)
    for result, wanted, other in zip(found, exact, plain, strict=True):
        allowed = 2 * (other.double() - wanted).square().mean().sqrt()
        assert (result.double() - wanted).square().mean().sqrt() <= allowed
