import dataclasses

import pytest
import torch

from worldbridge.models.tokenizer import DV8X16X16, EMBEDDED, StreamState, VideoTokenizer
from worldbridge.models.tokenizer.stream import Pass

SMALL = dataclasses.replace(EMBEDDED, channels=8)
TINY = dataclasses.replace(DV8X16X16, channels=4)


@pytest.fixture(scope="module")
def small() -> VideoTokenizer:
    return VideoTokenizer(SMALL)


@pytest.fixture(scope="module")
def tiny() -> VideoTokenizer:
    return VideoTokenizer(TINY)


def test_shapes(tiny: VideoTokenizer) -> None:
    video = torch.zeros(2, 3, 9, 32, 48)
    indices = tiny.encode(video)
    assert (indices.shape, indices.dtype) == ((2, 2, 2, 3), torch.int64)
    codes = tiny.encode_codes(video)
    assert codes.shape == (2, 6, 2, 2, 3)
    assert torch.equal(tiny.quantizer.codes_to_indices(codes.movedim(1, -1)), indices)
    decoded = tiny.decode(indices)
    assert decoded.shape == video.shape


def test_training_reduces_the_error() -> None:
    """The gradient reaches every parameter, through the rounding, and points the right way."""
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(SMALL)
    coarse = torch.rand(2, 3, 2, 2, 2) * 1.6 - 0.8
    video = coarse.repeat_interleave(32, 3).repeat_interleave(32, 4)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=3e-3)
    errors = []
    for _ in range(25):
        reconstruction, indices = tokenizer(video)
        error = (reconstruction - video).square().mean()
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert indices.shape == (2, 2, 2, 2)
    assert errors[-1] < 0.7 * errors[0]
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_zero_init_makes_blocks_the_identity(small: VideoTokenizer) -> None:
    block = small.decoder.mid.block_1
    assert block.conv2.spatial.conv3d.weight.abs().max() > 0
    last = list(block.conv2.parameters())[-2]
    assert last.shape[2:] == (3, 1, 1)
    assert last.abs().max() == 0


def test_embedded_decoder_stays_within_its_budget() -> None:
    """Multiply-adds of one 320x512 frame."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        tokenizer = VideoTokenizer(EMBEDDED)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        indices = torch.zeros(1, 1, 10, 16, dtype=torch.int64, device="meta")
        tokenizer.to("meta").decode_pass(indices, Pass(1))
    assert 0.5e9 < counter.get_total_flops() / 2 <= 0.9e9


def test_bfloat16(tiny: VideoTokenizer) -> None:
    half = VideoTokenizer(TINY).to(torch.bfloat16)
    half.load_state_dict(tiny.state_dict())
    indices = half.encode(torch.zeros(1, 3, 1, 16, 16, dtype=torch.bfloat16))
    decoded = half.decode(indices)
    assert decoded.dtype == torch.bfloat16
    reference = tiny.decode(indices)
    assert (decoded - reference).abs().max() <= 0.1 * reference.abs().max()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 9, 32, 32), r"video: expected shape \[B, 3, T, H, W\], got \[3, 9, 32, 32\]"),
        ((1, 4, 9, 32, 32), r"got \[1, 4, 9, 32, 32\]"),
        ((1, 3, 9, 30, 32), "video height: expected a multiple of 16.*got 30.*32"),
        ((1, 3, 9, 32, 40), "video width: expected a multiple of 16.*got 40.*crop to 32"),
        ((1, 3, 8, 32, 32), r"video frames: expected 1 \+ k \* 8 of them, got 8"),
        ((0, 3, 9, 32, 32), r"no empty axis, got \[0, 3, 9, 32, 32\]"),
    ],
)
@pytest.mark.parametrize("method", ["encode", "encode_codes", "forward"])
def test_wrong_video(
    tiny: VideoTokenizer, method: str, shape: tuple[int, ...], message: str
) -> None:
    # A meta tensor: nothing can be computed from it, so the check must come first.
    with pytest.raises(ValueError, match=message):
        getattr(tiny, method)(torch.empty(shape, device="meta"))


def test_wrong_types(tiny: VideoTokenizer) -> None:
    with pytest.raises(ValueError, match="torch.uint8; convert bytes"):
        tiny.encode(torch.zeros(1, 3, 1, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="indices: expected integers, got torch.float32"):
        tiny.decode(torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"indices: expected shape \[B, t, h, w\], got \[1, 2\]"):
        tiny.decode(torch.zeros(1, 2, dtype=torch.int64))


@pytest.mark.parametrize("value", [-1, 64_000])
def test_index_out_of_range(tiny: VideoTokenizer, value: int) -> None:
    indices = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
    indices[0, 0, 1, 1] = value
    state = tiny.decode_stream_init(1, 2, 2)
    with pytest.raises(ValueError, match=rf"values in 0\.\.63999, got .*{value}"):
        tiny.decode(indices)
    with pytest.raises(ValueError, match=rf"values in 0\.\.63999, got .*{value}"):
        tiny.decode_step(indices, state)


@torch.inference_mode()
def test_wrong_stream_use(tiny: VideoTokenizer) -> None:
    latent = torch.zeros(1, 1, 2, 3, dtype=torch.int64)
    state = tiny.decode_stream_init(1, 2, 3)
    _, started = tiny.decode_step(latent, state)
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) in latents, got \(1, 3, 2\)"):
        tiny.decode_step(latent.transpose(2, 3), state)
    with pytest.raises(ValueError, match=r"\(1, 2, 3\) in latents, got \(2, 2, 3\)"):
        tiny.decode_step(latent.expand(2, -1, -1, -1), state)
    with pytest.raises(ValueError, match="same fresh everywhere.*step fresh streams once"):
        StreamState.concat([state, started])
    with pytest.raises(ValueError, match="same height everywhere, got 2 and 4"):
        StreamState.concat([state, tiny.decode_stream_init(1, 4, 3)])
    with pytest.raises(ValueError, match="at least one stream state"):
        StreamState.concat([])


@pytest.mark.parametrize("rows", [[], [1], [-1]])
def test_select_wrong_rows(tiny: VideoTokenizer, rows: list[int]) -> None:
    with pytest.raises(ValueError, match=r"rows: expected at least one number in 0\.\.0"):
        tiny.decode_stream_init(1, 2, 3).select(rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"batch": 0}, "batch.*got 0"), ({"width": 0}, "width"), ({"window": -1}, "window.*-1")],
)
def test_wrong_stream_shape(tiny: VideoTokenizer, change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny.decode_stream_init(**({"batch": 1, "height": 2, "width": 2} | change))
