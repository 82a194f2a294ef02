"""Train the transformer of a world with a spatial memory on encoded play."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldbridge.models.guided.config import GUIDE_CHANNELS
from worldbridge.models.guided.transformer import GUIDED_TRANSFORMER
from worldbridge.models.progress import Progress, silent
from worldbridge.models.training.guided.run import (
    TrainingRun,
    cosine_rate,
    require_memory,
    write_log,
)
from worldbridge.models.training.guided.samples import Samples
from worldbridge.models.transformer import TransformerConfig, VideoTransformer
from worldbridge.models.transformer.wavefront import DigitHead

__all__ = ["WorldBatch", "WorldRecipe", "WorldTraining", "take_batch", "train_world"]


@dataclass(frozen=True, slots=True)
class WorldRecipe:
    """Numbers of a training run."""

    steps: int = 6_000
    batch: int = 8  # frames
    start_batch: int = 1  # first frames: all of their blocks are active
    start_share: float = 0.02  # of the steps are on first frames; play begins with a given one
    rate: float = 8e-4
    warmup: int = 100
    weight_decay: float = 0.02
    clip: float = 0.5
    outlier: float = 4.0  # a step whose gradient is larger than the usual by this is skipped
    ema: float = 0.998
    disturbed: float = 0.08  # share of the digits that neighbours see moved by one
    spoiled: float = 0.3  # share of the frames whose guide is coarser and noisier than the memory's
    bfloat16: bool = False  # for products of matrices, where the processor has them
    held_out: int = 2  # files of samples that are measured on and never trained on
    save_every: int = 200
    measure_every: int = 500
    seed: int = 1


@dataclass(frozen=True, slots=True)
class WorldBatch:
    """Inputs of `VideoTransformer.active_features`, and the digits to learn."""

    digits: Tensor
    active: Tensor
    guide: Tensor
    previous: Tensor
    condition: Tensor

    @classmethod
    def of(cls, samples: Samples, index: Tensor) -> WorldBatch:
        """Return the samples with these numbers, int64 [n]."""
        return cls(
            samples.digits[index].long(),
            samples.active[index],
            samples.guide[index].float() / 127.0,
            samples.previous(index),
            samples.condition[index],
        )


def take_batch(samples: Samples, recipe: WorldRecipe, step: int) -> WorldBatch:
    """Return the batch of a step: the seed and the step decide."""
    random = np.random.default_rng([recipe.seed, step])
    first = bool(random.random() < recipe.start_share)
    new = samples.active.flatten(1).sum(1)
    wanted = ~samples.follows if first else samples.follows & (new > 0)
    found = wanted.nonzero()[:, 0]
    if len(found) == 0:
        found = (new > 0).nonzero()[:, 0]
    count = recipe.start_batch if first else recipe.batch
    return WorldBatch.of(samples, found[torch.from_numpy(random.integers(len(found), size=count))])


class WorldTraining(TrainingRun[VideoTransformer]):
    """A run of the transformer, which may begin with another's weights."""

    def __init__(
        self,
        recipe: WorldRecipe,
        out: Path,
        config: TransformerConfig = GUIDED_TRANSFORMER,
        start: VideoTransformer | None = None,
    ) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe, self.out = recipe, out
        model, average = VideoTransformer(config), VideoTransformer(config)
        if start is not None:
            _begin_with(model, start)
        groups: list[dict[str, Any]] = [
            {"params": [p for p in model.parameters() if p.ndim >= 2]},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=recipe.rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
        )
        checkpoint = out / "transformer.pt"
        super().__init__(model, average, optimizer, checkpoint, config.to_dict())

    def learn(self, batch: WorldBatch) -> float:
        """Take one step and return its loss in nats a block."""
        recipe = self.recipe
        generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + self.step)
        batch = replace(batch, guide=_spoil(batch.guide, recipe.spoiled, generator))
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            loss = loss_of(self.model, batch, recipe.disturbed, generator)
        return self.descend(
            loss, self._rate(), clip=recipe.clip, outlier=recipe.outlier, ema=recipe.ema
        )

    def _rate(self) -> float:
        recipe = self.recipe
        return cosine_rate(recipe.rate, self.step, self.step / recipe.steps, recipe.warmup)


def _begin_with(model: VideoTransformer, start: VideoTransformer) -> None:
    """Take the weights of `start`; layers that it does not have begin as the identity.

    Raises ValueError for one of another width or with more layers.
    """
    begun, count = start.state_dict(), start.config.n_layers
    if replace(start.config, n_layers=model.config.n_layers) != model.config or count > len(
        model.layers
    ):
        raise ValueError(
            f"expected a transformer to start from with up to {len(model.layers)} layers of width "
            f"{model.config.dim}, and the same inputs; got {count} of {start.config.dim}: "
            "start from another world, or without one"
        )
    for number in range(count, len(model.layers)):
        for name in (
            f"layers.{number}.attention.wo.weight",
            f"layers.{number}.feed_forward.w2.weight",
        ):
            model.get_parameter(name).data.zero_()
    model.load_state_dict({**model.state_dict(), **begun})


