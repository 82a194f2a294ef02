"""Decode attention against its float64 reference, and what must never change a result."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs triton: pip install triton")

from tests.support.compile_kernels import compile_launches
from worldbridge.kernels import attention
from worldbridge.kernels.attention import (
    AttentionWorkspace,
    decode_attention,
    reference_decode_attention,
)
from worldbridge.kernels.checks import KernelArgumentError
from worldbridge.models.transformer.wavefront import diagonal_step, slot_mask

SMALL: dict[str, Any] = {"block_rows": 16, "split": 32}
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # numpy, about inf - inf


def poisoned(batch: int, tokens: int, heads: int, keys: Tensor, **sizes: int) -> AttentionWorkspace:
    workspace = AttentionWorkspace.allocate(batch, tokens, heads, keys, **sizes)
    for name in ("partial", "tops", "totals"):
        getattr(workspace, name).fill_(torch.nan)
    return workspace


def rings(capacity: int, kv_heads: int, ring: int, size: int, entries_outside: bool) -> Tensor:
    """[capacity, Hkv, S, D], in memory as such or with entries outside of heads."""
    if entries_outside:
        return torch.randn(capacity, ring, kv_heads, size + 3)[..., :size].transpose(1, 2)
    return torch.randn(capacity, kv_heads, ring, size)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("seed", range(10))
def test_matches_the_reference_for_random_shapes_strides_and_places(seed: int) -> None:
    choose = random.Random(seed)
    torch.manual_seed(seed)
    batch, tokens = choose.randint(1, 3), choose.choice([1, 2, 3, 5, 9])
    kv_heads, group, size = choose.randint(1, 3), choose.randint(1, 4), choose.choice([16, 24, 32])
    ring = choose.randint(tokens + 1, 110)
    window = choose.choice([None, choose.randint(1, ring - tokens + 1)])
    capacity = batch + choose.randint(0, 2)
    outside = choose.random() < 0.5
    keys, values = (rings(capacity, kv_heads, ring, size, outside) for _ in range(2))
    slots = torch.randperm(capacity)[:batch] if choose.random() < 0.5 else None
    # young streams, whose rings have entries that were never written, and old ones
    positions = torch.tensor([choose.choice([-1, 0, 3, ring - 1, 10**12]) for _ in range(batch)])
    for b in range(batch):
        written = max(int(positions[b]), 0) + tokens
        slot = b if slots is None else int(slots[b])
        keys[slot, :, written:], values[slot, :, written:] = torch.nan, torch.nan
    wide = torch.randn(batch, tokens, (kv_heads * group + 1) * size)
    q = wide.unflatten(-1, (-1, size))[:, :, 1:]  # a view of a wider row
    out = torch.full((batch, tokens, kv_heads * group, size), torch.nan)
    result = decode_attention(
        q,
        keys,
        values,
        positions,
        slots=slots,
        window=window,
        out=out,
        workspace=poisoned(batch, tokens, kv_heads * group, keys, **SMALL),
        **SMALL,
    )
    expected = reference_decode_attention(q, keys, values, positions, slots=slots, window=window)
    assert result is out
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-6)
    assert not result[positions < 0].any()


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_lose_no_more_than_their_rounding(half: torch.dtype) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 2, 4, 16).to(half)
    keys, values = torch.randn(2, 1, 2, 40, 16).to(half)
    positions = torch.tensor([30])
    result = decode_attention(q, keys, values, positions, **SMALL)
    expected = reference_decode_attention(q, keys, values, positions)
    # one rounding at the end; the interpreter cuts bfloat16 off instead of rounding it
    step = torch.finfo(half).eps
    torch.testing.assert_close(result.double(), expected, rtol=step, atol=1e-3 * step)


@pytest.mark.usefixtures("interpreter")
def test_programs_neighbours_and_ring_length_never_change_a_bit() -> None:
    torch.manual_seed(1)
    q, keys, values = torch.randn(2, 3, 4, 16), *torch.randn(2, 2, 2, 100, 16)
    positions = torch.tensor([90, 7])
    given: dict[str, Any] = {"window": 70, **SMALL}
    whole = decode_attention(q, keys, values, positions, **given)
    for workers in (1, 3):
        assert torch.equal(
            decode_attention(q, keys, values, positions, workers=workers, **given), whole
        )
    for b in range(2):
        alone = decode_attention(
            q[b : b + 1], keys, values, positions[b : b + 1], slots=torch.tensor([b]), **given
        )
        assert torch.equal(alone[0], whole[b])
    longer = [torch.cat([x, torch.full((2, 2, 50, 16), torch.nan)], dim=2) for x in (keys, values)]
    assert torch.equal(decode_attention(q, *longer, positions, **given), whole)


@pytest.mark.usefixtures("interpreter")
def test_tokens_one_by_one_and_rejected_drafts_behind_them() -> None:
    """A token's row is the same whether later tokens are fed with it or were rejected before.

    Here up to rounding: a CPU's matrix product may sum the rows of a block in different ways.
    """
    torch.manual_seed(2)
    ring, window, tokens = 60, 50, 4
    q, keys, values = torch.randn(1, tokens, 4, 16), *torch.randn(2, 1, 2, ring, 16)
    first = 2 * ring - 3  # the new tokens wrap
    given: dict[str, Any] = {"window": window, **SMALL}
    together = decode_attention(q, keys, values, torch.tensor([first]), **given)
    for t in range(tokens):
        position = torch.tensor([first + t])
        behind = [(first + n) % ring for n in range(t + 1, tokens)]
        for x in (keys, values):
            x[:, :, behind] = torch.nan  # what a rejected draft left there
        alone = decode_attention(q[:, t : t + 1], keys, values, position, **given)
        torch.testing.assert_close(alone[0, 0], together[0, t], rtol=0, atol=1e-6)
        torch.manual_seed(100)  # written again, with what is right
        fresh = torch.randn(2, 2, tokens, 16)
        for x, new in zip((keys, values), fresh, strict=True):
            x[0, :, behind] = new[:, t + 1 :]
        together = decode_attention(q, keys, values, torch.tensor([first]), **given)


@pytest.mark.usefixtures("interpreter")
def test_a_ring_is_a_window_over_an_endless_stream() -> None:
    torch.manual_seed(3)
    length, ring, window, tokens = 130, 41, 37, 3
    all_keys, all_values = torch.randn(2, 1, 2, length, 16)
    keys = torch.full((1, 2, ring, 16), torch.nan)
    values = keys.clone()
    for first in range(0, length - tokens, 17):
        q = torch.randn(1, tokens, 2, 16)
        upto = first + tokens
        for p in range(max(0, upto - ring), upto):
            keys[:, :, p % ring], values[:, :, p % ring] = all_keys[:, :, p], all_values[:, :, p]
        result = decode_attention(q, keys, values, torch.tensor([first]), window=window, **SMALL)
        for t in range(tokens):
            seen = slice(max(0, first + t + 1 - window), first + t + 1)
            score = q[0, t].double()[:, None] @ all_keys[0, :, seen].double().transpose(1, 2)
            expected = (score / 4).softmax(-1) @ all_values[0, :, seen].double()
            torch.testing.assert_close(result[0, t].double(), expected[:, 0], rtol=0, atol=2e-6)


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize("k", [1, 2])
def test_a_mask_decodes_token_grids_along_diagonals(k: int) -> None:
    """Masks as in wavefront decoding: the latent's entries by step, and whole past latents."""
    torch.manual_seed(4)
    height, width, frames, past = 3, 5, 3, 1
    entries, current = height * width, 1
    mask = torch.zeros(entries, frames, entries, dtype=torch.bool)
    for age in range(1, past + 1):
        mask[:, (current - age) % frames] = True
    mask[:, current] = slot_mask(height, width, k)
    keys, values = torch.randn(2, 2, 2, frames * entries, 16)
    for x in (keys, values):
        x[:, :, 2 * entries :] = torch.nan  # a latent that was never written
    step = diagonal_step(height, width, k).flatten()
    for s in range(int(step.max()) + 1):
        own = mask[step == s].flatten(1)
        q = torch.randn(2, len(own), 4, 16)
        result = decode_attention(q, keys, values, mask=own[None], **SMALL)
        expected = reference_decode_attention(q, keys, values, mask=own[None])
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-6)


