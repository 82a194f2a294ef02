"""Decode one session that walks ahead and turns, latent by latent, without pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from worldbridge.benchmarks.decode.baselines import PlainRaster, PlainWavefront
from worldbridge.models.checkpoint import World
from worldbridge.models.conditioning.actions import condition_vector
from worldbridge.models.conditioning.prompt_frames import to_unit
from worldbridge.models.procedural import THEMES, CameraState, build_scene, render, spawn
from worldbridge.runtime.decoding import SavedTokens
from worldbridge.runtime.worlds.autoregressive import ArState, ArWorld
from worldbridge.runtime.worlds.conditioning import Conditioning, dead_reckoning
from worldbridge.runtime.worlds.contract import WorldStart
from worldbridge.runtime.worlds.cosmos import cosmos_spec

__all__ = [
    "ForwardMarks",
    "WavefrontStream",
    "PlainWavefrontStream",
    "PlainRasterStream",
    "RasterStream",
    "Step",
    "Stream",
    "random_past",
    "start_of",
]

SEED = 7
_Mark = Callable[[], None]


class Stream(Protocol):
    """`mark` is called before every forward of a latent, and after the last one."""

    closes: bool  # whether the last forward draws nothing, but feeds the finished latent once more

    def latent(self, number: int, mark: _Mark) -> Tensor:
        """Draw the next latent [h, w]."""
        ...

    @property
    def context_tokens(self) -> int:
        """How many tokens a forward of the latest latent attended to, on average."""
        ...


def _action(number: int) -> Tensor:
    return torch.tensor([[0.0, 1.0, 0.5 if number // 10 % 2 else 0.0, 0.0]])


# -- token grids --------------------------------------------------------------------------------


class WavefrontStream:
    """A world with a token grid, in one of its decode modes."""

    closes = False

    def __init__(self, world: World, mode: str) -> None:
        self._world = ArWorld(world, 1, mode)
        self._state = _opened(self._world)
        self._camera = self._state.camera

    def latent(self, number: int, mark: _Mark) -> Tensor:
        self._camera, condition = _condition(self._camera, number)
        decoder = self._world.decoder
        decoder.on_step = mark
        codes = decoder.decode([self._state.grid], condition[None])
        mark()
        return codes[0]

    @property
    def least_forwards(self) -> int:
        """Of a latent, however good guesses are."""
        return self._world.decoder.least_forwards

    @property
    def context_tokens(self) -> int:
        return _grid_context(self._world, self._state.grid.latents - 1)


class PlainWavefrontStream:
    """The same stream without any of what the modes do."""

    closes = False

    def __init__(self, world: World) -> None:
        self._world = ArWorld(world, 1, "sequential")
        state = _opened(self._world)
        self._camera = state.camera
        self._plain = PlainWavefront(world.transformer, self._world.sampling, SEED)
        for codes, condition in zip(state.codes, state.conditions, strict=True):
            self._plain.prefill(codes, condition)

    def latent(self, number: int, mark: _Mark) -> Tensor:
        self._camera, condition = _condition(self._camera, number)
        return self._plain.draw(condition, mark)

    @property
    def context_tokens(self) -> int:
        return _grid_context(self._world, self._plain.frames - 1)


def _opened(world: ArWorld) -> ArState:
    return world.open(WorldStart(THEMES[0], SEED))


def _condition(camera: CameraState, number: int) -> tuple[CameraState, Tensor]:
    action = _action(number)[0]
    camera = dead_reckoning(camera, action.tolist())
    return camera, condition_vector(action, torch.tensor(camera.pitch), THEMES[0])


def _grid_context(world: ArWorld, before: int) -> int:
    """The latents before, and half of the own one."""
    size = world.height * world.width
    return min(before, world.window - 1) * size + size // 2


# -- raster order -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """All that a latent is drawn from."""

    past: SavedTokens
    condition: Tensor | None  # [condition_dim]
    pose: Tensor | None  # [8]

    @property
    def context_tokens(self) -> int:
        latents, *shape = self.past.codes.shape
        size = shape[0] * shape[1]
        return latents * size + size // 2


class RasterStream:
    """A decoder of raster models, in one of its modes.

    Without `fixed`, the window fills and slides as in play. With it, every latent begins behind
    the same latents, with other noise. `steps` keeps what each was drawn from.
    """

    closes = True

    def __init__(
        self, decoder: Any, conditioning: Conditioning, start: SavedTokens, *, fixed: bool
    ) -> None:
        """`decoder`: a Decoder or one with its interface, with room for two sessions."""
        self._decoder, self._conditioning, self._start, self._fixed = (
            decoder,
            conditioning,
            start,
            fixed,
        )
        self._session = decoder.restore(start)
        self._marks = ForwardMarks(decoder)
        self._camera = CameraState(0.0, 0.0)
        self.steps: list[Step] = []

    def latent(self, number: int, mark: _Mark) -> Tensor:
        if self._fixed:
            past = dataclasses.replace(self._start, seed=self._start.seed + number)
            self._session = self._decoder.restore(past)
        action = _action(number)
        conditions = self._conditioning.actions(action)
        poses = self._conditioning.poses([self._camera], [None], action)
        condition = None if conditions is None else conditions[0]
        pose = None if poses is None else poses[0]
        self.steps.append(Step(self.past(), condition, pose))
        with self._marks.made_by(mark):
            codes = self._decoder.decode([self._session], conditions, poses)
        mark()
        self._camera = self._conditioning.moved(self._camera, action[0].tolist())
        return codes[0]  # type: ignore[no-any-return]

    def past(self) -> SavedTokens:
        """What `decode` is going to see: of a full window, what is left when it slides."""
        saved = self._decoder.snapshot(self._session)
        assert isinstance(saved, SavedTokens)
        return saved

    @property
    def context_tokens(self) -> int:
        return self.steps[-1].context_tokens


class ForwardMarks:
    """Marks every forward of a decoder: those that it tells of, and the steps that a decoder on the
    device enqueues in groups, of which it tells once each."""

    def __init__(self, decoder: Any) -> None:
        self._mark: _Mark | None = None
        self._group_begins = False
        decoder.on_step = self._between
        steps = getattr(getattr(decoder, "executor", None), "steps", None)
        if steps is not None:
            decoder.executor.steps = _MarkedSteps(steps, self._step)

    @contextmanager
    def made_by(self, mark: _Mark) -> Iterator[None]:
        self._mark = mark
        yield
        self._mark = None

    def _between(self) -> None:
        if self._mark is not None:
            self._mark()
        self._group_begins = True

    def _step(self) -> None:
        if self._mark is not None and not self._group_begins:
            self._mark()
        self._group_begins = False


class _MarkedSteps:
    """`graphs.Steps` that marks every step."""

    def __init__(self, steps: Any, mark: _Mark) -> None:
        self._steps, self._mark = steps, mark
        self.buckets: tuple[int, ...] = steps.buckets

    def prepare(self, bucket: int, given: bool) -> None:
        self._steps.prepare(bucket, given)

    def run(self, bucket: int, given: bool = False) -> None:
        self._mark()
        self._steps.run(bucket, given)


class PlainRasterStream:
    """Draws the latents of another stream again, each from what that one drew it from."""

    closes = False

    def __init__(self, plain: PlainRaster, steps: Sequence[Step]) -> None:
        self._plain, self._steps, self._latest = plain, steps, steps[0]

    def latent(self, number: int, mark: _Mark) -> Tensor:
        self._latest = self._steps[number]
        return self._plain.draw(self._latest.past, self._latest.condition, self._latest.pose, mark)

    @property
    def context_tokens(self) -> int:
        return self._latest.context_tokens


def start_of(world: World) -> tuple[Conditioning, SavedTokens]:
    """Where a converted world begins: what the rendered scene of the first theme looks like."""
    weight = world.transformer.norm.weight
    conditioning = Conditioning(world.manifest, world.transformer.config, weight.device)
    spec, scene = cosmos_spec(world.manifest), build_scene(THEMES[0], SEED)
    camera = spawn(scene, SEED)
    frame = to_unit(render(scene, camera, spec.height, spec.width))[None, :, None]
    like = next(world.tokenizer.parameters())
    with torch.inference_mode():
        codes = world.tokenizer.encode(frame.to(like))[0]
    return conditioning, _past(conditioning, codes, camera)


def random_past(world: World, latents: int) -> tuple[Conditioning, SavedTokens]:
    """A past of random tokens, for a model that was never trained."""
    config, device = world.transformer.config, world.transformer.norm.weight.device
    conditioning = Conditioning(world.manifest, config, device)
    generator = torch.Generator().manual_seed(SEED)
    shape = (latents, *config.latent_shape[1:])
    codes = torch.randint(config.vocab_size, shape, generator=generator).to(device)
    return conditioning, _past(conditioning, codes, CameraState(0.0, 0.0))


def _past(conditioning: Conditioning, codes: Tensor, camera: CameraState) -> SavedTokens:
    """Of latents [F, h, w] that no action led to."""
    count = len(codes)
    actions, poses = conditioning.start_actions(count), conditioning.start_poses(camera, count)
    return SavedTokens(SEED, count, codes, conditioning.context, actions, poses)
