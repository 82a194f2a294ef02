"""The video tokenizer: frames to one integer per latent position and back, whole or as a stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldbridge.models.errors import require
from worldbridge.models.tokenizer.codec import Decoder, Encoder
from worldbridge.models.tokenizer.config import TokenizerConfig
from worldbridge.models.tokenizer.fsq import FSQ
from worldbridge.models.tokenizer.layers import Pointwise, TemporalAttention, TemporalConv
from worldbridge.models.tokenizer.stream import Pass, StreamState

__all__ = ["VideoTokenizer", "check_indices"]

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.uint8)


class VideoTokenizer(nn.Module):
    """Causal: a latent depends on no later frame, and a frame on no later latent.

    Shapes: video [B, C, T, H, W] in [-1, 1]; indices int64 [B, t, h, w]; codes [B, D, t, h, w].
    With n = temporal_compression and s = spatial_compression, T = 1 + n * (t - 1), H = s * h,
    W = s * w: the first latent is one frame, every later one n frames.

    All methods raise InputError for a wrong shape, type or index before any work.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = Pointwise(config.z_channels, config.embedding_dim)
        self.quantizer = FSQ(config.levels)
        self.post_quant_conv = Pointwise(config.embedding_dim, config.z_channels)
        self.decoder = Decoder(config)
        for name, module in self.named_modules():
            if isinstance(module, (TemporalConv, TemporalAttention)):
                module.key = name

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """Return (reconstruction, indices); the gradient passes the quantizer unchanged."""
        codes = self._codes(video)
        z = self.post_quant_conv(codes)
        return self.decoder(z, Pass(len(video))), self._indices(codes, len(video))

    def encode(self, video: Tensor) -> Tensor:
        """Encode a whole video to indices."""
        return self._indices(self._codes(video), len(video))

    def encode_codes(self, video: Tensor) -> Tensor:
        """Encode a whole video to codes."""
        return torch.unflatten(self._codes(video), 0, (len(video), -1)).transpose(1, 2)

    def decode(self, indices: Tensor) -> Tensor:
        """Decode indices to a whole video, not clamped."""
        check_indices(self.config, indices)
        return self.decode_pass(indices, Pass(len(indices)))

    def decode_stream_init(
        self, batch: int, height: int, width: int, window: int | None = None
    ) -> StreamState:
        """Return the fresh state of `batch` streams with a latent grid of height x width.

        `window` bounds memory: the temporal attention sees that many past latents. With None it
        sees all, and the stream equals the whole video.
        """
        return StreamState.start(batch, height, width, window)

    def decode_step(
        self, indices: Tensor, state: StreamState, check_range: bool = True
    ) -> tuple[Tensor, StreamState]:
        """Decode the next latents [B, t, h, w]; return (frames [B, C, T, H, W], the next state).

        T is 1 + n * (t - 1) for a fresh state, and n * t afterwards. `check_range=False` trusts
        the indices and so does not wait for a GPU.
        """
        if check_range:
            check_indices(self.config, indices)
        return self._step(indices, state, patches=False)

    def decode_step_patches(
        self, indices: Tensor, state: StreamState
    ) -> tuple[Tensor, StreamState]:
        """Do as `decode_step`, but return Haar patches [B, T, bands * C, h, w].

        `kernels/detokenize.py` joins them. The indices are trusted.
        """
        return self._step(indices, state, patches=True)

    def decode_pass(self, indices: Tensor, run: Pass, *, patches: bool = False) -> Tensor:
        """Do as `decode_step` or `decode_step_patches`, with a past that the caller provides."""
        dtype = self.post_quant_conv.conv3d.weight.dtype
        codes = self.quantizer.indices_to_codes(indices.flatten(0, 1), dtype)
        z = self.post_quant_conv(codes.permute(0, 3, 1, 2))
        return self.decoder.patches(z, run) if patches else self.decoder(z, run)

    def _step(
        self, indices: Tensor, state: StreamState, patches: bool
    ) -> tuple[Tensor, StreamState]:
        state.check(len(indices), *indices.shape[2:])
        run = Pass(len(indices), state)
        return self.decode_pass(indices, run, patches=patches), run.next_state(indices.shape[1])

    def _codes(self, video: Tensor) -> Tensor:
        """Return codes [B * t, D, h, w], folded as in layers.py."""
        check_video(self.config, video)
        z: Tensor = self.quant_conv(self.encoder(video, Pass(len(video))))
        return self.quantizer.quantize(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _indices(self, codes: Tensor, batch: int) -> Tensor:
        indices = self.quantizer.codes_to_indices(codes.permute(0, 2, 3, 1))
        return torch.unflatten(indices, 0, (batch, -1))


def check_video(config: TokenizerConfig, video: Tensor) -> None:
    """Raise InputError unless this is a whole video, of 1 + k * n frames."""
    colours, size, n = config.in_channels, config.spatial_compression, config.temporal_compression
    _check_shape("video", video, f"[B, {colours}, T, H, W]", colours)
    expected, remedy = "floating point values in [-1, 1]", "convert bytes with x / 127.5 - 1"
    require(video.is_floating_point(), "video", expected, video.dtype, remedy)
    frames, height, width = video.shape[2:]
    for name, side in (("video height", height), ("video width", width)):
        remedy = f"crop to {side - side % size} or pad to {side + -side % size}"
        expected = f"a multiple of {size} (spatial_compression)"
        require(side % size == 0, name, expected, side, remedy)
    require((frames - 1) % n == 0, "video frames", f"1 + k * {n} of them", frames)


def check_indices(config: TokenizerConfig, indices: Tensor) -> None:
    """Raise InputError unless these are indices of the codebook.

    On a GPU this waits for the smallest and the largest of them.
    """
    _check_shape("indices", indices, "[B, t, h, w]", None)
    require(indices.dtype in _INTEGERS, "indices", "integers", indices.dtype)
    low, high = (int(x) for x in indices.aminmax())
    fits = low >= 0 and high < config.vocabulary
    require(fits, "indices", f"values in 0..{config.vocabulary - 1}", f"{low}..{high}")


def _check_shape(name: str, value: Tensor, expected: str, channels: int | None) -> None:
    fits = value.dim() == expected.count(",") + 1 and channels in (None, value.shape[1])
    require(fits, name, f"shape {expected}", list(value.shape))
    require(value.numel() > 0, name, f"{expected} with no empty axis", list(value.shape))
