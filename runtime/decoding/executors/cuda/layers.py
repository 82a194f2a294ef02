"""The network in kernels: what every decode step on the device runs, however it samples.

A step (`step.py`) says which tokens are fed and where (`Placed`), gets logits, and samples from
them. The layers between are here, with the memory they work in: every buffer is allocated once, for
the largest batch. What a model with absolute positions or cameras needs besides comes from
PyTorch's allocator and has the same size each time.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from worldbridge.kernels.attention import MAX_TOKENS, AttentionWorkspace, decode_attention
from worldbridge.kernels.norm import rms_norm
from worldbridge.kernels.rope import rope_write
from worldbridge.kernels.sampling import SamplingWorkspace, sample_and_verify
from worldbridge.kernels.skinny_gemm import MAX_ROWS, Epilogue, Workspace, config_for, skinny_gemm
from worldbridge.kernels.speculative import DraftBuffer
from worldbridge.models.transformer import TransformerConfig
from worldbridge.models.transformer.positions import absolute_table, rotary_table
from worldbridge.runtime.decoding.executors.cuda.weights import (
    CrossWeights,
    CudaWeights,
    LayerWeights,
    Matrix,
)
from worldbridge.runtime.decoding.sampling import Sampling

__all__ = ["MAX_STEP_ROWS", "Buffers", "CudaLayers", "LatentState", "Placed", "StepShape"]

MAX_STEP_ROWS = MAX_TOKENS  # of one session
_CERTAIN = 1e30  # a logit that no other comes near, at any temperature above 1e-8


@dataclass(frozen=True, slots=True)
class StepShape:
    """What a step is built for."""

    sessions: int  # the largest batch
    rows: int  # tokens fed per session
    width: int  # of these, how many are sampled behind
    size: int  # tokens of a latent
    follow: bool  # heads draft behind the last final token (mode medusa), not the last row
    context_rows: int = 0  # the longest context of cross-attention
    split: int = 256  # cache entries that attention takes at a stretch; part of its rounding


@dataclass(frozen=True, slots=True)
class Placed:
    """What a forward feeds, and where; read on the device."""

    tokens: Tensor  # int64 [n, rows]
    # int64 [n], of the first token in the session's slot, whose others follow it (-1: idle); or
    # [n, rows], of each token (-1: a row that writes nothing)
    entries: Tensor
    # bool [n, rows, S], the entries that each row sees; None: all up to its own
    mask: Tensor | None = None


@dataclass(frozen=True, slots=True)
class LatentState:
    """What the host writes before a latent, one row for each place of the batch."""

    feed: DraftBuffer
    seeds: Tensor  # int64 [sessions], taken as 64 bits
    slots: Tensor  # int64 [sessions], of the cache
    given: Tensor  # int64 [sessions, size + rows], tokens of the latent that are known; -1 = sample
    views: Tensor | None  # [sessions, size, dim], what cameras add to the tokens
    context_keys: Tensor | None  # [layers, sessions, Hkv, context_rows, D]
    context_values: Tensor | None
    context_seen: Tensor | None  # bool [sessions, context_rows]

    @classmethod
    def allocate(
        cls, config: TransformerConfig, shape: StepShape, heads: int, keys: Tensor
    ) -> LatentState:
        """All idle. `heads` is how many are counted, keys a tensor of the rings' type and place."""

        def integers(*sizes: int) -> Tensor:
            return torch.zeros(sizes, dtype=torch.int64, device=keys.device)

        n = shape.sessions
        feed = DraftBuffer(
            tokens=integers(n, 1 + shape.size + shape.rows),
            num_accepted=integers(n).fill_(shape.size),
            first_entries=integers(n),
            first_positions=integers(n),
            counts=integers(n, 3 + 2 * heads),
            size=shape.size,
            width=shape.width,
        )
        context = views = None
        if shape.context_rows:
            sizes = (config.n_layers, n, config.n_kv_heads, shape.context_rows, config.head_dim)
            context = keys.new_zeros(sizes)
        if config.takes_camera:
            views = keys.new_zeros((n, shape.size, config.dim))
        return cls(
            feed,
            integers(n),
            integers(n),
            integers(n, shape.size + shape.rows).fill_(-1),
            views,
            context,
            None if context is None else torch.zeros_like(context),
            None if context is None else integers(n, shape.context_rows).bool(),
        )

    def restore_given(self, sessions: int) -> None:
        """Write the known tokens to the draft buffer, where drafts have replaced them."""
        size = self.feed.size
        line, given = self.feed.tokens[:sessions, 1 : 1 + size], self.given[:sessions, :size]
        line.copy_(torch.where(given < 0, line, given))


