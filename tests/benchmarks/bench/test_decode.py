"""What `bench decode` reports of a small model with random weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from worldbridge.benchmarks.decode import lineup
from worldbridge.benchmarks.decode.bench import bench_decode, measure
from worldbridge.benchmarks.decode.lineup import RasterLineup, Subject, check_choices
from worldbridge.benchmarks.decode.presets import PRESETS, random_world
from worldbridge.benchmarks.decode.streams import RasterStream, random_past
from worldbridge.models.checkpoint import World
from worldbridge.models.tokenizer import TokenizerConfig
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding import DecodeOptions, Sampling, make_decoder
from worldbridge.runtime.errors import NoDeviceError

SIZE = 12  # tokens of a latent
CPU = torch.device("cpu")
CONFIG = TransformerConfig(
    dim=32,
    n_layers=2,
    n_heads=4,
    n_kv_heads=2,
    head_dim=16,
    ffn_hidden_size=48,
    vocab_size=240,
    latent_shape=(4, 3, 4),
)


def quiet(stage: str, share: float) -> None:
    pass


@pytest.fixture(scope="module")
def world() -> World:
    tokenizer = TokenizerConfig(channels=32, z_channels=4, levels=(4, 4, 5, 3), embedding_dim=4)
    return random_world("small", CONFIG, tokenizer, 3, CPU, torch.float32)


@pytest.fixture(scope="module")
def result(world: World) -> dict[str, Any]:
    subject = Subject(world, CPU, context=3, trained=False)
    return measure(subject, only=(), quick=True, progress=quiet)


def test_every_mode_is_compared_with_sequential_and_plain(result: dict[str, Any]) -> None:
    modes = {mode["name"]: mode for mode in result["modes"]}
    assert list(modes) == ["sequential", "jacobi", "medusa", "diagonal", "plain"]
    for name in ("sequential", "jacobi", "medusa", "plain"):
        assert modes[name]["exact"] and modes[name]["identical_to_sequential"], name
    # an approximation: it says so, and that random weights draw other tokens
    assert not modes["diagonal"]["exact"] and not modes["diagonal"]["identical_to_sequential"]
    assert 0 <= modes["diagonal"]["tokens_as_sequential"] < 1
    assert result["baseline"] == "plain" and modes["plain"]["times_plain"] == 1
    assert modes["sequential"]["times_sequential"] == 1


def test_forwards_and_bytes_are_counted(result: dict[str, Any]) -> None:
    modes = {mode["name"]: mode for mode in result["modes"]}
    # each token one forward; a decoder then feeds the latent once more
    assert modes["plain"]["forwards_per_latent"] == SIZE
    assert modes["sequential"]["forwards_per_latent"] == SIZE + 1
    assert [modes[n]["rows_per_forward"] for n in ("sequential", "jacobi", "medusa")] == [
        1,
        SIZE,
        4,
    ]
    assert result["context_tokens"] == 3 * SIZE + SIZE // 2
    layer = 2 * 64 * 32 + 2 * 32 * 32 + 3 * 32 * 48  # queries and output; keys, values; SwiGLU
    weights = 4 * (2 * layer + 240 * 32)
    pairs = 2 * 2 * 2 * 16 * 4 * result["context_tokens"]
    assert result["bytes_read_per_forward"] == weights + pairs
    more = 4 * (3 * 32 * 32 + 240 * 32)  # the heads, and the unembedding for their guesses
    assert modes["medusa"]["gb_per_forward"] == pytest.approx(
        (weights + pairs + more) / 1e9, abs=1e-6
    )


def test_the_usual_modes_keep_their_names_and_say_what_they_are(result: dict[str, Any]) -> None:
    modes = {mode["name"]: mode for mode in result["modes"]}
    chosen = {name: (m["mode"], m["width"], m["diagonal"]) for name, m in modes.items()}
    assert chosen["jacobi"] == ("jacobi", 16, None)
    assert chosen["diagonal"] == ("diagonal", None, 2)
    assert chosen["medusa"] == ("medusa", None, None) and chosen["plain"] == ("plain", None, None)
    assert {(m["tokens_per_latent"], m["batch"]) for m in result["modes"]} == {(SIZE, 1)}
    assert result["frames_per_latent"] == 8
    assert not any("frames_per_second_at" in mode for mode in result["modes"])
    # the plain way feeds no latent again
    assert modes["plain"]["ms_closing_forward"] is None
    assert all(modes[n]["ms_closing_forward"] > 0 for n in ("sequential", "medusa", "diagonal"))


@pytest.fixture(scope="module")
def chosen(world: World) -> dict[str, Any]:
    subject = Subject(world, CPU, context=3, trained=False, widths=(4, 12, 4), diagonals=(1, 2, 4))
    return measure(subject, only=(), acceptances=(1.0, 3.5, 6.0), quick=True, progress=quiet)


def test_every_window_and_every_diagonal_is_measured_by_itself(chosen: dict[str, Any]) -> None:
    modes = {mode["name"]: mode for mode in chosen["modes"]}
    assert list(modes) == [
        "sequential",
        "jacobi W=4",
        "jacobi W=12",
        "medusa",
        "diagonal k=1",
        "diagonal",
        "diagonal k=4",
        "plain",
    ]
    assert modes["jacobi W=4"]["rows_per_forward"] == modes["jacobi W=4"]["width"] == 4
    assert modes["jacobi W=12"]["rows_per_forward"] == 12
    for name in ("jacobi W=4", "jacobi W=12", "diagonal k=4"):  # four tokens a row: one by one
        assert modes[name]["identical_to_sequential"], name
    # W + (H - 1) k forwards draw, and one feeds the latent again
    forwards = [modes[n]["forwards_per_latent"] for n in modes if modes[n]["diagonal"]]
    assert forwards == [4 + 2 * 1 + 1, 4 + 2 * 2 + 1, 4 + 2 * 4 + 1]


def test_a_stated_acceptance_is_computed_from_what_was_measured(chosen: dict[str, Any]) -> None:
    modes = {mode["name"]: mode for mode in chosen["modes"]}
    guessing = [name for name, mode in modes.items() if "frames_per_second_at" in mode]
    assert guessing == ["jacobi W=4", "jacobi W=12", "medusa"]
    for name in guessing:
        mode = modes[name]
        found = {
            at["tokens_per_forward"]: at["frames_per_second"] for at in mode["frames_per_second_at"]
        }
        # no more tokens than a forward has rows
        assert list(found) == ([1.0, 3.5, 6.0] if name == "jacobi W=12" else [1.0, 3.5])
        for tokens, rate in found.items():
            ms = SIZE / tokens * mode["ms_per_forward"]["p50"] + mode["ms_closing_forward"]
            assert rate == pytest.approx(8 / (ms / 1000), rel=1e-3)


def test_random_weights_are_called_that(result: dict[str, Any]) -> None:
    assert result["trained"] is False and "random weights" in result["note"]
    assert result["context_latents"] == 3 and result["device"] == "cpu" and result["gpu"] is None


def test_without_a_context_the_window_fills_and_slides(world: World) -> None:
    subject = Subject(world, CPU, trained=None)
    result = measure(subject, only=["jacobi"], quick=True, progress=quiet)
    assert [mode["name"] for mode in result["modes"]] == ["sequential", "jacobi", "plain"]
    assert all(mode["identical_to_sequential"] for mode in result["modes"])
    assert "note" not in result and result["context_latents"] is None
    assert SIZE < result["context_tokens"] < 4 * SIZE


def test_a_fixed_context_of_a_world_is_reached_by_drawing(world: World) -> None:
    ways = RasterLineup(Subject(world, CPU, context=3, trained=None), ("jacobi",))
    _, stream = ways.contender("sequential")
    first, second = (stream.latent(i, lambda: None) for i in range(2))
    assert isinstance(stream, RasterStream)
    assert [len(step.past.codes) for step in stream.steps] == [3, 3]
    assert torch.equal(stream.steps[0].past.codes, stream.steps[1].past.codes)
    assert not torch.equal(first, second), "the noise has to differ"


def test_steps_that_a_decoder_enqueues_in_groups_are_marked_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Steps:
        buckets = (1,)
        ran = 0

        def run(self, bucket: int, given: bool = False) -> None:
            self.ran += 1

    decoder = make_decoder(world.transformer, 2, Sampling(), DecodeOptions("sequential"))
    executor: Any = decoder.executor
    executor.steps = Steps()

    def in_groups(self: Any, batch: Any, on_step: Callable[[], None]) -> None:
        """Enqueue three groups of four steps, and report the groups alone."""
        for _ in range(3):
            on_step()
            for _ in range(4):
                self.steps.run(1)

    def zeros(self: Any, batch: Any) -> torch.Tensor:
        return torch.zeros(len(batch.sessions), 3, 4, dtype=torch.long)

    monkeypatch.setattr(type(executor), "run_latent", in_groups)
    monkeypatch.setattr(type(executor), "codes", zeros)
    stream = RasterStream(decoder, *random_past(world, 1), fixed=True)
    for number in range(2):
        marks: list[int] = []
        stream.latent(number, lambda marks=marks: marks.append(0))  # type: ignore[misc]
        assert len(marks) == 3 * 4 + 1 + 1  # steps, the forward that ends a latent, the end


@pytest.mark.parametrize(
    ("changes", "only", "said"),
    [
        ({"context": 4}, (), "expected a --context-latents from 1 to 3, got 4"),
        ({"precision": "fp8"}, (), "expected --device cuda, got cpu with fp8"),
        ({"widths": (13,)}, (), "expected a --width from 1 to 12, got 13"),
        ({"widths": (0,)}, (), "expected a --width from 1 to 12, got 0"),
        ({"diagonals": (5,)}, (), "expected a --row-lag from 1 to 4, got 5"),
        ({"widths": (4,)}, ("medusa",), "--width belongs to mode jacobi: expected --mode jacobi"),
        ({"diagonals": (1,)}, ("jacobi",), "--row-lag belongs to mode diagonal"),
        ({}, ("magic",), "no decode mode 'magic'"),
    ],
)
def test_what_does_not_fit_is_refused(
    world: World, changes: dict[str, Any], only: tuple[str, ...], said: str
) -> None:
    subject = dataclasses.replace(Subject(world, CPU), **changes)
    with pytest.raises(ValueError, match=said):
        measure(subject, only=only, quick=True, progress=quiet)


@pytest.mark.parametrize(
    ("acceptance", "only", "said"),
    [
        (0.5, (), "--acceptance from 1 to 12, got 0.5"),
        (12.5, (), "--acceptance from 1 to 12, got 12.5"),
        (float("nan"), (), "--acceptance from 1 to 12, got nan"),
        (4.24, ("diagonal",), "belongs to drafting modes: expected jacobi or medusa"),
    ],
)
def test_an_acceptance_that_cannot_be_is_refused(
    world: World, acceptance: float, only: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        measure(
            Subject(world, CPU), only=only, acceptances=(acceptance,), quick=True, progress=quiet
        )


def test_what_a_gpu_cannot_take_is_told_before_anything_is_made() -> None:
    config, gpu = PRESETS["cosmos-4b-320p"], torch.device("cuda")
    check_choices(config, gpu, (1, 16, 64), (1, 2, 32))
    with pytest.raises(ValueError, match="--width from 1 to 64, got 65"):
        check_choices(config, gpu, (16, 65), ())
    with pytest.raises(ValueError, match="--row-lag from 1 to 32, got 33"):
        check_choices(config, gpu, (), (33,))
    tall = dataclasses.replace(config, latent_shape=(5, 80, 128))
    with pytest.raises(ValueError, match="--row-lag 1 runs [0-9]+ tokens in a forward"):
        check_choices(tall, gpu, (), (1,))
    check_choices(config, CPU, (640,), ())
    with pytest.raises(ValueError, match="--width from 1 to 640, got 641"):
        bench_decode(preset="cosmos-4b-320p", widths=(641,), quick=True, threads=1, progress=quiet)
    with pytest.raises(ValueError, match="--acceptance from 1 to 640, got 700"):
        bench_decode(
            preset="cosmos-4b-320p", acceptances=(700.0,), quick=True, threads=1, progress=quiet
        )


def test_the_most_rows_are_those_of_the_kernels() -> None:
    attention = pytest.importorskip("worldbridge.kernels.attention")
    assert lineup._MOST_ROWS == attention.MAX_TOKENS


def test_a_world_without_heads_has_no_mode_medusa(world: World) -> None:
    bare = dataclasses.replace(world, heads=None)
    assert "medusa" not in RasterLineup(Subject(bare, CPU), ()).names
    with pytest.raises(ValueError, match="no decode mode 'medusa'"):
        RasterLineup(Subject(bare, CPU), ("medusa",))


def test_bad_options_of_a_whole_run_are_refused() -> None:
    options: dict[str, Any] = {"quick": True, "threads": 1, "progress": quiet}
    with pytest.raises(ValueError, match="no preset 'cosmos-5': expected one of cosmos-4b-320p"):
        bench_decode(preset="cosmos-5", **options)
    with pytest.raises(ValueError, match="draws no latents"):
        bench_decode("procedural", **options)
    with pytest.raises(ValueError, match="neither --context-latents nor --weight-dtype"):
        bench_decode("embedded", context=2, **options)
    with pytest.raises(ValueError, match="neither --width nor --row-lag"):
        bench_decode("embedded", widths=(8,), **options)
    if not torch.cuda.is_available():
        with pytest.raises(NoDeviceError, match="no GPU"):
            bench_decode(preset="cosmos-4b-320p", device="cuda", **options)


def test_presets_have_the_published_shapes() -> None:
    assert PRESETS["cosmos-4b-320p"].latent_shape == (5, 20, 32)
    assert PRESETS["cosmos-4b-320p"].dim == PRESETS["cosmos-4b"].dim == 4096


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.timeout(600)
def test_on_a_gpu_kernels_and_the_published_way_are_measured() -> None:
    device = torch.device("cuda")
    tokenizer = TokenizerConfig(channels=32, z_channels=4, levels=(4, 4, 5, 3), embedding_dim=4)
    small = random_world("small", CONFIG, tokenizer, 3, device, torch.bfloat16)
    result = measure(
        Subject(small, device, context=3, trained=False),
        only=["medusa"],
        quick=True,
        progress=quiet,
    )
    assert [mode["name"] for mode in result["modes"]] == ["sequential", "medusa", "published"]
    assert "our kernels" in result["modes"][0]["how"] and "CUDA graph" in result["modes"][2]["how"]
    assert all(mode["ms_per_forward"]["p50"] > 0 for mode in result["modes"])
