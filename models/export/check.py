"""Compare exported graphs with the tokenizer that they were made from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from worldbridge.models.errors import ExportError
from worldbridge.models.export.decoder import ExportedDecoder, Runner
from worldbridge.models.export.graphs import to_bytes
from worldbridge.models.export.manifest import Exported
from worldbridge.models.tokenizer import VideoTokenizer
from worldbridge.models.tokenizer.stream import Pass

__all__ = ["Finding", "check_export", "demand"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One measured difference, which is well while `value` is at most `limit`."""

    graph: str
    measure: str
    value: float
    limit: float
    also: dict[str, Any] = field(default_factory=dict)

    @property
    def well(self) -> bool:
        return self.value <= self.limit  # false for NaN

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "well": self.well}


def demand(findings: list[Finding]) -> None:
    """Raise ExportError with exit code 1 unless every difference is small enough."""
    bad = [one for one in findings if not one.well]
    if bad:
        raise ExportError(
            "the exported graphs do not compute what the tokenizer computes",
            expected="; ".join(f"{x.graph}: {x.measure} <= {x.limit:g}" for x in bad),
            got="; ".join(f"{x.value:.3g}" for x in bad),
            remedy="nothing was written; try other versions of torch, onnxscript or the runtime, "
            "and report it",
        ).with_exit_code(1)


@torch.inference_mode()
def check_export(
    exported: Exported,
    runner: Runner,
    tokenizer: VideoTokenizer,
    *,
    steps: int,
    tolerance: float,
    progress: Callable[[str, float], None],
    latents: int = 3,
    seed: int = 0,
) -> list[Finding]:
    """Run random codes and a random video through every graph and through `tokenizer`.

    `steps` is the length of the stream in latents. One of the two whole videos is a single frame,
    the other is of `latents` latents. `tolerance` is relative to the largest value.
    """
    generator = torch.Generator().manual_seed(seed)
    counts = tuple(sorted({1, latents}))
    check = _Check(exported, runner, tokenizer, tolerance, counts, generator)
    findings: list[Finding] = []
    if "decoder_next" in exported.files:
        findings += check.stream(steps, progress)
    if "decoder" in exported.files:
        progress("checking decoder", 0.7)
        findings += check.decoder()
    if "encoder" in exported.files:
        progress("checking encoder", 0.85)
        findings.append(check.encoder())
    return findings


@dataclass(frozen=True, slots=True)
class _Check:
    exported: Exported
    runner: Runner
    tokenizer: VideoTokenizer
    tolerance: float
    counts: tuple[int, ...]
    generator: torch.Generator

    def stream(self, steps: int, progress: Callable[[str, float], None]) -> list[Finding]:
        export = self.exported
        decoder = ExportedDecoder(export, self.runner)
        states = [
            coder.decode_stream_init(1, export.height, export.width, export.window)
            for coder in (decoder, self.tokenizer)
        ]
        first, later = _Worst(export.pixels), _Worst(export.pixels)
        for step in range(steps):
            progress(f"checking step {step + 1} of {steps}", 0.7 * step / steps)
            codes = self._codes(1)
            frames, states[0] = decoder.decode_step(codes, states[0])
            expected, states[1] = self.tokenizer.decode_step(codes, states[1])
            (later if step else first).add(frames, expected)
        found = first.findings("decoder_first", 1, self.tolerance)
        if steps > 1:
            found += later.findings("decoder_next", steps - 1, self.tolerance)
        return found

    def decoder(self) -> list[Finding]:
        worst = _Worst(self.exported.pixels)
        for count in self.counts:
            codes = self._codes(count)
            found = self.runner.run("decoder", {"codes": codes.int()})
            worst.add(next(iter(found.values())), self.tokenizer.decode(codes))
        return worst.findings("decoder", len(self.counts), self.tolerance)

    def encoder(self) -> Finding:
        """Check that each digit lies between those of the unrounded values moved by the tolerance.

        At a border between two codes rounding may fall either way.
        """
        beyond = other = total = 0
        fsq = self.tokenizer.quantizer
        for count in self.counts:
            video = self._video(count)
            codes = self.runner.run("encoder", {"video": video})["codes"][0].to(video.device)
            z = self.tokenizer.quant_conv(self.tokenizer.encoder(video, Pass(1)))
            z = z.permute(0, 2, 3, 1)
            slack = self.tolerance * z.abs().max()
            low, exact, high = (
                fsq.digits(fsq.codes_to_indices(fsq.quantize(x))) for x in (z - slack, z, z + slack)
            )
            digits = fsq.digits(codes)
            beyond += int(((digits < low) | (digits > high)).any(-1).sum())
            other += int((digits != exact).any(-1).sum())
            total += codes.numel()
        measure = "codes beyond rounding"
        return Finding("encoder", measure, float(beyond), 0.0, {"other": other, "codes": total})

    def _codes(self, count: int) -> Tensor:
        shape = (1, count, self.exported.height, self.exported.width)
        high = self.tokenizer.config.vocabulary
        return torch.randint(high, shape, generator=self.generator).to(self.runner.device)

    def _video(self, count: int) -> Tensor:
        config = self.tokenizer.config
        frames = 1 + (count - 1) * config.temporal_compression
        grid = (self.exported.height, self.exported.width)
        sides = (side * config.spatial_compression for side in grid)
        video = torch.rand(1, config.in_channels, frames, *sides, generator=self.generator)
        return (video * 2 - 1).to(self.runner.device)


class _Worst:
    """The largest difference of frames, relative to the largest value, or in levels of bytes."""

    def __init__(self, pixels: str) -> None:
        self.bytes = pixels == "bytes"
        self.worst, self.share = 0.0, 0.0

    def add(self, found: Tensor, expected: Tensor) -> None:
        if self.bytes:
            off = (found.int() - to_bytes(expected).int()).abs()
            self.share = max(self.share, float((off > 0).float().mean()))
            value = float(off.max())
        else:
            value = float((found - expected).abs().max() / expected.abs().max())
        self.worst = value if value != value else max(self.worst, value)  # keep NaN

    def findings(self, graph: str, runs: int, tolerance: float) -> list[Finding]:
        also = {"runs": runs}
        if not self.bytes:
            return [Finding(graph, "worst relative error", self.worst, tolerance, also)]
        # a value at the border between two levels may fall either way
        levels = 255 * tolerance
        return [
            Finding(graph, "worst difference of bytes", self.worst, max(1.0, levels), also),
            Finding(graph, "share of other bytes", self.share, min(1.0, levels), also),
        ]
