"""Raster decoding under cameras: every mode, slide and restart gives the same tokens."""

from __future__ import annotations

import dataclasses
import gc
import math

import pytest
import torch
from torch import Tensor

from tests.runtime.decoding.test_raster_decoder import (
    BASE,
    SAMPLING,
    VIDEO2WORLD,
    context_of,
    noise_at,
    prompt,
)
from tests.support.decoders import eager_decoder
from worldbridge.models.conditioning.camera import predicted_rays
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.runtime.decoding import Decoder, DecodeSession
from worldbridge.runtime.decoding.sampling import sample

CAMERA = dataclasses.replace(BASE, n_layers=2, camera="pluecker")
WITH_TEXT = dataclasses.replace(VIDEO2WORLD, camera="pluecker")
WITH_ACTIONS = dataclasses.replace(
    CAMERA, context_dim=20, conditioning="cross_attention", condition_dim=4
)
CONFIGS = {"plain": CAMERA, "text": WITH_TEXT}


def build(config: TransformerConfig) -> VideoTransformer:
    """A random model that its camera moves about as much as its tokens do."""
    torch.manual_seed(0)
    model = VideoTransformer(config).eval()
    torch.nn.init.normal_(model.output.weight, std=config.dim**-0.5)
    torch.nn.init.normal_(model.camera_embedding.weight, std=0.7)
    return model.requires_grad_(False)


def walk(latents: int, start: float = 0.0) -> Tensor:
    """Poses [latents, 8] of a camera that walks in a circle, far from the origin."""
    t = start + torch.arange(latents, dtype=torch.float64) * 0.4
    zero = torch.zeros_like(t)
    columns = [
        100 + t.cos(),
        zero + 1.6,
        100 - t.sin(),
        zero,
        (t / 2).sin(),
        zero,
        (t / 2).cos(),
        zero + 50,
    ]
    return torch.stack(columns, -1)


def opened(decoder: Decoder, seed: int, latents: int = 1) -> DecodeSession:
    codes, poses = prompt(decoder.config, latents, seed), walk(latents)
    return decoder.open(seed, codes, context=context_of(decoder.config, seed), poses=poses)


def run(decoder: Decoder, session: DecodeSession, poses: Tensor) -> Tensor:
    return torch.cat([decoder.decode([session], poses=pose[None]) for pose in poses])


@torch.inference_mode()
def naive(model: VideoTransformer, seed: int, poses: Tensor) -> Tensor:
    """One whole forward for every token, by the model's own `forward`; poses of all latents."""
    config = model.config
    trained, height, width = config.latent_shape
    begin = [] if config.begin_of_video_token is None else [config.begin_of_video_token]
    context = context_of(config, seed)
    pairs = None if context is None else model.context_keys_values(context[None])
    codes = prompt(config, 1, seed).flatten().tolist()
    size, drawn, first = height * width, [], 0
    for latent in range(1, len(poses)):
        if latent - first == trained:
            first = latent - 1  # the default keeps half of three
        for place in range(size):
            rays = predicted_rays(poses[first : latent + 1], height, width, bool(begin))
            window = begin + codes[first * size :]
            logits = model(torch.tensor([window]), context=pairs, rays=rays[None, : len(window)])
            noise = noise_at(config, seed, latent * size + place)
            codes.append(int(sample(logits[:, -1], noise, SAMPLING)))
            drawn.append(codes[-1])
    return torch.tensor(drawn).view(-1, height, width)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_every_mode_draws_what_whole_forwards_draw(config: TransformerConfig) -> None:
    """Across two slides, after which rays are relative to another latent."""
    model, poses = build(config), walk(7)
    expected = naive(model, 5, poses)
    for mode, width in (("sequential", 1), ("jacobi", 5), ("jacobi", 16)):
        decoder = eager_decoder(model, 1, SAMPLING, mode, jacobi_window=width)
        assert torch.equal(run(decoder, opened(decoder, 5), poses[1:]), expected)
    other = eager_decoder(model, 1, SAMPLING, "jacobi")
    still = walk(1).expand(6, 8)
    assert not torch.equal(run(other, opened(other, 5), still), expected)