class Buffers:
    """Between the kernels. `n` sessions of `rows` tokens are the first n * rows rows."""

    def __init__(
        self,
        config: TransformerConfig,
        weights: CudaWeights,
        shape: StepShape,
        keys: Tensor,
        logits: int | None = None,
    ) -> None:
        """`logits`: rows of these, if not one for each row."""
        device, rows = keys.device, shape.sessions * shape.rows
        query = config.n_heads * config.head_dim

        def empty(dtype: torch.dtype, *sizes: int) -> Tensor:
            return torch.empty(sizes, dtype=dtype, device=device)

        own, taken = keys.dtype, weights.activations
        self.stream = empty(weights.stream, rows, config.dim)
        self.normed = empty(taken, rows, config.dim)
        self.qkv = empty(own, rows, query + 2 * config.n_kv_heads * config.head_dim)
        self.query = empty(own, rows, query)
        self.mixed = empty(taken, rows, query)
        self.hidden = empty(taken, rows, config.ffn_hidden_size)
        self.logits = empty(torch.float32, logits or rows, config.vocab_size)
        self.sampled = torch.zeros(shape.sessions, shape.rows, dtype=torch.int64, device=device)


class CudaLayers:
    """`features` runs the network over what a step feeds, `logits` goes on to what `sample`
    needs."""

    def __init__(
        self,
        config: TransformerConfig,
        weights: CudaWeights,
        keys: Tensor,
        values: Tensor,
        sampling: Sampling,
        shape: StepShape,
    ) -> None:
        """Keys and values [layers, capacity, Hkv, S, D] are the rings, of the model's type.

        Raises ValueError for sizes that the kernels cannot take.
        """
        _check_shape(config, weights, shape)
        self.config, self.weights, self.shape = config, weights, shape
        self.keys, self.values, self.sampling = keys, values, sampling
        heads = weights.count_of_heads
        self.state = LatentState.allocate(config, shape, heads if shape.follow else 0, keys)
        self.buffers = self._make_buffers()
        self._allocate_workspaces()
        angles = rotary_table(config).to(keys.device)
        self.cos, self.sin = angles.cos().float(), angles.sin().float()
        self.steps = torch.arange(shape.rows, device=keys.device)
        self.absolute: Tensor | None = None
        if config.apply_abs_pos_emb:
            self.absolute = absolute_table(config).to(keys)

    def run(self, sessions: int, given: bool = False) -> None:
        """Run one step of the first places of `state`, with or without known tokens."""
        raise NotImplementedError

    def force(self, logits: Tensor, offsets: Tensor) -> None:
        """Let logits [n, rows, vocab] at offsets [n, rows] choose the tokens that are given."""
        own = self.state.given[: len(offsets)]
        token = own.gather(1, offsets.clamp(0, own.shape[1] - 1))[..., None]
        certain = torch.where(token < 0, 0.0, _CERTAIN)
        logits.scatter_add_(2, token.clamp_min(0), certain)

    def bytes_read(self, sessions: int) -> int:
        """What a step of so many sessions reads of the weights."""
        return self.weights.bytes_read(sessions, self.shape.rows)

    def own_logits(self, sessions: int) -> Tensor:
        """Float32 [n, rows, vocab], what the newest step of n sessions sampled from."""
        return self.buffers.logits[: sessions * self.shape.rows].unflatten(0, (sessions, -1))

    def logits(self, placed: Placed) -> Tensor:
        """Float32 [n * rows, vocab]; `buffers.stream` keeps the stream before the last norm."""
        logits = self.buffers.logits[: placed.tokens.numel()]
        return self._product(self.features(placed), self.weights.output, logits)

    def features(self, placed: Placed) -> Tensor:
        """[n * rows, dim], what logits are made of."""
        buffers, rows = self.buffers, placed.tokens.numel()
        stream = self._embed(placed)
        added = self._absolute_positions(placed)
        for i, layer in enumerate(self.weights.layers):
            if added is not None:
                stream.add_(added)
            self._attend(i, layer, stream, placed)
            if layer.cross is not None:
                self._attend_context(i, layer.cross, stream)
            hidden = self._under_norm(stream, layer.gate_up, buffers.hidden[:rows], "swiglu")
            self._add_product(hidden, layer.down, stream)
        features, eps = buffers.normed[:rows], self.config.norm_eps
        return rms_norm(stream, eps, weight=self.weights.norm, out=features)

    def sample(
        self,
        logits: Tensor,
        positions: Tensor,
        seeds: Tensor,
        out: tuple[Tensor, Tensor],
        drafts: Tensor | None = None,
        limits: Tensor | None = None,
    ) -> None:
        """Sample with the noise of the positions from logits [n, T, vocab] into `out`."""
        sample_and_verify(
            logits,
            positions,
            seeds,
            drafts if logits.shape[1] > 1 else None,
            limits=limits,
            **dataclasses.asdict(self.sampling),
            out=out,
            workspace=self.sampling_space,
            chunk=self.chunk,
        )

    # -- parts ----------------------------------------------------------------------------------

    def _embed(self, placed: Placed) -> Tensor:
        """The residual stream [n * rows, dim]."""
        tokens, views = placed.tokens.flatten(), self.state.views
        stream = self.buffers.stream[: len(tokens)]
        if stream.dtype == self.weights.embedding.dtype:
            torch.index_select(self.weights.embedding, 0, tokens, out=stream)
        else:
            stream.copy_(self.weights.embedding.index_select(0, tokens))
        if views is not None:
            sessions = len(placed.entries)
            offsets = self._entries_of_rows(placed) - self.state.feed.first_entries[:sessions, None]
            # rows beyond the latent's end, and those that write nothing, are ignored later
            at = offsets.clamp(0, self.shape.size - 1)[..., None]
            stream.add_(views[:sessions].gather(1, at.expand(-1, -1, views.shape[2])).flatten(0, 1))
        return stream

    def _absolute_positions(self, placed: Placed) -> Tensor | None:
        """[n * rows, dim], what is added before every layer."""
        if self.absolute is None:
            return None
        at = self._entries_of_rows(placed).clamp(0, len(self.absolute) - 1)
        return self.absolute.index_select(0, at.flatten())

    def _entries_of_rows(self, placed: Placed) -> Tensor:
        """[n, rows]; entries are places of a window."""
        entries = placed.entries
        return entries[:, None] + self.steps if entries.ndim == 1 else entries

    def _attend(self, i: int, layer: LayerWeights, stream: Tensor, placed: Placed) -> None:
        """Add self-attention to the stream; keys and values of what is fed go into the rings."""
        rows, entries = len(stream), placed.entries
        qkv = self._under_norm(stream, layer.qkv, self.buffers.qkv[:rows])
        query, mixed = self.buffers.query[:rows], self.buffers.mixed[:rows]
        keys, values = self.keys[i], self.values[i]
        slots, each = self.state.slots[: len(entries)], entries.ndim == 2
        rope_write(
            self._by_session(qkv),
            layer.query_norm,
            layer.key_norm,
            self.cos,
            self.sin,
            keys,
            values,
            None if each else entries,
            entries=entries if each else None,
            rows=entries if each else None,
            slots=slots,
            eps=self.config.norm_eps,
            out=self._by_head(query),
        )
        decode_attention(
            self._by_head(query),
            keys,
            values,
            entries if placed.mask is None else None,
            mask=placed.mask,
            slots=slots,
            out=self._by_head(mixed),
            workspace=self.attention_space,
            split=self.shape.split,
        )
        self._add_product(mixed, layer.out, stream)

    def _attend_context(self, i: int, cross: CrossWeights, stream: Tensor) -> None:
        """Add attention to the sessions' contexts, which are not rotated."""
        state, rows = self.state, len(stream)
        assert state.context_keys is not None and state.context_values is not None
        assert state.context_seen is not None and self.context_space is not None
        query, mixed = self.buffers.query[:rows], self.buffers.mixed[:rows]
        self._under_norm(stream, cross.query, query)
        heads = query.view(-1, self.config.head_dim)
        rms_norm(heads, self.config.norm_eps, weight=cross.query_norm, out=heads)
        q = self._by_head(query)
        seen = state.context_seen[: len(q), None].expand(-1, self.shape.rows, -1)
        decode_attention(
            q,
            state.context_keys[i, : len(q)],
            state.context_values[i, : len(q)],
            mask=seen,
            out=self._by_head(mixed),
            workspace=self.context_space,
            split=self.shape.split,
        )
        self._add_product(mixed, cross.out, stream)

    # -- products -------------------------------------------------------------------------------

    def _under_norm(
        self, stream: Tensor, matrix: Matrix, out: Tensor, epilogue: Epilogue = "none"
    ) -> Tensor:
        """The normed stream times a matrix that has taken over the norm's weight."""
        eps = self.config.norm_eps
        if stream.dtype == self.weights.activations:
            return self._product(stream, matrix, out, epilogue=epilogue, norm_eps=eps)
        normed = rms_norm(stream, eps, out=self.buffers.normed[: len(stream)])
        return self._product(normed, matrix, out, epilogue=epilogue)

    def _add_product(self, x: Tensor, matrix: Matrix, stream: Tensor) -> None:
        self._product(x, matrix, stream, epilogue="residual", residual=stream)

    def _product(
        self,
        x: Tensor,
        matrix: Matrix,
        out: Tensor,
        *,
        epilogue: Epilogue = "none",
        residual: Tensor | None = None,
        norm_eps: float | None = None,
    ) -> Tensor:
        """More rows than the kernel takes read the matrix more than once, in parts alike."""
        each = -(-len(x) // -(-len(x) // MAX_ROWS))
        for first in range(0, len(x), each):
            part = slice(first, min(first + each, len(x)))
            skinny_gemm(
                x[part],
                matrix.rows,
                scale=matrix.scale,
                epilogue=epilogue,
                norm_eps=norm_eps,
                residual=None if residual is None else residual[part],
                out=out[part],
                workspace=self.product_space,
            )
        return out

    # -- memory ---------------------------------------------------------------------------------

    def _make_buffers(self) -> Buffers:
        return Buffers(self.config, self.weights, self.shape, self.keys)

    def _sampled(self) -> tuple[int, int]:
        """The most sequences of tokens that are sampled together, and the longest of them."""
        return self.shape.sessions, self.shape.rows

    def _by_session(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.shape.rows, rows.shape[1])

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.view(-1, self.shape.rows, self.config.n_heads, self.config.head_dim)

    def _allocate_workspaces(self) -> None:
        config, weights, shape, device = self.config, self.weights, self.shape, self.keys.device
        matrices = [weights.output]
        for layer in weights.layers[:1]:  # all layers are alike
            matrices += [layer.qkv, layer.out, layer.gate_up, layer.down]
            if layer.cross is not None:
                matrices += [layer.cross.query, layer.cross.out]
        most = min(MAX_ROWS, shape.sessions * shape.rows)
        self.product_space = Workspace.allocate(
            [
                (config_for(rows, matrix.rows.dtype), *matrix.rows.shape)
                for matrix in matrices
                for rows in {1, most}
            ],
            device,
        )
        # codes of one program; a small vocabulary needs no more than it has
        self.chunk = min(4096, max(64, triton.next_power_of_2(config.vocab_size)))
        self.sampling_space = SamplingWorkspace.allocate(
            *self._sampled(), config.vocab_size, device, self.chunk
        )
        self.attention_space = AttentionWorkspace.allocate(
            shape.sessions, shape.rows, config.n_heads, self.keys[0], split=shape.split
        )
        self.context_space: AttentionWorkspace | None = None
        if self.state.context_keys is not None:
            self.context_space = AttentionWorkspace.allocate(
                shape.sessions,
                shape.rows,
                config.n_heads,
                self.state.context_keys[0],
                split=shape.split,
            )


def _check_shape(config: TransformerConfig, weights: CudaWeights, shape: StepShape) -> None:
    if not 1 <= shape.width <= shape.rows <= MAX_STEP_ROWS:
        raise ValueError(
            f"a step on the device feeds 1 to {MAX_STEP_ROWS} tokens per session, and samples "
            f"behind at most as many; got {shape.rows} and {shape.width}. Use a smaller window or "
            "padding, fewer heads, or a larger row_lag"
        )
    if config.head_dim < 16:
        raise ValueError(
            f"the attention kernel needs heads of at least 16 channels, got {config.head_dim}; "
            "use the eager executor"
        )
    if (config.context_dim is not None) != (shape.context_rows > 0):
        raise ValueError(
            f"expected context rows exactly for a model with cross-attention, got "
            f"{shape.context_rows} with context_dim {config.context_dim}"
        )
    if weights.count_of_heads and shape.follow and shape.width != weights.count_of_heads + 1:
        raise ValueError(
            f"{weights.count_of_heads} heads need a width of one more, got {shape.width}"
        )
