"""Train Medusa heads for the embedded transformer.

The schedule is the one of arXiv 2501.03575, section 5.2.4: heads alone predict poorly and training
everything spoils the network, so the last two layers and the unembedding learn with the heads and
the rest stays as it is.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldbridge.models.training.recipe import Recipe, TimedSchedule, save_checkpoint
from worldbridge.models.training.train_transformer import as_seen, places_of, stray, take
from worldbridge.models.transformer import MedusaHeads, VideoTransformer
from worldbridge.models.transformer.wavefront import DigitHead

__all__ = ["HeadsTrainer", "fingerprint", "head_rows", "train_heads"]

_CHECKED = 24  # clips that the network's own loss is measured on before and after


def train_heads(
    model: VideoTransformer,
    heads: MedusaHeads,
    codes: np.ndarray,
    condition: np.ndarray,
    recipe: Recipe,
    checkpoint: Path,
    progress: Callable[[str, float], None],
    device: str = "cpu",
) -> None:
    """Train in place for `recipe.heads_minutes`; resumes from and saves to `checkpoint`.

    codes int32 [N, T, H, W]; condition float32 [N, T, C]. Leaves the averaged weights in `heads`
    and `model`. Where the network's own loss came out worse by more than
    `recipe.heads_tolerance`, it becomes again what it was, and the heads, which only guess, stay.
    A checkpoint of heads for another network is not resumed.
    """
    trainer = HeadsTrainer(model, heads, codes, condition, recipe, device)
    trainer.resume(checkpoint)
    schedule = TimedSchedule(
        recipe.heads_rate, recipe.heads_minutes, recipe.warmup_steps, trainer.share
    )
    smooth = 0.0
    while schedule.share() < 1.0:
        loss = trainer.step(schedule.value(trainer.steps) / recipe.heads_rate)
        if not math.isfinite(loss):
            raise RuntimeError(
                f"the training of heads diverged at step {trainer.steps}: the loss is {loss}; "
                f"lower Recipe.heads_rate (now {recipe.heads_rate})"
            )
        smooth += max(0.02, 1 / trainer.steps) * (loss - smooth)
        trainer.share = schedule.share()
        if trainer.steps % 10 == 0:
            text = f"heads step {trainer.steps}, {smooth:.3f} nats a guess"
            progress(text, trainer.share)
        if trainer.steps % 100 == 0:
            trainer.save(checkpoint)
    if trainer.finish():
        trainer.save(checkpoint)
    before, after = trainer.loss_before, trainer.loss_tried
    put_back = " and was put back" if trainer.loss_after != after else ""
    progress(f"heads done, the network's own loss {before:.3f} -> {after:.3f} nats{put_back}", 1.0)


def fingerprint(weights: dict[str, Tensor]) -> str:
    """Tells whether heads were trained for a network with these weights."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def head_rows(codes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """What each head has to guess: codes [..., H * W] -> [..., H * W, count], and where it exists.

    Head k of a slot guesses the token k slots later in raster order, inside the same latent.
    """
    slots = codes.shape[-1]
    place = torch.arange(slots)[:, None] + torch.arange(1, count + 1)
    place = place.to(codes.device)
    inside = place < slots
    return codes[..., place.clamp(max=slots - 1)], inside.expand(*codes.shape, count)


class HeadsTrainer:
    """Heads, the part of the network that learns with them, their averages, and the optimizer."""

    def __init__(
        self,
        model: VideoTransformer,
        heads: MedusaHeads,
        codes: np.ndarray,
        condition: np.ndarray,
        recipe: Recipe,
        device: str,
    ) -> None:
        assert model.config.grid is not None and isinstance(model.output, DigitHead)
        self.model, self.heads = model.to(device).train(), heads.to(device).train()
        self.levels, self.output = model.config.grid.fsq_levels, model.output
        self.recipe, self.device = recipe, device
        self.codes, self.condition = codes, condition
        # The network knows all clips from its own training. Clips kept back here would look worse
        # afterwards for that reason alone.
        spread = np.linspace(0, len(codes) - 1, min(_CHECKED, len(codes))).round().astype(int)
        self.checked = codes[spread], condition[spread]
        self.base = fingerprint(model.state_dict())
        self.untrained = {k: v.detach().clone() for k, v in model.state_dict().items()}
        self.trained = self._unfreeze()
        self.average = {k: v.detach().clone() for k, v in self.trained.items()}
        self.network = [p for p in self.trained.values() if p is not heads.weight]
        self.optimizers = [_optimizer([heads.weight], recipe.heads_rate)]
        if self.network:
            self.optimizers.append(_optimizer(self.network, recipe.heads_network_rate))
        self.again: tuple[list[tuple[int, slice]], Tensor] | None = None
        self.steps, self.share = 0, 0.0
        self.loss_before = self.network_loss()
        self.loss_tried = self.loss_after = math.nan
        self._sow()

    def _unfreeze(self) -> dict[str, nn.Parameter]:
        """The parameters that learn, by name; all others are frozen."""
        self.model.requires_grad_(False)
        parts: dict[str, nn.Module] = {}
        count = self.recipe.heads_unfrozen_layers
        if count > 0:
            layers = list(self.model.layers)
            parts = {f"layers.{i}": layers[i] for i in range(len(layers))[-count:]}
            parts["output"] = self.model.output
        trained = {"heads.weight": self.heads.weight}
        for prefix, module in parts.items():
            module.requires_grad_(True)
            trained |= {f"{prefix}.{name}": p for name, p in module.named_parameters()}
        return trained

    def _sow(self) -> None:
        """Random numbers that go on differently after each resumption."""
        self.random = np.random.default_rng(self.recipe.seed + self.steps)
        self.generator = torch.Generator().manual_seed(self.recipe.seed + self.steps)

    # -- one step -------------------------------------------------------------------------------

    def step(self, share_of_rate: float) -> float:
        """Learn from one batch; returns the heads' mean loss in nats."""
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * share_of_rate
        places, own = self.again or (places_of(self.codes, self.recipe, self.random), None)
        batch, leading = take(self.codes, places).long(), take(self.condition, places)
        seen = as_seen(batch, own, self.recipe, self.levels, self.generator)
        others = take(self.codes, places_of(self.codes, self.recipe, self.random)).long()
        seen, strayed = stray(seen, others, self.recipe, self.generator)
        batch, leading = batch.to(self.device), leading.to(self.device)
        x = self.model.clip_features(seen.to(self.device), leading)[:, 1:].flatten(2, 3)
        self._remember(None if own is not None else places, batch, x)
        known = ~strayed[:, 1:].to(self.device)
        x, told = x[known], batch[:, 1:].flatten(2)[known]  # [latents, slots, dim], and the codes
        guessed = self._heads_loss(x, told)
        loss = self.recipe.heads_weight * guessed.sum()
        if self.recipe.heads_unfrozen_layers > 0:
            loss = loss + self.output.nll(x.flatten(0, 1), told.flatten())
        self._learn(loss, self.optimizers)
        for _ in range(self.recipe.heads_repeats):
            self._learn(self._heads_loss(x.detach(), told).sum(), self.optimizers[:1])
        self.steps += 1
        decay = min(0.99, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            for name, value in self.trained.items():
                self.average[name].lerp_(value, 1 - decay)
        mean = (guessed.detach() / self._decays()).mean()
        return float(mean) if bool(loss.isfinite()) else math.nan

    def _learn(self, loss: Tensor, optimizers: list[torch.optim.Optimizer]) -> None:
        """One step of these optimizers; gradients of heads and network are clipped apart."""
        for parameter in self.trained.values():
            parameter.grad = None
        loss.backward()
        for part in ([self.heads.weight], self.network):
            nn.utils.clip_grad_norm_(part, 1.0)
        for optimizer in optimizers:
            optimizer.step()

    def _remember(self, places: list[tuple[int, slice]] | None, batch: Tensor, x: Tensor) -> None:
        """Every batch is met twice, the second time with a past in part of the network's draws.

        x [B, T - 1, slots, dim] are what it drew them from.
        """
        self.again = None
        if places is not None:
            own = self.output.draw(x.detach().flatten(0, 2), self.generator)
            own = own.view_as(batch[:, 1:])
            self.again = places, torch.cat([batch[:, :1], own], dim=1).cpu()

    def _decays(self) -> Tensor:
        """Farther heads count less: 0.8 to the power of k, as in Medusa (Cai et al. 2024)."""
        exponents = torch.arange(1, self.heads.count + 1, device=self.device)
        return torch.tensor(0.8, device=self.device) ** exponents

    def _heads_loss(self, x: Tensor, told: Tensor) -> Tensor:
        """x [latents, slots, dim], told [latents, slots] -> weighted loss of each head, [count].

        Of a random part of the slots: neighbours say much the same, and heads are many.
        """
        targets, inside = (part.flatten(0, 1) for part in head_rows(told, self.heads.count))
        rows = torch.randperm(len(targets), generator=self.generator)[: self.recipe.heads_rows]
        rows = rows.to(self.device)
        states = self.heads(x.flatten(0, 1)[rows])
        targets, inside = targets[rows], inside[rows]
        parts = []
        for k in range(self.heads.count):
            exists = inside[:, k]
            parts.append(self.output.nll(states[exists, k], targets[exists, k]))
        return torch.stack(parts) * self._decays()

    # -- the network's own loss -----------------------------------------------------------------

    @torch.no_grad()
    def network_loss(self) -> float:
        """Nats a token, mean over a few clips, the past as it was played."""
        total = []
        length = self.recipe.transformer_clip
        for codes, condition in zip(*self.checked, strict=True):
            batch = torch.from_numpy(codes[None, :length]).long().to(self.device)
            leading = torch.from_numpy(condition[None, :length]).to(self.device)
            x = self.model.clip_features(batch, leading)[:, 1:]
            total.append(self.output.nll(x.flatten(0, 3), batch[:, 1:].flatten()).item())
        return sum(total) / len(total)

    def finish(self) -> bool:
        """Take the averages and check the network; False if that had been done before."""
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(self.average[name])
        done = math.isfinite(self.loss_after)
        if not done:
            self.share = 1.0
            self.loss_tried = self.loss_after = self.network_loss()
            if self.loss_after > self.loss_before + self.recipe.heads_tolerance:
                self.model.load_state_dict(self.untrained)
                self.loss_after = self.loss_before
                for name, value in self.trained.items():
                    self.average[name].copy_(value)
        self.model.eval()
        self.heads.eval()
        return not done

    # -- on disk --------------------------------------------------------------------------------

    def resume(self, path: Path) -> None:
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        wanted = (self.base, self.heads.count, self.recipe.heads_unfrozen_layers)
        if (state["base"], state["count"], state["unfrozen_layers"]) != wanted:
            return
        with torch.no_grad():
            for name, value in self.trained.items():
                value.copy_(state["trained"][name])
        self.average = state["average"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.steps, self.share = state["step"], state["share"]
        self.loss_before, self.loss_after = state["loss_before"], state["loss_after"]
        self.loss_tried = state["loss_tried"]
        self._sow()

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {
            "base": self.base,
            "count": self.heads.count,
            "unfrozen_layers": self.recipe.heads_unfrozen_layers,
            "trained": {k: v.detach() for k, v in self.trained.items()},
            "average": self.average,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.steps,
            "share": self.share,
            "loss_before": self.loss_before,
            "loss_tried": self.loss_tried,
            "loss_after": self.loss_after,
        }
        save_checkpoint(path, state)


def _optimizer(parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    groups = [{"params": parameters, "rate": rate}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