def _spoil(guide: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return guides in which a share of the frames look like what an unsure network drew.

    guide float [B, H, W, G] of `block_guide`. Colours within a block move towards their mean, and
    get noise of the frame, of the block and of the cell.
    """
    count, size = len(guide), guide.shape[-1] // GUIDE_CHANNELS
    color = guide[..., : 3 * size].unflatten(-1, (3, size))
    seen = guide[..., None, 4 * size : 5 * size]

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, 1, 1, generator=generator)

    blur = uniform()
    spoiled = torch.lerp(color, color.mean(-1, keepdim=True), blur)
    spoiled = spoiled + 0.06 * normal(1, 1, 3, 1) + 0.15 * uniform() * normal(*color.shape[1:4], 1)
    spoiled = (spoiled + 0.1 * uniform() * normal(*color.shape[1:])) * seen
    color = torch.where(uniform() < share, spoiled, color)
    return torch.cat((color.flatten(-2), guide[..., 3 * size :]), -1)


def loss_of(
    model: VideoTransformer,
    batch: WorldBatch,
    disturbed: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the mean loss of an active block, in nats.

    `disturbed` is the share of digits that neighbours see moved by one level, as a network that
    draws its own codes will see some.
    """
    head = model.output
    assert isinstance(head, DigitHead)
    seen = batch.digits
    if disturbed:
        move = torch.randint(2, seen.shape, generator=generator) * 2 - 1
        moved = (seen + move).clamp(0, min(head.levels) - 1)
        seen = torch.where(torch.rand(seen.shape, generator=generator) < disturbed, moved, seen)
    features, layout = model.active_features(
        seen, batch.active, batch.guide, batch.previous, batch.condition
    )
    batches = torch.arange(len(seen))[:, None]
    target = batch.digits.flatten(1, 2)[batches, layout.slots][layout.valid]
    basis = torch.tensor([math.prod(head.levels[:i]) for i in range(len(head.levels))])
    return head.nll(features[layout.valid], (target * basis).sum(-1))


@torch.inference_mode()
def measure(model: VideoTransformer, samples: Samples, frames: int = 48) -> dict[str, float]:
    """Return nats a block on held-out samples: of first frames, and of frames with a guide."""
    new = samples.active.flatten(1).sum(1) > 0
    result = {}
    for name, wanted in (("nats_start", ~samples.follows), ("nats_guided", samples.follows & new)):
        found = wanted.nonzero()[:, 0]
        if len(found):
            chosen = found[:: max(1, len(found) // frames)][:frames]
            losses = [float(loss_of(model, WorldBatch.of(samples, c))) for c in chosen.split(4)]
            result[name] = statistics.fmean(losses)
    return result


def unigram_nats(samples: Samples) -> float:
    """Return the nats a block of digits drawn by their own frequencies: what is to be beaten."""
    digits = samples.digits[samples.active].long()
    counts = torch.stack([d.bincount(minlength=int(digits.max()) + 1) for d in digits.unbind(-1)])
    share = counts / counts.sum(1, keepdim=True)
    return float(torch.special.entr(share).sum())


def train_world(
    samples: list[Samples],
    recipe: WorldRecipe,
    out: Path,
    config: TransformerConfig = GUIDED_TRANSFORMER,
    progress: Progress = silent,
    log_every: int = 25,
    sheet: Callable[[VideoTransformer, int], None] | None = None,
    start: VideoTransformer | None = None,
) -> VideoTransformer:
    """Train into `out`, from its checkpoint where there is one; returns the average network.

    Without a checkpoint the run begins with the weights of `start`.

    `samples` are files of samples; the last `recipe.held_out` are measured on alone. Every step
    draws from the seed and its own number, so an interrupted run takes the steps that it would
    have taken. `sheet` is called with the average network and the step whenever it is measured.

    Raises RuntimeError when the loss is no longer a number, ValueError for too few samples.
    """
    if len(samples) <= recipe.held_out:
        raise ValueError(
            f"expected more than {recipe.held_out} files of samples, got {len(samples)}"
        )
    require_memory(sum(part.nbytes for part in samples))  # joined, they are copied
    count = len(samples) - recipe.held_out
    known, test = Samples.join(samples[:count]), Samples.join(samples[count:] or samples[:1])
    run = WorldTraining(recipe, out, config, start)
    write_log(out, {"step": run.step, "samples": len(known), "unigram_nats": unigram_nats(test)})
    began, first = time.monotonic(), run.step
    losses: deque[float] = deque(maxlen=100)
    while run.step < recipe.steps:
        losses.append(run.learn(take_batch(known, recipe, run.step)))
        speed = (run.step - first) / (time.monotonic() - began)
        if run.step % log_every == 0:
            write_log(
                out, {"step": run.step, "loss": statistics.fmean(losses), "steps_per_s": speed}
            )
        if run.step % recipe.measure_every == 0:
            write_log(out, {"step": run.step, "skipped": run.skipped, **measure(run.average, test)})
            if sheet is not None:
                sheet(run.average, run.step)
        if run.step % recipe.save_every == 0:
            run.save()
        left = (recipe.steps - run.step) / speed / 60
        text = f"world, step {run.step}, {statistics.fmean(losses):.2f} nats, {left:.0f} min left"
        progress(text, run.step / recipe.steps)
    run.save()
    return run.average