@pytest.mark.usefixtures("interpreter")
def test_masks_per_session_and_queries_that_see_nothing() -> None:
    torch.manual_seed(5)
    q, keys, values = torch.randn(2, 3, 4, 16), *torch.randn(2, 2, 2, 70, 16)
    mask = torch.rand(2, 3, 70) < 0.2
    mask[0, 1] = False
    mask[1] = False
    result = decode_attention(q, keys, values, mask=mask, **SMALL)
    expected = reference_decode_attention(q, keys, values, mask=mask)
    torch.testing.assert_close(result.double(), expected, rtol=0, atol=2e-6)
    assert not result[0, 1].any() and not result[1].any()


@pytest.mark.usefixtures("interpreter")
def test_a_workspace_serves_one_call_after_the_other() -> None:
    torch.manual_seed(6)
    q, keys, values = torch.randn(2, 4, 4, 16), *torch.randn(2, 2, 2, 70, 16)
    workspace = poisoned(2, 4, 4, keys, **SMALL)
    for positions in ([40, 3], [500, -1], [0, 66]):
        for tokens in (4, 1):
            given = q[:, :tokens], keys, values, torch.tensor(positions)
            again = decode_attention(*given, workspace=workspace, **SMALL)
            assert torch.equal(again, decode_attention(*given, **SMALL))
            assert not workspace.counters.any()


