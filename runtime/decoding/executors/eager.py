"""Forwards of models in raster order by PyTorch, over the model's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.conditioning.camera import pluecker_rays
from worldbridge.models.transformer import CacheRows, KVCache, MedusaHeads, VideoTransformer
from worldbridge.models.transformer.positions import absolute_table, rotary_table
from worldbridge.runtime.decoding.drafts import TokenLine, VerifyStep
from worldbridge.runtime.decoding.executors import (
    Batch,
    ContextPairs,
    DecodeSession,
    Executor,
    Wave,
)
from worldbridge.runtime.decoding.options import DecodeOptions
from worldbridge.runtime.decoding.sampling import LatentNoise, Sampling, sample
from worldbridge.runtime.decoding.schedule import RowLagWave, WavefrontSchedule

__all__ = ["EagerExecutor", "RasterBatch"]


@dataclass(slots=True)
class RasterBatch(Batch):
    """And what the forwards of a latent in raster order need.

    A row feeds the token before the one that it samples. So each session's line begins with the
    newest token of the latent before, and position i is its cell 1 + i.
    """

    noise: list[LatentNoise]
    pairs: list[ContextPairs | None]


class EagerExecutor(Executor):
    """Executor of models in raster order, on any device.

    A slot has room for `max_latents` latents, and for the padding rows of a wave behind them.
    """

    clamps_rows = True  # a forward has no more rows than a latent

    def __init__(
        self,
        model: VideoTransformer,
        capacity: int,
        sampling: Sampling,
        options: DecodeOptions,
        heads: MedusaHeads | None = None,
    ) -> None:
        self.model, self.config, self.sampling = model, model.config, sampling
        self.heads, self.device = heads, model.norm.weight.device
        latents, (_, self.height, self.width) = options.max_latents, self.config.latent_shape
        assert latents is not None
        self.size = self.height * self.width
        self.schedule: WavefrontSchedule | None = None
        window = 1 if heads is None else 1 + heads.count
        if options.mode == "jacobi":
            window = options.jacobi_window
        elif options.mode == "diagonal":
            lag, padding = options.row_lag, options.padding
            self.schedule = WavefrontSchedule(self.height, self.width, lag, padding)
            window = self.schedule.rows
        self.waves: Sequence[Wave] = [] if self.schedule is None else self.schedule.waves
        self.window = window  # positions that a forward samples
        self.rows = max(window, options.padding)
        if self.clamps_rows and self.schedule is None:
            self.rows = min(self.rows, self.size)
        self.lead = int(self.config.begin_of_video_token is not None)
        entries = self.lead + latents * self.size + self.rows
        self.cache = KVCache.allocate(self.config, capacity, entries, model.norm.weight)
        self._newest_context: tuple[Tensor, ContextPairs] | None = None
        angles = rotary_table(self.config)
        self.cos, self.sin = angles.cos().to(self.cache.keys), angles.sin().to(self.cache.keys)
        self.absolute: Tensor | None = None  # [positions, dim]
        if self.config.apply_abs_pos_emb:
            self.absolute = absolute_table(self.config).to(self.cache.keys)

    # -- sessions -------------------------------------------------------------------------------

    def next_entry(self, session: DecodeSession) -> int:
        """Return the cache entry of the newest token of a session's window."""
        return self.lead + len(session.window) * self.size - 1

    def look(self, session: DecodeSession, pose: Tensor, first: Tensor) -> None:
        rays = pluecker_rays(pose, first, self.height, self.width)
        session.view = self.model.camera_embedding(rays.flatten(0, 1).to(self.cache.keys))

    def prefill(self, session: DecodeSession, codes: Tensor, condition: Tensor | None) -> None:
        """Feed all but the newest token of a latent, in one forward of this session alone."""
        tokens = torch.cat([self._newest(session), codes.flatten()[:-1]])
        if not len(tokens):
            return
        self._set_context(session, condition)
        # the first latent of a window lacks the token that leads to it, unless a video begins
        entry, offset = max(self.next_entry(session), 0), self.size - len(tokens)
        views = self._views([session], [range(offset, self.size)])
        rows = CacheRows.continuing(session.slot, entry, len(tokens), self.device)
        entries = torch.arange(entry, entry + len(tokens), device=self.device)
        self._hidden(tokens[None], entries[None], [rows], [session.context_pairs], views)

    # -- one latent -----------------------------------------------------------------------------

    def begin(
        self,
        sessions: Sequence[DecodeSession],
        conditions: Sequence[Tensor | None],
        known: Tensor | None,
    ) -> RasterBatch:
        for session, condition in zip(sessions, conditions, strict=True):
            self._set_context(session, condition)
        previous = torch.stack([session.window[-1].flatten() for session in sessions])
        tokens = torch.cat([previous[:, -1:], previous], dim=1)
        if known is not None:
            tokens[:, 1:] = torch.where(known < 0, previous, known)
        stride = 1 + self.size
        line = TokenLine(
            tokens.view(-1, 1),
            lambda owners, positions: owners * stride + 1 + positions,
            None if known is None else known >= 0,
        )
        noise = [self._noise(session) for session in sessions]
        return RasterBatch(sessions, line, noise, [s.context_pairs for s in sessions])

    def codes(self, batch: Batch) -> Tensor:
        tokens = batch.line.cells.view(len(batch.sessions), -1)[:, 1:]
        return tokens.reshape(-1, self.height, self.width)

    def verify(self, batch: Batch, step: VerifyStep) -> tuple[Tensor, Tensor, Tensor]:
        assert isinstance(batch, RasterBatch)
        positions = step.positions(self.device)
        cells = batch.line.cell_of(step.owners(self.device), positions)
        tokens = batch.line.cells[cells - 1, 0]
        sessions = [batch.sessions[i] for i in step.active]
        pairs = [batch.pairs[i] for i in step.active]
        hidden = self.hidden(sessions, tokens, step.firsts, pairs)
        logits = self.model.output(hidden).flatten(0, 1).float()
        noise = [
            batch.noise[i].take(first, step.rows)
            for i, first in zip(step.active, step.firsts, strict=True)
        ]
        sampled = sample(logits, torch.cat(noise), self.sampling)[:, None]
        return hidden.flatten(0, 1), sampled, cells.flatten()

    def draft(self, batch: Batch, hidden: Tensor, owners: Tensor, positions: Tensor) -> Tensor:
        assert isinstance(batch, RasterBatch) and self.heads is not None
        logits = self.model.output(self.heads(hidden)).flatten(0, 1).float()
        noise = [
            batch.noise[owner].peek(row[0], len(row))
            for owner, row in zip(owners[:, 0].tolist(), positions.tolist(), strict=True)
        ]
        return sample(logits, torch.cat(noise), self.sampling)[:, None]

    def wave(self, batch: Batch, wave: Wave) -> None:
        assert isinstance(batch, RasterBatch) and isinstance(wave, RowLagWave)
        count, sampled = len(batch.sessions), list(wave.sampled)
        owners = torch.arange(count, device=self.device)[:, None]
        fed = batch.line.cell_of(owners, wave.sources.to(self.device) - 1)
        hidden = self.hidden_at(batch.sessions, batch.line.cells[fed, 0], wave, batch.pairs)
        logits = self.model.output(hidden[:, : len(sampled)]).flatten(0, 1).float()
        noise = torch.cat([n.at(sampled) for n in batch.noise])
        positions = torch.tensor(sampled, device=self.device).expand(count, -1)
        tokens = sample(logits, noise, self.sampling)[:, None]
        cells = batch.line.cell_of(owners, positions)
        batch.line.write(cells, tokens, batch.line.sampled_at(owners, positions))

    # -- the model ------------------------------------------------------------------------------

    @torch.inference_mode()
    def logits(
        self,
        sessions: Sequence[DecodeSession],
        tokens: Tensor,
        offsets: Sequence[int],
        condition: Tensor | None = None,
    ) -> Tensor:
        """Return float32 logits [B, S, vocab] behind tokens [B, S], which continue the cache.

        Offset 0 is the place of the newest token of the window. What is fed here is overwritten
        when a later call feeds the same places. condition [condition_dim] is that of the latent.
        """
        for session in sessions:
            self._set_context(session, condition)
        pairs = [session.context_pairs for session in sessions]
        logits: Tensor = self.model.output(self.hidden(sessions, tokens, offsets, pairs))
        return logits.float()

    def hidden(
        self,
        sessions: Sequence[DecodeSession],
        tokens: Tensor,
        offsets: Sequence[int],
        pairs: Sequence[ContextPairs | None],
    ) -> Tensor:
        """As `logits`, but the last hidden states [B, S, dim], and with other contexts."""
        count = tokens.shape[1]
        firsts = [self.next_entry(s) + o for s, o in zip(sessions, offsets, strict=True)]
        rows = [
            CacheRows.continuing(session.slot, first, count, self.device)
            for session, first in zip(sessions, firsts, strict=True)
        ]
        steps = torch.arange(count, device=self.device)
        entries = torch.tensor(firsts, device=self.device)[:, None] + steps
        views = self._views(sessions, [range(o, o + count) for o in offsets])
        return self._hidden(tokens, entries, rows, pairs, views)

    def hidden_at(
        self,
        sessions: Sequence[DecodeSession],
        tokens: Tensor,
        wave: RowLagWave,
        pairs: Sequence[ContextPairs | None],
    ) -> Tensor:
        """Return the last hidden states [B, rows, dim] of tokens [B, rows] of a wave."""
        firsts = [self.next_entry(session) for session in sessions]
        offsets, mask = wave.offsets.to(self.device), wave.mask.to(self.device)
        entries = torch.tensor(firsts, device=self.device)[:, None] + offsets
        rows = [
            CacheRows(session.slot, own, first + wave.end, F.pad(mask, (first, 0), value=True))
            for session, own, first in zip(sessions, entries, firsts, strict=True)
        ]
        views = self._views(sessions, [offsets.tolist()] * len(sessions))
        return self._hidden(tokens, entries, rows, pairs, views)

    def _hidden(
        self,
        tokens: Tensor,
        entries: Tensor,
        rows: Sequence[CacheRows],
        pairs: Sequence[ContextPairs | None],
        views: Tensor | None,
    ) -> Tensor:
        """Return hidden states [B, S, dim] of tokens [B, S] at entries [B, S] of their slots.

        `views` [B, S, dim] is what the cameras add to the tokens.
        """
        # entries beyond the last latent occur in rows that are ignored
        at = entries.clamp(max=len(self.cos) - 1)
        h: Tensor = self.model.tok_embeddings(tokens)
        return self.model.hidden(
            h if views is None else h + views,
            self.cos[at],
            self.sin[at],
            self.cache.attend(rows),
            context=_together(pairs),
            absolute=None if self.absolute is None else self.absolute[at],
        )

    def _set_context(self, session: DecodeSession, condition: Tensor | None) -> None:
        """Give a session the keys and values of its text, or of the condition of a latent."""
        if condition is not None:
            if session.condition is not condition:
                own = condition[None].to(self.cache.keys)
                session.context_pairs = self.model.action_keys_values(own)
                session.condition = condition
        elif session.context is not None and session.context_pairs is None:
            session.context_pairs = self._text_pairs(session.context)

    def _text_pairs(self, context: Tensor) -> ContextPairs:
        """Those of the newest context are kept, as most streams share one."""
        if self._newest_context is None or self._newest_context[0] is not context:
            pairs = self.model.context_keys_values(context[None].to(self.cache.keys))
            self._newest_context = context, pairs
        return self._newest_context[1]

    def _views(
        self, sessions: Sequence[DecodeSession], offsets: Sequence[Sequence[int]]
    ) -> Tensor | None:
        """Return what the cameras add to tokens at S offsets of each session, [B, S, dim].

        Offset 0 leads to the latent's first token. Rows beyond its end are ignored later.
        """
        found = [
            session.view[[min(i, self.size - 1) for i in own]]
            for session, own in zip(sessions, offsets, strict=True)
            if session.view is not None
        ]
        return torch.stack(found) if found else None

    def _newest(self, session: DecodeSession) -> Tensor:
        """Return the token that a latent begins behind, [1], or [0] where there is none."""
        if session.window:
            return session.window[-1].flatten()[-1:]
        begin = self.config.begin_of_video_token
        return torch.tensor([] if begin is None else [begin], dtype=torch.long, device=self.device)

    def _noise(self, session: DecodeSession) -> LatentNoise:
        first = session.latents * self.size
        return LatentNoise(session.seed, first, self.config.vocab_size, self.size, self.device)


def _together(pairs: Sequence[ContextPairs | None]) -> ContextPairs | None:
    """Return, per layer, keys and values of the contexts of all sessions, [B, Hkv, m, D] each."""
    known = [pair for pair in pairs if pair is not None]
    if not known:
        return None
    if all(pair is known[0] for pair in known):  # one context for all, such as a server's prompt
        size = (len(known), -1, -1, -1)
        return [(keys.expand(size), values.expand(size)) for keys, values in known[0]]
    return [
        (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer]))
        for layer in zip(*known, strict=True)
    ]
