"""Keys and values of past positions, in slots, and how rows of a forward attend to them."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.transformer.config import TransformerConfig
from worldbridge.models.transformer.positions import rotate_time

__all__ = ["Attend", "CacheRows", "KVCache", "attend_causally", "attend_to", "causal_mask"]

# layer, q [B, H, S, D], k and v [B, Hkv, S, D] -> [B, S, H * D]
Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(slots=True)
class KVCache:
    """Keys and values of every layer: [layers, slots, Hkv, entries, head_dim].

    `length` counts the entries that `VideoTransformer.forward` has filled, in all slots alike.
    """

    keys: Tensor
    values: Tensor
    length: int = 0
    free: list[int] = field(default_factory=list)  # slots that no session has

    @classmethod
    def allocate(cls, config: TransformerConfig, slots: int, entries: int, like: Tensor) -> KVCache:
        shape = (config.n_layers, slots, config.n_kv_heads, entries, config.head_dim)
        keys = like.new_zeros(shape, requires_grad=False)
        return cls(keys, torch.zeros_like(keys), free=list(range(slots))[::-1])

    def take_slot(self) -> int:
        """Return a free slot. Raises RuntimeError when there is none."""
        if not self.free:
            raise RuntimeError(
                f"no free slot for another session: all {self.keys.shape[1]} are taken; "
                "forget one, or build the decoder with a larger capacity"
            )
        return self.free.pop()

    def return_with(self, owner: object, slot: int) -> None:
        """Free a slot when its owner is garbage-collected."""
        weakref.finalize(owner, self.free.append, slot)

    def rotate(self, config: TransformerConfig, slot: int, kept: slice, latents: int) -> None:
        """Move what follows `latents` latents later to the entries `kept`, turned back in time."""
        size = config.latent_shape[1] * config.latent_shape[2]
        source = slice(kept.start + latents * size, kept.stop + latents * size)
        keys, values = self.keys[:, slot], self.values[:, slot]
        keys[:, :, kept] = rotate_time(config, keys[:, :, source].clone(), -latents)
        values[:, :, kept] = values[:, :, source].clone()

    def attend(self, rows: Sequence[CacheRows]) -> Attend:
        """Write the keys and values of each sequence, then attend to what its slot holds.

        Sequence by sequence: a short one costs little and never sees its neighbors.
        """

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mixed = []
            for b, own in enumerate(rows):
                keys, values = self.keys[layer, own.slot], self.values[layer, own.slot]
                keys[:, own.entries], values[:, own.entries] = k[b], v[b]
                seen = keys[None, :, : own.end], values[None, :, : own.end]
                mixed.append(attend_to(q[b][None], *seen, own.mask)[0])
            return torch.stack(mixed)

        return attend


@dataclass(frozen=True, slots=True)
class CacheRows:
    """Where S rows of one sequence write their keys and values, and what they attend to."""

    slot: int
    entries: slice | Tensor  # [S]
    end: int  # entries from here on are not read
    mask: Tensor  # [S, end] bool, True = attend

    @classmethod
    def continuing(cls, slot: int, first: int, count: int, device: torch.device) -> CacheRows:
        """Return `count` causal rows from entry `first` on."""
        end = first + count
        return cls(slot, slice(first, end), end, causal_mask(count, end, device))


def causal_mask(rows: int, end: int, device: torch.device) -> Tensor:
    """Return a mask [rows, end] for the last `rows` of `end` entries.

    On a GPU it is an object that stands for the mask: with a tensor, and fewer key heads than query
    heads, PyTorch's fast kernels cannot be used.
    """
    if device.type == "cuda":
        # Imported here because it imports PyTorch's compiler, which takes seconds.
        from torch.nn.attention import bias

        return bias.causal_lower_right(rows, end)
    entries = torch.arange(end, device=device)
    return entries <= entries[end - rows :, None]


def attend_causally(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend within the sequence alone, each row to itself and those before."""
    return attend_to(q, k, v, causal=True)


def attend_to(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Return [B, S, H * D] for q [B, H, S, D], k and v [B, Hkv, N, D], mask [S, N]."""
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
    )
    return out.transpose(1, 2).flatten(2)
