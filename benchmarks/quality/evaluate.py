"""`worldbridge eval`: how good a world is, on scenes that it was never trained on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from worldbridge.benchmarks.quality.motion import (
    block_flow,
    divergence,
    gradient_energy,
    mean_shift,
)
from worldbridge.benchmarks.quality.speculation import measure_drafts
from worldbridge.models.conditioning.actions import condition_vector
from worldbridge.models.conditioning.prompt_frames import to_unit
from worldbridge.models.procedural import THEMES
from worldbridge.models.procedural.actions import MAX_PITCH_DEG, PITCH_LIMIT_DEG
from worldbridge.models.progress import Progress
from worldbridge.models.training.data import EVALUATION_SEEDS, Clip, make_clip, make_ending
from worldbridge.runtime.config import WorkerConfig
from worldbridge.runtime.decoding import DecodeSession
from worldbridge.runtime.frames.i420 import unit_to_bytes
from worldbridge.runtime.worlds.autoregressive import ArWorld
from worldbridge.runtime.worlds.registry import open_world

__all__ = ["Plan", "evaluate"]


_ENDING = 12  # the frames at the end of a rollout that are looked at
_CONTEXT = 4  # real frames before guesses are counted
_MOVING = 0.25  # a frame counts as moving from this share of the largest step or turn


@dataclass(frozen=True, slots=True)
class Command:
    """A constant action and the motion of the picture that it must cause."""

    action: tuple[float, float, float, float]
    motion: Literal["shift", "growth"]  # to the right, or away from the centre
    sign: int


_TURNS = (Command((0.0, 0.0, 1.0, 0.0), "shift", 1), Command((0.0, 0.0, -1.0, 0.0), "shift", -1))
_MOVES = (
    Command((0.0, 1.0, 0.0, 0.0), "growth", 1),
    Command((1.0, 0.0, 0.0, 0.0), "shift", -1),
    Command((0.0, -1.0, 0.0, 0.0), "growth", -1),
    Command((-1.0, 0.0, 0.0, 0.0), "shift", 1),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    clips_per_theme: int
    clip_frames: int
    trials_per_theme: int
    rollouts_per_theme: int
    rollout_seconds: float
    real_plays_per_theme: int
    guessed_themes: int
    guessed_latents: int  # a theme

    @classmethod
    def of(cls, quick: bool) -> Plan:
        return cls(1, 8, 1, 1, 2.0, 1, 2, 3) if quick else cls(3, 20, 4, 4, 60.0, 6, 5, 20)


def evaluate(
    world: str,
    quick: bool = False,
    progress: Progress = lambda text, share: None,
    seed: int = 0,
    threads: int = 2,
) -> dict[str, Any]:
    """Measure a neural world; returns the names that `worldbridge eval --json` prints.

    Raises ValueError for a world that has nothing to evaluate.
    """
    torch.set_num_threads(threads)
    model = open_world(WorkerConfig(world=world, seats=len(THEMES), mode=None))
    if not isinstance(model, ArWorld):
        raise ValueError(
            f"only neural worlds can be evaluated; {world!r} is {model.spec.kind}: "
            "pass the name or the folder of a trained world"
        )
    return _Evaluation(model, Plan.of(quick), seed, progress).run()


class _Evaluation:
    def __init__(self, world: ArWorld, plan: Plan, seed: int, progress: Progress) -> None:
        self.world, self.plan, self.seed, self.progress = world, plan, seed, progress

    @torch.inference_mode()
    def run(self) -> dict[str, Any]:
        result: dict[str, Any] = {
            "world": self.world.spec.name,
            "scenes": "procedural scenes never trained on",
            "rollout_seconds": self.plan.rollout_seconds,
            "training": self.world.training,
        }
        result |= self.prediction()
        result |= self.following()
        result |= self.guessing()
        result |= self.free_play()
        self.progress("done", 1.0)
        return result

    # -- one frame ahead ------------------------------------------------------------------------

    def prediction(self) -> dict[str, Any]:
        """Tokenizer and next-frame PSNR against the rendered truth.

        PSNR of the mean squared error over all frames, so that a few still frames, where copying
        is perfect, do not decide the figure.
        """
        coded: list[float] = []
        predicted: list[float] = []
        copied: list[float] = []
        clips = [(t, n) for n in range(self.plan.clips_per_theme) for t in THEMES]
        for i, (theme, n) in enumerate(clips):
            self.progress(f"next frame, {theme}", 0.3 * i / len(clips))
            clip = make_clip(theme, self._scene_seed(n), self.plan.clip_frames)
            parts = self._predict_clip(clip)
            for errors, part in zip((coded, predicted, copied), parts, strict=True):
                errors += part
        return {
            "tokenizer_psnr_db": _psnr(coded),
            "next_frame_psnr_db": _psnr(predicted),
            "copy_last_psnr_db": _psnr(copied),
            "frames_predicted": len(predicted),
        }

    def _predict_clip(self, clip: Clip) -> tuple[list[float], list[float], list[float]]:
        """Squared errors of coding and decoding; of predicting while moving; of copying."""
        world, grid = self.world, self.world.decoder.open(self.seed)
        codes = world.tokenizer.encode(to_unit(clip.frames).transpose(0, 1)[None])[0]
        stream = world.tokenizer.decode_stream_init(1, world.height, world.width)
        coded: list[float] = []
        predicted: list[float] = []
        copied: list[float] = []
        for t, (latent, condition) in enumerate(zip(codes, clip.condition, strict=True)):
            if t >= 2 and float(clip.actions[t, :3].abs().max()) >= _MOVING:
                drawn = self._peek(grid, condition)
                pixels, _ = world.tokenizer.decode_step(drawn[None, None], stream)
                predicted.append(_error(unit_to_bytes(pixels[0, :, -1]), clip.frames[t]))
                copied.append(_error(clip.frames[t - 1], clip.frames[t]))
            world.decoder.prefill(grid, latent, condition)
            pixels, stream = world.tokenizer.decode_step(latent[None, None], stream)
            coded.append(_error(unit_to_bytes(pixels[0, :, -1]), clip.frames[t]))
        return coded, predicted, copied

    def _peek(self, grid: DecodeSession, condition: Tensor) -> Tensor:
        """What the world would draw next, without going there."""
        latents, window = grid.latents, grid.window
        drawn = self.world.decoder.decode([grid], condition[None])[0]
        grid.latents, grid.window = latents, window
        return drawn

    # -- following controls ---------------------------------------------------------------------

    def following(self) -> dict[str, Any]:
        """Share of trials whose picture moves the way the controls say."""
        turns: list[bool] = []
        moves: list[bool] = []
        trials = [(t, n) for n in range(self.plan.trials_per_theme) for t in THEMES]
        for i, (theme, n) in enumerate(trials):
            self.progress(f"following controls, {theme}", 0.3 + 0.3 * i / len(trials))
            clip = make_clip(theme, self._scene_seed(100 + n), 6)
            turn, first, second = _TURNS[n % 2], _MOVES[(n + i) % 4], _MOVES[(n + i + 1) % 4]
            turns.append(follows(self._play(clip, turn, 6), turn))
            moves += [follows(self._play(clip, move, 8), move) for move in (first, second)]
        return {"yaw_following": _mean(turns), "move_following": _mean(moves)}

    def _play(self, clip: Clip, command: Command, frames: int) -> list[Tensor]:
        """Free-running frames under one constant action, from the context of a real clip."""
        world, grid = self.world, self.world.decoder.open(self.seed)
        codes = world.tokenizer.encode(to_unit(clip.frames).transpose(0, 1)[None])[0]
        stream = world.tokenizer.decode_stream_init(1, world.height, world.width)
        for latent, condition in zip(codes, clip.condition, strict=True):
            world.decoder.prefill(grid, latent, condition)
            _, stream = world.tokenizer.decode_step(latent[None, None], stream)
        pitch = clip.condition[-1, 4] * math.radians(PITCH_LIMIT_DEG)
        condition = condition_vector(torch.tensor(command.action), pitch, clip.theme)
        shown = []
        for _ in range(frames):
            drawn = world.decoder.decode([grid], condition[None])
            pixels, stream = world.tokenizer.decode_step(drawn[None], stream)
            shown.append(unit_to_bytes(pixels[0, :, -1]))
        return shown

    # -- guesses --------------------------------------------------------------------------------

    def guessing(self) -> dict[str, Any]:
        """Tokens per forward with guesses, of the Medusa heads if the world has any."""
        self.progress("guesses", 0.58)
        seed, frames = self._scene_seed(300), _CONTEXT + self.plan.guessed_latents
        clips = [make_clip(theme, seed, frames) for theme in THEMES[: self.plan.guessed_themes]]
        return measure_drafts(self.world, clips, _CONTEXT, self.seed)

    # -- free play ------------------------------------------------------------------------------

    def free_play(self) -> dict[str, Any]:
        """Long rollouts under random play: sharpness at the end, frozen or collapsed streams.

        Sharpness is compared with that of the real scenes of the theme after as much play of the
        same kind: where people get to is plainer than the views in which they begin.
        """
        played = {theme: self._real_endings(theme) for theme in THEMES}
        real = {t: statistics.median(_sharpness(e) for e in ends) for t, ends in played.items()}
        real_bad = [_frozen(e) or _collapsed(e) for ends in played.values() for e in ends]
        ratios: list[float] = []
        bad: list[bool] = []
        rounds = self.plan.rollouts_per_theme
        for n in range(rounds):
            clips = [make_clip(theme, self._scene_seed(200 + n), 24) for theme in THEMES]
            for clip, ends in zip(clips, self._roll_out(clips, n, rounds), strict=True):
                ratios.append(_sharpness(ends) / real[clip.theme])
                bad.append(_frozen(ends) or _collapsed(ends))
        return {
            "sharpness_ratio_60s": round(statistics.median(ratios), 3),
            "sharpness_ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "frozen_or_collapsed_rate": _mean(bad),
            # who walks into a wall sees nothing move, in the rendered scenes too
            "frozen_or_collapsed_rate_rendered": _mean(real_bad),
            "rollouts": len(bad),
        }

    def _real_endings(self, theme: str) -> list[list[Tensor]]:
        """The last frames of rendered plays of a theme, as long and of the same kind."""
        frames = round(self.plan.rollout_seconds * self.world.spec.fps)
        return [
            list(make_ending(theme, self._scene_seed(200 + n), random_play(n, frames), _ENDING))
            for n in range(self.plan.real_plays_per_theme)
        ]

    def _roll_out(self, clips: list[Clip], number: int, rounds: int) -> list[list[Tensor]]:
        """The last frames of one rollout per clip, all stepped together; pixels only there."""
        world = self.world
        seeds = [self.seed + 100 * number + i for i in range(len(clips))]
        grids = [world.decoder.open(seed) for seed in seeds]
        for clip, grid in zip(clips, grids, strict=True):
            codes = world.tokenizer.encode(to_unit(clip.frames[:4]).transpose(0, 1)[None])[0]
            for latent, condition in zip(codes, clip.condition, strict=False):
                world.decoder.prefill(grid, latent, condition)
        frames = round(self.plan.rollout_seconds * world.spec.fps)
        play = torch.stack([random_play(seed, frames) for seed in seeds], dim=1)
        pitch = torch.stack([clip.condition[3, 4] for clip in clips]) * PITCH_LIMIT_DEG
        tail = world.replayed + _ENDING
        latents: list[Tensor] = []
        for t, actions in enumerate(play):
            if t % 30 == 0:
                done = (number + t / frames) / rounds
                self.progress("free play, all themes", 0.6 + 0.4 * done)
            pitch = (pitch + actions[:, 3] * MAX_PITCH_DEG).clamp(-PITCH_LIMIT_DEG, PITCH_LIMIT_DEG)
            condition = torch.stack(
                [
                    condition_vector(action, torch.deg2rad(gaze), clip.theme)
                    for action, gaze, clip in zip(actions, pitch, clips, strict=True)
                ]
            )
            latents = [*latents, world.decoder.decode(grids, condition)][-tail:]
        pixels = world.tokenizer.decode(torch.stack(latents, dim=1))
        return [[unit_to_bytes(frame) for frame in video.unbind(1)[-_ENDING:]] for video in pixels]

    def _scene_seed(self, number: int) -> int:
        return EVALUATION_SEEDS[self.seed * 1000 + number]


def random_play(seed: int, frames: int) -> Tensor:
    """Actions [frames, 4] of someone who walks and looks about; the last 12 turn or walk."""
    generator = torch.Generator().manual_seed(seed)
    pieces = torch.tensor(
        [
            [0, 1, 0, 0],
            [0, 1, 0.6, 0],
            [0, 1, -0.6, 0],
            [0, 0, 1, 0],
            [0, 0, -1, 0],
            [1, 0, 0, 0],
            [-1, 0, 0, 0],
            [0, -1, 0, 0],
            [0, 0, 0.5, 0.4],
            [0, 0, -0.5, -0.4],
            [0, 0, 0, 0],
        ]
    )
    rows: list[Tensor] = []
    while len(rows) < frames:
        piece = pieces[int(torch.randint(len(pieces), (), generator=generator))]
        length = int(torch.randint(8, 30, (), generator=generator))
        rows += [piece] * length
    rows = rows[:frames]
    rows[-12:] = [pieces[3 if seed % 2 else 0]] * min(12, frames)
    return torch.stack(rows)


def follows(frames: list[Tensor], command: Command) -> bool:
    """Whether the picture moves as commanded: by more than a pixel in all, in the right direction.

    Turns are compared frame by frame; walks over three frames, because they move the picture less.
    """
    step = 1 if command.action[2] else 3
    total = 0.0
    for before, after in zip(frames[1:], frames[1 + step :], strict=False):
        flow, weight = block_flow(before, after)
        if command.motion == "growth":
            total += divergence(flow, weight)
        else:
            total += mean_shift(flow, weight)[1]
    return total * command.sign > 1.0


def _frozen(frames: list[Tensor]) -> bool:
    """Nothing changes although the controls say so."""
    changes = [
        float((a.float() - b.float()).abs().mean())
        for a, b in zip(frames, frames[1:], strict=False)
    ]
    return statistics.median(changes) < 0.5


def _sharpness(frames: Iterable[Tensor]) -> float:
    return statistics.fmean(gradient_energy(frame) for frame in frames)


def _collapsed(frames: list[Tensor]) -> bool:
    """Almost one colour."""
    return statistics.median([float(f.float().std()) for f in frames]) < 12.0


def _error(frame: Tensor, truth: Tensor) -> float:
    """Mean squared error of uint8 [3, H, W]."""
    return (frame.float() - truth.float()).square().mean().item()


def _psnr(errors: list[float]) -> float:
    return round(10 * math.log10(255**2 / max(statistics.fmean(errors), 1e-3)), 3)


def _mean(values: list[Any]) -> float:
    return round(sum(float(v) for v in values) / len(values), 3)