@pytest.mark.usefixtures("interpreter")
def test_output_of_another_type_is_rounded_once() -> None:
    given = _arguments()
    half = torch.full((2, 3, 4, 16), torch.nan, dtype=torch.float16)
    decode_attention(**given, out=half)
    assert torch.equal(half, decode_attention(**given).half())


@pytest.mark.usefixtures("interpreter")
def test_a_wrong_ring_number_reads_nothing() -> None:
    q, keys = torch.randn(2, 1, 2, 16), torch.randn(1, 1, 20, 16)
    slots = torch.tensor([5, -3])
    assert not decode_attention(q, keys, keys, torch.tensor([9, 9]), slots=slots, **SMALL).any()


def _arguments() -> dict[str, Any]:
    return {
        "q": torch.randn(2, 3, 4, 16),
        "keys": torch.randn(2, 2, 40, 16),
        "values": torch.randn(2, 2, 40, 16),
        "positions": torch.tensor([5, 6]),
    }


@pytest.mark.usefixtures("interpreter")
@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"q": torch.randn(2, 3, 16)}, "q"),
        ({"q": torch.randn(2, 3, 4, 16).double()}, "q"),
        ({"q": torch.randn(2, 3, 4, 32)[..., ::2]}, "q"),
        ({"q": torch.randn(2, 3, 3, 16)}, "q"),
        ({"q": torch.randn(2, 65, 4, 16)}, "q"),
        ({"keys": torch.randn(2, 2, 40, 24)}, "keys"),
        ({"keys": torch.randn(2, 2, 40, 16).half()}, "keys"),
        ({"values": torch.randn(2, 2, 41, 16)}, "values"),
        ({"values": torch.randn(2, 40, 2, 16).transpose(1, 2)}, "values"),
        ({"positions": torch.tensor([5, 6], dtype=torch.int32)}, "positions"),
        ({"positions": torch.tensor([5])}, "positions"),
        ({"positions": None}, "positions"),
        ({"mask": torch.ones(2, 3, 40, dtype=torch.bool)}, "positions"),
        ({"positions": None, "mask": torch.ones(2, 3, 41, dtype=torch.bool)}, "mask"),
        ({"positions": None, "mask": torch.ones(2, 3, 40)}, "mask"),
        ({"positions": None, "mask": torch.ones(3, 3, 40, dtype=torch.bool)}, "mask"),
        ({"window": 39}, "window"),  # drafts would overwrite what the first query sees
        ({"window": 0}, "window"),
        ({"slots": torch.tensor([0, 1, 1])}, "slots"),
        ({"keys": torch.randn(1, 2, 40, 16), "values": torch.randn(1, 2, 40, 16)}, "keys"),
        ({"workers": 0}, "workers"),
        ({"workers": 2}, "workers"),
        ({"split": 48}, "split"),
        ({"block_rows": 8}, "block_rows"),
        ({"out": torch.empty(2, 3, 4, 16).double()}, "out"),
        ({"out": torch.empty(2, 3, 4, 32)[..., ::2]}, "out"),
    ],
)
def test_refuses_what_it_cannot_take(change: dict[str, Any], name: str) -> None:
    with pytest.raises(KernelArgumentError) as caught:
        decode_attention(**{**_arguments(), **change})
    assert caught.value.message == name


