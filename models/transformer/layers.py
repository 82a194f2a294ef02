"""Building blocks of the transformer. Names of weights are the published ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldbridge.models.transformer.cache import attend_to
from worldbridge.models.transformer.config import TransformerConfig
from worldbridge.models.transformer.positions import apply_rotary

__all__ = [
    "Attention",
    "Block",
    "CrossAttention",
    "FeedForward",
    "MedusaHeads",
    "Modulation",
    "RMSNorm",
    "modulated",
]


class MedusaHeads(nn.Module):
    """Head k, from 1 to `count`, drafts the token k places behind the one its network predicts.

    h_k = x + silu(W_k x), where x is the network's last hidden state (after its final norm); the
    network's own unembedding makes a distribution of h_k. Begins as h_k = x. Structure: arXiv
    2501.03575, section 5.2.4, after "Medusa" (Cai et al. 2024); all heads are one matrix.
    """

    def __init__(self, dim: int, count: int = 9) -> None:
        super().__init__()
        if count < 1:
            raise ValueError(f"expected at least one head, got {count}")
        self.dim, self.count = dim, count
        self.weight = nn.Parameter(torch.zeros(count * dim, dim))  # W_1 above W_2 above ...

    @classmethod
    def merged(cls, matrices: Sequence[Tensor]) -> Self:
        """From the matrices [dim, dim] of single heads, the first head first."""
        heads = cls(matrices[0].shape[-1], len(matrices))
        with torch.no_grad():
            heads.weight.copy_(torch.cat(list(matrices)))
        return heads

    def matrices(self) -> tuple[Tensor, ...]:
        """The matrix [dim, dim] of every head; inverse of `merged`."""
        return self.weight.split(self.dim)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., dim] -> hidden states of the heads [..., count, dim]."""
        return self.join(x, F.linear(x, self.weight))

    def join(self, x: Tensor, product: Tensor) -> Tensor:
        """What `forward` gives, from the product [..., count * dim] of x and `weight`."""
        return x[..., None, :] + F.silu(product.unflatten(-1, (self.count, self.dim)))


_Pair = tuple[Tensor, Tensor]


class RMSNorm(nn.Module):
    """x * rsqrt(mean(x^2) + eps) in float32, cast back, then times the weight."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normed.to(x.dtype) * self.weight


class Attention(nn.Module):
    """Grouped-query self-attention with per-head QK normalisation before the rotation."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, query, bias=False)
        self.wk = nn.Linear(config.dim, kv, bias=False)
        self.wv = nn.Linear(config.dim, kv, bias=False)
        self.wo = nn.Linear(query, config.dim, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def qkv(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return q [..., H, S, D], k and v [..., Hkv, S, D] of x [..., S, dim].

        q and k are rotated by cos and sin, [S, D/2] or [..., S, D/2].
        """
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head_dim)) for layer in (self.wq, self.wk, self.wv)
        )
        cos, sin = cos.unsqueeze(-3), sin.unsqueeze(-3)
        q = apply_rotary(self.q_norm(q).transpose(-3, -2), cos, sin)
        k = apply_rotary(self.k_norm(k).transpose(-3, -2), cos, sin)
        return q, k, v.transpose(-3, -2)


class CrossAttention(nn.Module):
    """Attention to a constant context: no rotation, no gate, keys and values computed once."""

    def __init__(self, config: TransformerConfig, context_dim: int) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        query, kv = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.wq = nn.Linear(config.dim, query, bias=False)
        self.wk = nn.Linear(context_dim, kv, bias=False)
        self.wv = nn.Linear(context_dim, kv, bias=False)
        self.wo = nn.Linear(query, config.dim, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """context [B, M, context_dim] -> k, v [B, Hkv, M, D]."""
        k, v = (layer(context).unflatten(-1, (-1, self.head_dim)) for layer in (self.wk, self.wv))
        return self.k_norm(k).transpose(1, 2), v.transpose(1, 2)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        q = self.q_norm(self.wq(x).unflatten(-1, (-1, self.head_dim))).transpose(1, 2)
        return self.wo(attend_to(q, *keys_values))


class FeedForward(nn.Module):
    """SwiGLU: w2(silu(w1 x) * w3 x)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.ffn_hidden_size, bias=False)
        self.w2 = nn.Linear(config.ffn_hidden_size, config.dim, bias=False)
        self.w3 = nn.Linear(config.dim, config.ffn_hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Modulation(nn.Module):
    """Scale and shift after each norm from the per-latent condition (adaptive normalisation).

    Starts as the identity. Computed once per latent, so its cost per token is two multiply-adds.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.condition_hidden, 4 * config.dim)
        nn.init.zeros_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """hidden [..., condition_hidden] -> four tensors [..., dim]."""
        return self.project(hidden).chunk(4, dim=-1)


class Block(nn.Module):
    """One decoder layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.dim, config.norm_eps)
        self.attention = Attention(config)
        self.ffn_norm = RMSNorm(config.dim, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.cross_attention: CrossAttention | None = None
        if config.context_dim is not None:
            self.cross_attention_norm = RMSNorm(config.dim, config.norm_eps)
            self.cross_attention = CrossAttention(config, config.context_dim)
        self.modulation: Modulation | None = None
        if config.conditioning == "modulation":
            self.modulation = Modulation(config)

    def forward(
        self,
        h: Tensor,
        cos: Tensor,
        sin: Tensor,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
        context: tuple[Tensor, Tensor] | None = None,
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return h [..., S, dim] after this layer.

        `attend` maps q, k and v, as `Attention.qkv` gives them, to [..., S, H * D]. `context` are
        keys and values of cross-attention; condition [..., condition_hidden] modulates the norms.
        """
        before, after = (None, None) if condition is None else self.modulate(condition)
        q, k, v = self.attention.qkv(modulated(self.attention_norm(h), before), cos, sin)
        h = h + self.attention.wo(attend(q, k, v))
        if self.cross_attention is not None:
            if context is None:
                raise ValueError("this model has cross-attention: pass context_keys_values")
            h = h + self.cross_attention(self.cross_attention_norm(h), context)
        return h + self.feed_forward(modulated(self.ffn_norm(h), after))

    def modulate(self, condition: Tensor) -> tuple[_Pair | None, _Pair | None]:
        """Scale and shift for the attention and for the feed-forward norm, [..., dim] each."""
        if self.modulation is None:
            return None, None
        a, b, c, d = self.modulation(condition)
        return (a, b), (c, d)


def modulated(x: Tensor, pair: _Pair | None) -> Tensor:
    if pair is None:
        return x
    scale, shift = pair
    return x * (1 + scale) + shift