@pytest.mark.parametrize("mode", ["sequential", "jacobi"])
def test_cameras_of_neighbours_do_not_mix(mode: str) -> None:
    model = build(CAMERA)
    alone = eager_decoder(model, 1, SAMPLING, mode, jacobi_window=6)
    tracks = [walk(4, start) for start in (0.4, 2.0, 4.0)]
    expected = []
    for seed, track in enumerate(tracks):
        session = opened(alone, seed)
        expected.append(run(alone, session, track))
        del session
        gc.collect()
    together = eager_decoder(model, 3, SAMPLING, mode, jacobi_window=6)
    sessions = [opened(together, seed) for seed in range(3)]
    for t in range(4):
        codes = together.decode(sessions, poses=torch.stack([track[t] for track in tracks]))
        assert all(torch.equal(codes[i], expected[i][t]) for i in range(3))


@pytest.mark.parametrize("mode", ["sequential", "jacobi"])
def test_a_restored_session_knows_its_cameras(mode: str) -> None:
    decoder = eager_decoder(build(CAMERA), 2, SAMPLING, mode)
    session, poses = opened(decoder, 7), walk(7)[1:]
    taken, codes = [], []
    for pose in poses:
        taken.append(decoder.snapshot(session))
        codes.append(decoder.decode([session], poses=pose[None])[0])
    for t, snapshot in enumerate(taken[:4]):
        assert snapshot.poses is not None and len(snapshot.poses) == len(snapshot.codes)
        again = decoder.restore(snapshot)
        assert torch.equal(run(decoder, again, poses[t : t + 3]), torch.stack(codes[t : t + 3]))
        del again
        gc.collect()


def test_forcing_a_latent_feeds_its_camera() -> None:
    decoder = eager_decoder(build(CAMERA), 2, SAMPLING)
    codes, poses = prompt(CAMERA, 2, 3), walk(4)
    first = decoder.open(3, codes, poses=poses[:2])
    second = decoder.open(3, codes[:1], poses=poses[:1])
    decoder.prefill(second, codes[1], pose=poses[1])
    assert torch.equal(run(decoder, first, poses[2:]), run(decoder, second, poses[2:]))


def test_actions_and_cameras_go_together() -> None:
    model = build(WITH_ACTIONS)
    actions, poses = torch.randn(5, 4, generator=torch.Generator().manual_seed(1)), walk(5)
    results = []
    for mode in ("sequential", "jacobi"):
        decoder = eager_decoder(model, 1, SAMPLING, mode, jacobi_window=7)
        session = decoder.open(9, prompt(WITH_ACTIONS, 1), conditions=actions[:1], poses=poses[:1])
        results.append(
            [decoder.decode([session], actions[t][None], poses[t][None]) for t in range(1, 5)]
        )
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_a_draw_that_fails_can_be_repeated() -> None:
    decoder = eager_decoder(build(CAMERA), 2, SAMPLING)
    session, expected = opened(decoder, 2), opened(decoder, 2)
    poses = walk(3)[1:]

    def fail() -> None:
        raise RuntimeError("interrupted")

    decoder.on_step = fail
    with pytest.raises(RuntimeError, match="interrupted"):
        decoder.decode([session], poses=-poses[:1] * torch.tensor([1.0] * 3 + [-1.0] * 5))
    decoder.on_step = lambda: None
    assert torch.equal(run(decoder, session, poses), run(decoder, expected, poses))


def test_one_text_has_its_keys_computed_once() -> None:
    model = build(WITH_TEXT)
    decoder = eager_decoder(model, 2, SAMPLING)
    context, codes = context_of(WITH_TEXT), prompt(WITH_TEXT, 1)
    sessions = [decoder.open(s, codes, context=context, poses=walk(1)) for s in (0, 1)]
    assert sessions[0].context_pairs is sessions[1].context_pairs
    assert context is not None
    del sessions[1]
    gc.collect()
    other = decoder.open(1, codes, context=context.clone() + 1, poses=walk(1))
    assert other.context_pairs is not sessions[0].context_pairs


def test_wrong_cameras_are_refused() -> None:
    decoder = eager_decoder(build(CAMERA), 1, SAMPLING)
    codes, poses = prompt(CAMERA, 1), walk(1)
    for wrong in (None, walk(2), poses * math.nan):
        with pytest.raises(ValueError, match="camera pose"):
            decoder.open(0, codes, poses=wrong)
    session = decoder.open(0, codes, poses=poses)
    with pytest.raises(ValueError, match="one camera pose per latent"):
        decoder.decode([session])
    with pytest.raises(ValueError, match="use slide 'reprefill'"):
        eager_decoder(build(CAMERA), 1, SAMPLING, slide="rotate")
    torch.manual_seed(0)
    plain = eager_decoder(VideoTransformer(BASE).eval(), 1, SAMPLING)
    with pytest.raises(ValueError, match="takes no camera"):
        plain.open(0, codes, poses=poses)
