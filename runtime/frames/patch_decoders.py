"""Latents to I420 planes on a GPU, in PyTorch, compiled, or by TensorRT.

Every patch decoder keeps a stream in a `StreamState` of its own.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from worldbridge.models.progress import Progress
from worldbridge.models.tokenizer import StreamState, VideoTokenizer
from worldbridge.models.tokenizer.stream import FixedPass
from worldbridge.runtime.config import COMPILED, EAGER
from worldbridge.runtime.errors import DetokenizerError
from worldbridge.runtime.frames.i420 import i420_planes, unit_to_bytes

__all__ = [
    "CompiledPatchDecoder",
    "EagerPatchDecoder",
    "EnginePatchDecoder",
    "PatchDecoder",
    "make_patch_decoder",
    "use_private_compile_cache",
]

_KERNEL_PATCH = 4  # pixels and frames, what kernels/detokenize.py joins


class PatchDecoder(Protocol):
    def fresh(self) -> StreamState:
        """Of a stream that has seen no latent."""
        ...

    def planes(self, codes: Tensor, stream: StreamState) -> tuple[Tensor, StreamState]:
        """Frames uint8 [T, I420 bytes] of the next latent [h, w], and the stream behind it."""
        ...


def make_patch_decoder(
    pixels: str,
    tokenizer: VideoTokenizer,
    grid: tuple[int, int],
    window: int,
    device: torch.device,
    progress: Progress,
) -> PatchDecoder:
    """`pixels` as in `runtime/config.py`; a latent is `grid`, `window` as in `StreamState`.

    Raises PixelsError for engines that were not made for this world.
    """
    if pixels == EAGER:
        return EagerPatchDecoder(tokenizer, grid, window)
    if pixels == COMPILED:
        compiled = CompiledPatchDecoder(tokenizer, grid, window)
        compiled.prepare(device, progress)
        return compiled
    return EnginePatchDecoder(Path(pixels), tokenizer, grid, window, device)


class _TokenizerPixels:
    """What the two ways of running the network in PyTorch share.

    Tokenizers with the published patches go from bands to I420 in one kernel.
    """

    def __init__(self, tokenizer: VideoTokenizer, grid: tuple[int, int], window: int) -> None:
        self._tokenizer, self._grid, self._window = tokenizer, grid, window
        config = tokenizer.config
        has_kernels = importlib.util.find_spec("triton") is not None
        self._patches = bool(
            has_kernels and config.patch_time and config.patch_size == _KERNEL_PATCH
        )

    def fresh(self) -> StreamState:
        return self._tokenizer.decode_stream_init(1, *self._grid, self._window)

    def _joined(self, made: Tensor, first: bool) -> Tensor:
        """Haar patches, or frames [1, C, T, H, W], to I420 [T, bytes]."""
        if self._patches:
            # here, because only what runs on a GPU needs Triton
            from worldbridge.kernels.detokenize import patches_to_i420

            return patches_to_i420(made.contiguous(), first)[0]
        return i420_planes(unit_to_bytes(made[0].float()).transpose(0, 1))


class EagerPatchDecoder(_TokenizerPixels):
    """By PyTorch, operation by operation.

    The network's features are in channels-last order by themselves (`models/tokenizer/layers.py`).
    """

    def planes(self, codes: Tensor, stream: StreamState) -> tuple[Tensor, StreamState]:
        first, latent = stream.fresh, codes[None, None]
        if self._patches:
            made, stream = self._tokenizer.decode_step_patches(latent, stream)
        else:
            made, stream = self._tokenizer.decode_step(latent, stream, check_range=False)
        return self._joined(made, first), stream


class CompiledPatchDecoder(_TokenizerPixels):
    """The network compiled for one latent of one stream, whose memory has fixed shapes.

    It has two graphs: of a stream's first latent, and of all others. What they compute is what
    `EagerPatchDecoder` computes, in another order.
    """

    def __init__(self, tokenizer: VideoTokenizer, grid: tuple[int, int], window: int) -> None:
        super().__init__(tokenizer, grid, window)
        use_private_compile_cache()
        # a graph for no memory and one for memory
        self._compiled: Any = torch.compile(self._latent, dynamic=False)

    def planes(self, codes: Tensor, stream: StreamState) -> tuple[Tensor, StreamState]:
        cache = None if stream.fresh else dict(stream.cache)
        made, cache = self._compiled(codes[None, None], cache)
        after = replace(stream, counts=(stream.counts[0] + 1,), cache=cache)
        return self._joined(made, stream.fresh), after

    @torch.inference_mode()
    def prepare(self, device: torch.device, progress: Progress) -> None:
        """Compile all there is, which takes a minute or two at the first start on a machine."""
        codes, stream = torch.zeros(self._grid, dtype=torch.long, device=device), self.fresh()
        # what a first latent remembers may lie in memory in another order than later on
        stages = "first frames of a stream", "frames behind them", "frames from then on"
        for number, what in enumerate(stages):
            progress(f"compiling the {what}", number / len(stages))
            _, stream = self.planes(codes, stream)

    def _latent(
        self, codes: Tensor, cache: dict[str, Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        run = FixedPass(self._window, cache)
        made = self._tokenizer.decode_pass(codes, run, patches=self._patches)
        return made, run.memory()


def use_private_compile_cache() -> None:
    """Keep compiled code in a directory that only this user can write, unless one is set.

    Inductor's default is a name in the shared temporary directory, which another user of the
    machine could create first, with code of theirs. Raises DetokenizerError if there is no such
    directory.
    """
    name = "TORCHINDUCTOR_CACHE_DIR"
    if os.environ.get(name):
        return
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "worldbridge" / "inductor"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # refused unless the directory is this user's
    except OSError as error:
        raise DetokenizerError(
            "there is no private directory for compiled code",
            expected=f"a directory {folder} that only this user can write",
            got=str(error),
            remedy=f"set {name} to one",
        ) from error
    os.environ[name] = str(folder)


class EnginePatchDecoder:
    """By the engines that `worldbridge export tensorrt` made of this world's tokenizer."""

    def __init__(
        self,
        folder: Path,
        tokenizer: VideoTokenizer,
        grid: tuple[int, int],
        window: int,
        device: torch.device,
    ) -> None:
        """Raises PixelsError."""
        # not above: only here anything of the export is needed
        from worldbridge.models.errors import ExportError
        from worldbridge.models.export import TensorRTDecoder

        try:
            self._decoder = TensorRTDecoder(folder)
        except ExportError as error:
            made = "a folder made by `worldbridge export tensorrt`"
            raise _unfit(folder, made, str(error)) from error
        exported = self._decoder.exported
        if exported.config != tokenizer.config:
            raise _unfit(folder, "engines of this world's tokenizer", "those of another one")
        ours = *grid, window if tokenizer.config.attention else None
        theirs = exported.height, exported.width, exported.window
        if theirs != ours:
            raise _unfit(
                folder, "grid {} x {}, window {}".format(*ours), "{} x {}, {}".format(*theirs)
            )
        self._grid, self._window, self._device = grid, exported.window, device

    def fresh(self) -> StreamState:
        return self._decoder.decode_stream_init(1, *self._grid, self._window)

    def planes(self, codes: Tensor, stream: StreamState) -> tuple[Tensor, StreamState]:
        frames, stream = self._decoder.decode_step(codes[None, None], stream, check_range=False)
        if self._decoder.exported.pixels == "bytes":
            rgb = frames[0].permute(0, 3, 1, 2)
        else:
            rgb = unit_to_bytes(frames[0]).transpose(0, 1)
        return i420_planes(rgb.to(self._device)), stream


def _unfit(folder: Path, expected: str, got: str) -> DetokenizerError:
    return DetokenizerError(
        f"the engines in {folder} do not fit",
        expected=expected,
        got=got,
        remedy="make them again from this world with `worldbridge export tensorrt`, or leave "
        "--detokenizer out",
    )
