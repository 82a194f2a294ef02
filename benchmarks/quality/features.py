"""Features of frames by a small classifier of themes, for distances between sets of frames.

Train it with `python -m worldbridge.benchmarks.quality.features`: it renders plain scenes, trains
for a few minutes on one core and writes `features.safetensors` beside this file, together with the
features of the training frames and of frames of held-out scenes.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldbridge.models.procedural.plain import build_plain_scene
from worldbridge.models.procedural.policy import random_walk
from worldbridge.models.procedural.render import render
from worldbridge.models.procedural.scene import THEMES
from worldbridge.models.training.play_clips import HELD_OUT_SEEDS

__all__ = ["FeatureNet", "Reference", "frechet_distance", "load_reference", "nearest_distances"]

FILE = Path(__file__).with_name("features.safetensors")
FEATURES = 32
_SIZE = (160, 256)
_WALK, _EVERY = 150, 30  # frames of a walk, of which each 30th is taken
_HELD_OUT_FROM = 5000  # held-out scenes before this one are left to the evaluation


class FeatureNet(nn.Module):
    """Four strided convolutions, their mean, 32 features, 5 themes."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 16, 32, 64, 64)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 5 if a == 3 else 3, stride=2, padding=2 if a == 3 else 1)
            for a, b in zip(widths, widths[1:], strict=False)
        )
        self.neck = nn.Linear(2 * widths[-1], FEATURES)
        self.head = nn.Linear(FEATURES, len(THEMES))

    def features(self, frames: Tensor) -> Tensor:
        """Return float32 [N, 32] of uint8 frames [N, 3, H, W] of any size."""
        x = F.interpolate(frames.float() / 127.5 - 1.0, _SIZE, mode="area")
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        features: Tensor = torch.tanh(self.neck(pooled))
        return features

    def forward(self, frames: Tensor) -> Tensor:
        """Return the scores of the themes [N, 5]."""
        scores: Tensor = self.head(self.features(frames))
        return scores


@dataclass(frozen=True, slots=True)
class Reference:
    """The classifier, and features by theme: of frames it was trained on, and of held-out ones.

    Features are divided by their standard deviation over the training frames.
    """

    net: FeatureNet
    scale: Tensor
    trained: dict[str, Tensor]
    held_out: dict[str, Tensor]

    @torch.inference_mode()
    def features(self, frames: Sequence[Tensor]) -> Tensor:
        """Return float32 [N, 32] of uint8 frames (H, W, 3)."""
        if not frames:
            return torch.zeros(0, FEATURES)
        batch = torch.stack(list(frames)).permute(0, 3, 1, 2)
        return torch.cat([self.net.features(part) for part in batch.split(16)]) / self.scale

    @torch.inference_mode()
    def themes(self, features: Tensor) -> list[str]:
        """Return the theme that each row of features is taken for."""
        return [THEMES[i] for i in self.net.head(features * self.scale).argmax(1).tolist()]


@lru_cache(maxsize=1)
def load_reference() -> Reference:
    """Return the committed classifier and its features."""
    tensors = {name: tensor.float() for name, tensor in load_file(FILE).items()}
    scale = tensors.pop("scale")
    trained = {theme: tensors.pop(f"trained.{theme}") for theme in THEMES}
    held_out = {theme: tensors.pop(f"held_out.{theme}") for theme in THEMES}
    net = FeatureNet()
    net.load_state_dict(tensors)
    return Reference(net.eval(), scale, trained, held_out)


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the Frechet distance of the normal distributions fitted to two sets [N, 32].

    |mean a - mean b|^2 + trace(A + B - 2 (A B)^(1/2)), per feature. Sets of few rows are farther
    apart than large ones, so compare only distances of equal sizes.
    """
    mean = (a.mean(0) - b.mean(0)).double().square().sum()
    one, other = (torch.cov(x.T.double()) for x in (a, b))
    root = _square_root(one)
    cross = _square_root(root @ other @ root)
    return float((mean + one.trace() + other.trace() - 2 * cross.trace()) / a.shape[1])


def _square_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    return root


def nearest_distances(features: Tensor, bank: Tensor) -> Tensor:
    """Return the distance of each row [N, 32] to the nearest row of the bank."""
    return torch.cdist(features, bank).amin(1)


# --- training ------------------------------------------------------------------------------------


def _frames(theme: str, seeds: Sequence[int]) -> Tensor:
    """Frames of walks through plain scenes, uint8 [N, 3, 160, 256]."""
    found = []
    for seed in seeds:
        scene = build_plain_scene(theme, seed)
        _, states = random_walk(scene, seed, _WALK)
        for state in states[_EVERY // 2 :: _EVERY]:
            frame = render(scene, state)[None].float()
            found.append(F.interpolate(frame, _SIZE, mode="area").to(torch.uint8))
    return torch.cat(found)


def _train(
    net: FeatureNet, frames: Tensor, labels: Tensor, steps: int, tell: Callable[[str], None]
) -> None:
    """Cross-entropy under flips, shifts of colour and crops; deterministic by the seed set."""
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-3)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * (1 + math.cos(math.pi * step / steps))
        chosen = torch.randint(len(frames), (48,))
        batch = frames[chosen].float()
        batch = batch.flip(-1) if torch.rand(()) < 0.5 else batch
        gain = 0.8 + 0.4 * torch.rand(len(batch), 3, 1, 1)
        top, left = int(torch.randint(40, ())), int(torch.randint(64, ()))
        loss = F.cross_entropy(
            net((batch * gain).clamp(0, 255)[:, :, top : top + 120, left : left + 192]),
            labels[chosen],
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            tell(f"step {step}: loss {loss.item():.3f}")


def main() -> None:
    """Render, train and write the file."""
    parser = argparse.ArgumentParser(description="Train the classifier of `worldbridge eval`.")
    parser.add_argument("--scenes", type=int, default=80, help="training scenes of each theme")
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    torch.manual_seed(0)
    scenes = options.scenes
    trained = {theme: _frames(theme, range(scenes)) for theme in THEMES}
    print("rendered what is trained on", flush=True)
    first = HELD_OUT_SEEDS[_HELD_OUT_FROM]
    held_out = {t: _frames(t, range(first, first + scenes // 2)) for t in THEMES}
    print("rendered what is held out", flush=True)
    net = FeatureNet()
    labels = torch.cat([torch.full((len(trained[t]),), i) for i, t in enumerate(THEMES)])
    _train(net, torch.cat(list(trained.values())), labels, options.steps, print)
    tensors = {
        f"{kind}.{theme}": _features(net, frames)
        for kind, sets in (("trained", trained), ("held_out", held_out))
        for theme, frames in sets.items()
    }
    scale = torch.cat([tensors[f"trained.{theme}"] for theme in THEMES]).std(0)
    tensors = {name: (value / scale).half() for name, value in tensors.items()}
    right = sum(
        int((_scores(net, frames).argmax(1) == i).sum())
        for i, frames in enumerate(held_out.values())
    )
    print(f"held-out accuracy {right / sum(map(len, held_out.values())):.3f}")
    weights = {name: value.half().contiguous() for name, value in net.state_dict().items()}
    save_file({**weights, **tensors, "scale": scale}, options.out)


@torch.inference_mode()
def _features(net: FeatureNet, frames: Tensor) -> Tensor:
    return torch.cat([net.features(part) for part in frames.split(32)])


@torch.inference_mode()
def _scores(net: FeatureNet, frames: Tensor) -> Tensor:
    return torch.cat([net(part) for part in frames.split(32)])


if __name__ == "__main__":
    main()
