"""The state of a training run: network, average, optimizer and step, kept in one checkpoint."""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from worldbridge.errors import StructuredError
from worldbridge.models.errors import InputError
from worldbridge.models.training.guided.event_file import write_events
from worldbridge.models.training.recipe import save_checkpoint

__all__ = [
    "TrainingError",
    "TrainingRun",
    "bfloat16_pays",
    "cosine_rate",
    "require_memory",
    "write_log",
]

MEMORY_FILE = Path("/proc/meminfo")
A_TRAINING = 2**30  # bytes that a training of usual size takes; that of the tokenizer 0.8 GB
_USUAL = 20  # gradients that are seen before one of them can be an outlier

Network = TypeVar("Network", bound=nn.Module)


def bfloat16_pays() -> bool:
    """Return whether this processor multiplies matrices faster in bfloat16 than in float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def cosine_rate(rate: float, step: int, share: float, warmup: int) -> float:
    """Return the learning rate of a step: after `warmup` steps a cosine from `rate` to a twentieth.

    `share` is the part of the run that is done; beyond 1 the rate stays.
    """
    ramp = min(1.0, (step + 1) / warmup)
    return rate * ramp * (0.05 + 0.475 * (1 + math.cos(math.pi * min(share, 1.0))))


def write_log(out: Path, entry: Mapping[str, float]) -> None:
    """Append figures to OUT/log.jsonl, and to an event file that TensorBoard shows."""
    write_events(out, int(entry.get("step", 0)), entry)
    line = json.dumps({name: round(value, 5) for name, value in entry.items()})
    with (out / "log.jsonl").open("a") as file:
        file.write(line + "\n")


def require_memory(needed: int = A_TRAINING) -> None:
    """Raise InputError where the machine has less than `needed` bytes of memory left, on Linux."""
    try:
        lines = MEMORY_FILE.read_text().splitlines()
        left = next(1024 * int(line.split()[1]) for line in lines if "MemAvailable" in line)
    except (OSError, StopIteration, ValueError):
        return
    if left < needed:
        raise InputError(
            "there is too little memory for this training",
            expected=f"{needed / 2**30:.1f} GiB free",
            got=f"{left / 2**30:.1f} GiB",
            remedy="end other programs; what an earlier run has trained is kept",
        )


class TrainingError(StructuredError, RuntimeError):
    """Training cannot go on; the last checkpoint is good."""

    code = "training_diverged"


class TrainingRun(Generic[Network]):
    """A network that learns, its moving average, and what a resumed run needs."""

    def __init__(
        self,
        model: Network,
        average: Network,
        optimizer: torch.optim.Optimizer,
        checkpoint: Path,
        config: Mapping[str, Any],
    ) -> None:
        """Continue from the checkpoint, if there is one. The average begins as the network."""
        self.model, self.average, self.optimizer = model, average, optimizer
        self.average.load_state_dict(self.model.state_dict())
        self.average.requires_grad_(False).eval()
        self.checkpoint, self._config = checkpoint, dict(config)
        self.step, self.skipped = 0, 0
        self.norms: deque[float] = deque(maxlen=50)
        checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.skipped = state["step"], state["skipped"]
        self.norms.extend(state["norms"])

    def save(self) -> None:
        """Write the checkpoint; the old one stays valid until the new one is whole."""
        state: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "skipped": self.skipped,
            "norms": list(self.norms),
            "config": self._config,
        }
        save_checkpoint(self.checkpoint, state)

    def descend(
        self, loss: Tensor, rate: float, *, clip: float, outlier: float, ema: float
    ) -> float:
        """Take one step and return the loss.

        Gradients are clipped to the norm `clip`; a step whose norm is more than `outlier` times the
        usual one is skipped. Raises TrainingError when the loss is no longer a number.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), clip))
        value = float(loss.detach())
        if not math.isfinite(value) or not math.isfinite(norm):
            raise TrainingError(
                f"step {self.step}: the loss is no number any more; {self.checkpoint} is good",
                expected="a finite loss and gradient",
                got=f"{value} and {norm}",
                remedy=f"lower the rate, which is {rate}, and continue from it",
            )
        usual = statistics.median(self.norms) if len(self.norms) >= _USUAL else math.inf
        self.norms.append(norm)
        if norm > outlier * usual:
            self.skipped += 1
        else:
            self.optimizer.step()
            self._follow(ema)
        self.step += 1
        return value

    @torch.no_grad()
    def _follow(self, ema: float) -> None:
        decay = min(ema, (self.step + 1) / (self.step + 20))
        for ours, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
            ours.lerp_(new, 1.0 - decay)