@pytest.mark.usefixtures("interpreter")
def test_refuses_a_workspace_that_is_too_small() -> None:
    given = _arguments()
    workspace = AttentionWorkspace.allocate(2, 3, 4, given["keys"])
    small = dataclasses.replace(workspace, tops=workspace.tops[:-1])
    with pytest.raises(KernelArgumentError, match="tops"):
        decode_attention(**given, workspace=small)


def test_refuses_the_cpu_without_an_interpreter() -> None:
    with pytest.raises(KernelArgumentError, match="CUDA"):
        decode_attention(**_arguments())


def _published(tokens: int, masked: bool, block_rows: int) -> Callable[[], Tensor]:
    """The 4B's heads over five latents of 320 x 512."""
    ring = 3264
    keys = torch.zeros(1, 8, ring, 128, dtype=torch.bfloat16)
    q = torch.zeros(1, tokens, 32, 128, dtype=torch.bfloat16)
    if masked:
        mask = torch.ones(1, tokens, ring, dtype=torch.bool)
        return lambda: decode_attention(q, keys, keys, mask=mask, block_rows=block_rows)
    positions = torch.tensor([3000])
    return lambda: decode_attention(q, keys, keys, positions, block_rows=block_rows)


@pytest.mark.parametrize(
    ("tokens", "masked", "block_rows", "product"),
    [
        (10, False, 64, "wgmma.mma_async"),
        (20, True, 64, "wgmma.mma_async"),
        (4, False, 16, "mma.sync"),
    ],
)
def test_compiles_for_hopper_without_spills(
    tokens: int, masked: bool, block_rows: int, product: str
) -> None:
    (found,) = compile_launches(_published(tokens, masked, block_rows), attention.__name__)
    assert not found.spills
    assert found.instructions(product)
    assert found.instructions("cp.async.cg")  # keys and values are fetched ahead
    assert found.instructions("atom.*acq_rel") and found.instructions("bar.sync")
    assert found.shared_bytes <= 113 * 1024  # two programs per multiprocessor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("tokens", "position"), [(1, 3000), (10, 3200), (64, 12000)])
def test_gpu_error_is_at_most_twice_that_of_torch(tokens: int, position: int) -> None:
    torch.manual_seed(7)
    shape = (2, 8, 12_800, 128)
    keys, values = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    q = torch.randn(2, tokens, 32, 128, device="cuda", dtype=torch.bfloat16)
    positions = torch.tensor([position, position // 2], device="cuda")
    exact = reference_decode_attention(q, keys, values, positions)
    mask = attention._visible(positions, tokens, shape[2], shape[2] - tokens + 1)
    plain = torch.nn.functional.scaled_dot_product_attention(
        q.transpose(1, 2), keys, values, attn_mask=mask[:, None], enable_gqa=True
    ).transpose(1, 2)
    result = decode_attention(q, keys, values, positions)
    allowed = 2 * (plain.double() - exact).square().mean().sqrt()
    assert (result.double() - exact).square().mean().sqrt() <= allowed
    for workers in (1, 7):
        assert torch.equal(decode_attention(q, keys, values, positions, workers=workers), result)
    one_by_one = torch.cat(
        [
            decode_attention(q[:, t : t + 1], keys, values, positions + t, window=12_800 - tokens)
            for t in range(tokens)
        ],
        dim=1,
    )
    whole = decode_attention(q, keys, values, positions, window=12_800 - tokens)
    assert torch.equal(one_by_one, whole)
