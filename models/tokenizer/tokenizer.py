"""The video tokenizer: frames <-> one integer per latent position, whole or as a stream."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from worldbridge.models.tokenizer import checks
from worldbridge.models.tokenizer.codec import Decoder, Encoder
from worldbridge.models.tokenizer.config import TokenizerConfig
from worldbridge.models.tokenizer.fsq import FSQ
from worldbridge.models.tokenizer.layers import Pointwise, TemporalAttention, TemporalConv
from worldbridge.models.tokenizer.stream import Pass, StreamState

__all__ = ["VideoTokenizer"]


class VideoTokenizer(nn.Module):
    """Causal: a latent depends on no later frame, and a frame on no later latent.

    Shapes: video [B, C, T, H, W] in [-1, 1]; indices int64 [B, t, h, w]; codes [B, D, t, h, w].
    With n = temporal_compression and s = spatial_compression, T = 1 + n * (t - 1), H = s * h,
    W = s * w: the first latent is one frame, every later one n frames.

    All methods raise ValueError for a wrong shape, type or index before any work.
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

    # Whole videos

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(reconstruction, indices); the gradient passes the quantiser unchanged."""
        checks.video(self.config, video, first=True)
        run = Pass(len(video))
        codes = self._codes(video, run)
        return self._pixels(codes, run), self._indices(codes, run)

    def encode(self, video: Tensor) -> Tensor:
        """Video -> indices."""
        checks.video(self.config, video, first=True)
        run = Pass(len(video))
        return self._indices(self._codes(video, run), run)

    def encode_codes(self, video: Tensor) -> Tensor:
        """Video -> codes."""
        checks.video(self.config, video, first=True)
        run = Pass(len(video))
        return _by_channel(self._codes(video, run), run)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices -> video, not clamped."""
        checks.indices(self.config, indices)
        return self._pixels(self._look_up(indices), Pass(len(indices)))

    def decode_codes(self, codes: Tensor) -> Tensor:
        """Codes -> video, not clamped."""
        checks.codes(self.config, codes)
        return self._pixels(codes.transpose(1, 2).flatten(0, 1), Pass(len(codes)))

    # Streams

    def encode_stream_init(
        self, batch: int, height: int, width: int, window: int | None = None
    ) -> StreamState:
        """Fresh state for `encode_step`; arguments as for `decode_stream_init`."""
        checks.stream_shape(batch, height, width, window)
        return StreamState("encode", batch, height, width, window, (0,) * batch)

    def decode_stream_init(
        self, batch: int, height: int, width: int, window: int | None = None
    ) -> StreamState:
        """Fresh state of `batch` streams with a latent grid of height x width.

        `window` bounds memory: the temporal attention sees that many earlier latents. With None
        it sees all, and the stream equals the whole video.
        """
        checks.stream_shape(batch, height, width, window)
        return StreamState("decode", batch, height, width, window, (0,) * batch)

    def encode_step(self, video: Tensor, state: StreamState) -> tuple[Tensor, StreamState]:
        """The next frames [B, C, T, H, W] -> (indices [B, t, h, w], state after them).

        T is 1 + k * n for a fresh state, and k * n with k >= 1 afterwards.
        """
        size = self.config.spatial_compression
        checks.video(self.config, video, first=state.fresh)
        checks.state(state, "encode", len(video), video.shape[3] // size, video.shape[4] // size)
        run = Pass(len(video), state)
        indices = self._indices(self._codes(video, run), run)
        return indices, run.next_state(indices.shape[1])

    def decode_step(
        self, indices: Tensor, state: StreamState, check_range: bool = True
    ) -> tuple[Tensor, StreamState]:
        """The next latents [B, t, h, w] -> (frames [B, C, T, H, W], state after them).

        T is 1 + n * (t - 1) for a fresh state, and n * t afterwards. `check_range=False` trusts
        the indices and so does not wait for a GPU.
        """
        if check_range:
            checks.indices(self.config, indices)
        checks.state(state, "decode", len(indices), *indices.shape[2:])
        run = Pass(len(indices), state)
        return self._pixels(self._look_up(indices), run), run.next_state(indices.shape[1])

    def decode_step_patches(
        self, indices: Tensor, state: StreamState
    ) -> tuple[Tensor, StreamState]:
        """As `decode_step`, but Haar patches [B, T, bands * C, h, w] for `kernels/detokenize.py`.

        Trusts the indices.
        """
        checks.state(state, "decode", len(indices), *indices.shape[2:])
        run = Pass(len(indices), state)
        return self.decode_pass(indices, run, patches=True), run.next_state(indices.shape[1])

    def decode_pass(self, indices: Tensor, run: Pass, *, patches: bool = False) -> Tensor:
        """What `decode_step` does, or `decode_step_patches`, with a past of the caller's making."""
        z = self.post_quant_conv(self._look_up(indices))
        return self.decoder.patches(z, run) if patches else self.decoder(z, run)

    # Folded codes [B * t, D, h, w], see layers.py

    def _codes(self, video: Tensor, run: Pass) -> Tensor:
        z: Tensor = self.quant_conv(self.encoder(video, run))
        return self.quantizer.quantize(z.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _indices(self, codes: Tensor, run: Pass) -> Tensor:
        indices = self.quantizer.codes_to_indices(codes.permute(0, 2, 3, 1))
        return torch.unflatten(indices, 0, (run.batch, -1))

    def _look_up(self, indices: Tensor) -> Tensor:
        dtype = self.post_quant_conv.conv3d.weight.dtype
        codes = self.quantizer.indices_to_codes(indices.flatten(0, 1), dtype)
        return codes.permute(0, 3, 1, 2)

    def _pixels(self, codes: Tensor, run: Pass) -> Tensor:
        video: Tensor = self.decoder(self.post_quant_conv(codes), run)
        return video


def _by_channel(codes: Tensor, run: Pass) -> Tensor:
    """[B * t, D, h, w] -> [B, D, t, h, w]."""
    return torch.unflatten(codes, 0, (run.batch, -1)).transpose(1, 2)
