"""How far back a decoded latent looks."""

from __future__ import annotations

from worldbridge.models.tokenizer.config import TokenizerConfig

__all__ = ["decoder_receptive_field"]

_CONV = 2  # frames before it that a temporal convolution sees
_BLOCK = 2 * _CONV


def decoder_receptive_field(config: TokenizerConfig, window: int) -> int:
    """How many earlier latents the frames of a latent depend on, at most.

    A decoder that is fed so many latents before, from a fresh state and one by one, makes the very
    frames that it would have made in the middle of the stream. `window` is that of the stream's
    temporal attention. For DV8x16x16 it is 42 + window.

    Counted from the frames back to the latents: convolutions add what they see at their rate, and
    where the decoder doubles the rate, two frames stem from one.
    """
    everywhere, in_the_middle = config.temporal_convs == "all", config.temporal_convs != "none"
    frames = _CONV if everywhere else 0  # the last convolution
    for level, blocks in enumerate(config.decoder_res_blocks):
        if level > 0 and config.up_steps()[level - 1].time:
            frames = -(-(frames + _CONV) // 2)
        frames += blocks * _BLOCK if everywhere else 0
    frames += config.decoder_mid_blocks * _BLOCK if in_the_middle else 0
    frames += window if config.attention else 0
    return frames + (_CONV if everywhere else 0)  # the first convolution
