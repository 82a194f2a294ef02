"""Weights of one byte: who may have them, how they get to the kernels, and that they are shared."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from tests.runtime.test_autotune import Decoder, World, silent
from tests.runtime.test_cosmos_world import make_world
from tests.runtime.test_worker import ended, start_worker
from worldbridge.models.checkpoint import World as Folder
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.config import DV8X16X16
from worldbridge.models.transformer import VideoTransformer
from worldbridge.models.transformer.config import TransformerConfig
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.decoding import autotune as modes
from worldbridge.runtime.decoding import decoder as decoders
from worldbridge.runtime.decoding.autotune import set_mode
from worldbridge.runtime.decoding.options import WeightDtype, check_weight_dtype
from worldbridge.runtime.errors import WeightDtypeError
from worldbridge.runtime.worlds.cosmos import CosmosWorld
from worldbridge.runtime.worlds.registry import open_world

COSMOS: dict[str, Any] = {"transformer": {"grid": None}}
GRID: dict[str, Any] = {"transformer": {"grid": {"diagonal": 1}}}


# -- who may have them ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precision", "manifest", "device", "message"),
    [
        ("fp4", COSMOS, "cuda", "expected one of model, fp8, int8, got 'fp4'"),
        ("int8", GRID, "cuda", "expected a converted Cosmos world, got one with a token grid"),
        ("fp8", COSMOS, "cpu", "expected --device cuda, .*, got the device cpu; add --device cuda"),
        ("fp8", COSMOS, "cuda", None),
        ("int8", COSMOS, "cuda", None),
        ("model", COSMOS, "cpu", None),
        ("model", GRID, "cpu", None),
    ],
)
def test_who_cannot_have_them_is_told(
    precision: str, manifest: dict[str, Any], device: str, message: str | None
) -> None:
    if message is None:
        check_weight_dtype(precision, manifest, device)
        return
    with pytest.raises(WeightDtypeError, match=message) as caught:
        check_weight_dtype(precision, manifest, device)
    assert caught.value.exit_code == 2


def test_it_is_told_before_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldbridge.runtime.worlds.autoregressive.load_embedded", None)
    with pytest.raises(WeightDtypeError, match="a token grid"):
        open_world(WorkerConfig(world="embedded", mode=None, weight_dtype="int8"))


def test_a_worker_says_it(tmp_path: Path) -> None:
    code, errors = ended(
        start_worker(f"ipc://{tmp_path}/s", world="procedural", weight_dtype="int8")
    )
    told = json.loads(errors.splitlines()[-1])
    assert code == 2 and told["message"] == "this world has no int8 weights"


# -- how they get to the kernels ------------------------------------------------------------------


def converted(weights: WeightDtype = "model") -> CosmosWorld:
    """A converted world whose heads are wide enough for the kernels."""
    torch.manual_seed(5)
    tokenizer = dataclasses.replace(DV8X16X16, channels=8, z_channels=8)
    config = TransformerConfig(
        dim=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_dim=16,
        ffn_hidden_size=48,
        vocab_size=64000,
        latent_shape=(3, 4, 6),
    )
    manifest = {
        "name": "tiny",
        "title": "Tiny",
        "frames_per_second": 25,
        "sampling": {"temperature": 1.0, "top_p": 0.8, "top_k": 64000},
        "tokenizer": dataclasses.asdict(tokenizer),
        "transformer": config.to_dict(),
    }
    networks = VideoTokenizer(tokenizer).eval(), VideoTransformer(config).eval()
    with torch.inference_mode():
        return CosmosWorld(Folder("tiny", manifest, *networks), capacity=2, weights=weights)


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [("fp8", torch.float8_e4m3fn), ("int8", torch.int8), ("model", torch.float32)],
)
def test_every_decoder_of_a_world_reads_the_same_weights(
    weights: WeightDtype,
    dtype: torch.dtype,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """Packed once; and the decoder before is gone before the next one takes memory."""
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    request.getfixturevalue("interpreter")
    with mock.patch.object(decoders, "_fastest", return_value="cuda"):
        with caplog.at_level(logging.WARNING, "worldbridge.runtime.worlds.cosmos"):
            world = converted(weights)
        warned = [f"{weights} weights: tokens differ from the model's own"]
        assert caplog.messages == ([] if weights == "model" else warned)
        packed = world.decoder.executor.weights
        assert packed.output.rows.dtype == dtype
        make, gone = world.make_decoder, []
        for mode in ("diagonal", "sequential", "jacobi"):
            old = [weakref.ref(world.decoder), weakref.ref(world.decoder.cache.keys)]
            old.append(weakref.ref(world.decoder.executor.step))

            def checked(mode: str, row_lag: int | None, old: Any = old) -> Any:
                gone.append([reference() is None for reference in old])
                return make(mode, row_lag)

            gc.disable()  # nothing has to be collected: there are no cycles
            try:
                with mock.patch.object(world, "make_decoder", checked):
                    set_mode(world, mode, None, silent)
            finally:
                gc.enable()
            assert world.decoder.mode == mode
            mine = world.decoder.executor.weights
            for name in ("qkv", "gate_up", "down"):
                pair = [getattr(w.layers[0], name).rows.data_ptr() for w in (mine, packed)]
                assert pair[0] == pair[1]
        assert gone == [[True] * 3] * 3


def test_what_is_packed_goes_with_its_model() -> None:
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    from tests.support.cuda_models import SHORT, build
    from worldbridge.runtime.decoding.executors.cuda.weights import CudaWeights

    model = build(SHORT)
    first = CudaWeights.pack(model, None, "fp8")
    assert CudaWeights.pack(model, None, "fp8") is first
    assert CudaWeights.pack(model, None, "int8") is not first
    assert CudaWeights.pack(build(SHORT), None, "fp8") is not first
    kept = weakref.ref(first.output.rows)
    del first
    assert kept() is not None
    del model
    gc.collect()
    assert kept() is None


# -- what was measured and lost -------------------------------------------------------------------


def test_while_modes_are_measured_only_the_best_decoder_is_kept() -> None:
    speed = {"medusa": (4, 4.0), "jacobi": (4, 2.0), "sequential": (8, 4.0)}

    class Fresh(World):
        """Makes a new decoder whenever it is asked for one."""

        def __init__(self) -> None:
            super().__init__(*(Decoder(mode, *how) for mode, how in speed.items()))
            self.kinds.clear()
            self.decoder = Decoder("jacobi", 4, 2.0)
            self.known = [weakref.ref(self.decoder)]
            self.alive: list[list[str]] = []

        def make_decoder(self, mode: str | None, row_lag: int | None = None) -> Decoder:
            assert mode is not None
            known = [reference() for reference in self.known]
            self.alive.append([decoder.mode for decoder in known if decoder is not None])
            made = Decoder(mode, *speed[mode])
            self.known.append(weakref.ref(made))
            return made

    world = Fresh()
    gc.disable()
    try:
        set_mode(world, "auto", None, silent)
        alive = [reference() for reference in world.known]
    finally:
        gc.enable()
    assert world.alive == [[], ["medusa"], ["jacobi"]]
    assert [decoder.mode for decoder in alive if decoder is not None] == ["jacobi"]


def test_a_converted_world_keeps_one_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modes, "_LATENTS", 1)
    world = make_world()
    made, make = [weakref.ref(world.decoder)], world.make_decoder

    def noted(mode: str, row_lag: int | None) -> Any:
        decoder = make(mode, row_lag)
        made.append(weakref.ref(decoder))
        return decoder

    with mock.patch.object(world, "make_decoder", noted):
        set_mode(world, "auto", None, silent)
    world.rest()
    gc.collect()
    left = [decoder for reference in made if (decoder := reference()) is not None]
    assert len(made) == 3 and left == [world.decoder]
