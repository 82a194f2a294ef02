"""Decoding a raster model the plain way, which the decode modes are compared with.

`PlainRaster` is the model's own forward over a cache, one token after the other, with nothing
fused, recorded or packed. `PublishedRaster` repeats what the published decoder of the Cosmos models
does (cosmos-predict1, `autoregressive/`): keys and values of all heads repeated over the whole
static cache under a mask, three products for queries, keys and values, two for the feed-forward,
and a sort of all logits. To be as fast as that can be, it is compiled, and on a GPU a whole token
is one CUDA graph; the published code waits for the host after every token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from worldbridge.models.conditioning.camera import predicted_rays
from worldbridge.models.transformer import CacheRows, KVCache, VideoTransformer
from worldbridge.models.transformer.positions import absolute_table, rotary_table
from worldbridge.models.transformer.wavefront import DigitHead, slot_mask
from worldbridge.runtime.decoding import SavedTokens
from worldbridge.runtime.decoding.sampling import Sampling, gumbel, position_noise, sample
from worldbridge.runtime.process import one_thread

__all__ = ["PlainRaster", "PlainWavefront", "PublishedRaster"]


_LANES = 8  # the noise of a position comes in blocks of this many codes
_Context = list[tuple[Tensor, Tensor]]


@dataclass(slots=True)
class _Past:
    """What the next latent is drawn from: the cache holds all but the newest token."""

    cache: KVCache
    newest: Tensor  # [1]
    context: _Context | None
    rays: Tensor | None  # [size, 6], of the tokens to be drawn


class PlainRaster:
    """Draws single latents, each from the past that it is given."""

    def __init__(self, model: VideoTransformer, sampling: Sampling) -> None:
        self.model, self.config, self.sampling = model, model.config, sampling
        latents, self.height, self.width = model.config.latent_shape
        self.size = self.height * self.width
        self.lead = int(model.config.begin_of_video_token is not None)
        self.places = self.lead + latents * self.size
        self.weight = model.norm.weight
        self.device = self.weight.device

    @property
    def how(self) -> str:
        return "the model's forward over a cache, one token after the other, nothing fused"

    @torch.inference_mode()
    def draw(
        self,
        past: SavedTokens,
        condition: Tensor | None,
        pose: Tensor | None,
        mark: Callable[[], None],
    ) -> Tensor:
        """Codes [h, w] of the latent behind `past`; condition [condition_dim] and pose [8] are its.

        `mark` is called before every forward and after the last one; reading the past is not
        counted.
        """
        read = self._read(past, condition, pose)
        drawn = self._draw(read, past.seed, past.latents * self.size, mark)
        mark()
        return drawn.view(self.height, self.width)

    def _draw(self, past: _Past, seed: int, first: int, mark: Callable[[], None]) -> Tensor:
        token, drawn = past.newest, []
        for i in range(self.size):
            mark()
            ray = None if past.rays is None else past.rays[None, i : i + 1]
            logits = self.model(token[None], past.cache, past.context, ray)
            token = sample(logits[0].float(), self._noise(seed, first + i, 1), self.sampling)
            drawn.append(token)
        return torch.cat(drawn)

    def _noise(self, seed: int, first: int, count: int) -> Tensor:
        codes = self.config.vocab_size
        uniform = position_noise(seed, first, count, -(-codes // _LANES) * _LANES)
        return gumbel(uniform[:, :codes].to(self.device))

    def _read(self, past: SavedTokens, condition: Tensor | None, pose: Tensor | None) -> _Past:
        """Feed a past, latent by latent, because each may have a condition of its own."""
        cache = KVCache.allocate(self.config, 1, self.places, self.weight)
        codes = past.codes.to(self.device)
        rays = self._rays(past, pose)
        begin = self.config.begin_of_video_token
        newest = torch.tensor([] if begin is None else [begin], device=self.device).long()
        for t in range(len(codes)):
            known = None if past.conditions is None else past.conditions[t]
            tokens = torch.cat([newest, codes[t].flatten()[:-1]])
            newest = codes[t].flatten()[-1:]
            if len(tokens):
                at = slice(cache.length, cache.length + len(tokens))
                own = None if rays is None else rays[None, at]
                self.model(tokens[None], cache, self._context(past, known), own)
        ahead = None if rays is None else rays[cache.length : cache.length + self.size]
        return _Past(cache, newest, self._context(past, condition), ahead)

    def _context(self, past: SavedTokens, condition: Tensor | None) -> _Context | None:
        if condition is not None:
            return self.model.action_keys_values(condition[None].to(self.weight))
        if past.context is not None:
            return self.model.context_keys_values(past.context[None].to(self.weight))
        return None

    def _rays(self, past: SavedTokens, pose: Tensor | None) -> Tensor | None:
        """Of what every position of the window and of the new latent predicts, [n, 6]."""
        if pose is None or past.poses is None:
            return None
        poses = torch.cat([past.poses, pose[None]])
        rays = predicted_rays(poses, self.height, self.width, bool(self.lead))
        return rays.to(self.device)


class PublishedRaster(PlainRaster):
    """As published, compiled; on a GPU every token is one replay of a CUDA graph.

    `how` says what was done.
    """

    def __init__(self, model: VideoTransformer, sampling: Sampling, *, compiled: bool) -> None:
        super().__init__(model, sampling)
        angles = rotary_table(self.config)
        self.cos, self.sin = angles.cos().to(self.weight), angles.sin().to(self.weight)
        self.absolute: Tensor | None = None
        if self.config.apply_abs_pos_emb:
            self.absolute = absolute_table(self.config).to(self.weight)
        # a tensor for each layer: a compiler writes into those in place
        self.keys, self.values = (
            [
                self.weight.new_zeros(1, self.config.n_kv_heads, self.places, self.config.head_dim)
                for _ in range(self.config.n_layers)
            ]
            for _ in range(2)
        )
        self.position = torch.zeros(1, dtype=torch.long, device=self.device)
        self.token = torch.zeros(1, dtype=torch.long, device=self.device)
        self.codes = torch.zeros(self.size, dtype=torch.long, device=self.device)
        self.noise = torch.zeros(self.size, self.config.vocab_size, device=self.device)
        self.views = self.weight.new_zeros(self.size, self.config.dim)
        self.context: _Context | None = None
        self.begin = torch.zeros_like(self.position)  # where the latent begins
        self.compiled, self.failed = compiled, ""
        self.mode = "max-autotune-no-cudagraphs"
        self._one = torch.compile(self._token, mode=self.mode) if compiled else self._token
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def how(self) -> str:
        parts = [
            str(self.weight.dtype).removeprefix("torch."),
            "separate projections",
            "keys and values repeated over the static cache and masked",
            "sort-based sampling",
            f"torch.compile({self.mode})" if self.compiled else f"not compiled{self.failed}",
        ]
        if self.device.type == "cuda":
            parts.append("one CUDA graph a token, noise made beforehand")
        return ", ".join(parts)

    def _draw(self, past: _Past, seed: int, first: int, mark: Callable[[], None]) -> Tensor:
        for mine, read in ((self.keys, past.cache.keys), (self.values, past.cache.values)):
            for layer, known in zip(mine, read, strict=True):
                layer.copy_(known)
        self._set_context(past.context)
        self.begin.fill_(past.cache.length)
        self.noise.copy_(self._noise(seed, first, self.size))
        if past.rays is not None:
            self.views.copy_(self.model.camera_embedding(past.rays.to(self.weight)))
        if self.device.type == "cuda" and self._graph is None:
            self._graph = self._compiled_and_recorded(past)
        self._restart(past)
        for _ in range(self.size):
            mark()
            if self._graph is None:
                self._one()
            else:
                self._graph.replay()
        return self.codes.clone()

    def _restart(self, past: _Past) -> None:
        self.position.fill_(past.cache.length)
        self.token.copy_(past.newest)

    def _set_context(self, context: _Context | None) -> None:
        """Into the same memory each time: a recorded forward reads what lies there."""
        if context is None or self.context is None:
            self.context = context
            return
        for mine, new in zip(self.context, context, strict=True):
            for kept, fresh in zip(mine, new, strict=True):
                kept.copy_(fresh)

    def _compiled_and_recorded(self, past: _Past) -> torch.cuda.CUDAGraph:
        """What cannot be compiled is measured as it is, and `how` says so."""
        try:
            return self._recorded(past)
        except RuntimeError as error:  # what all errors of torch.compile are
            if not self.compiled:
                raise
            self.compiled, self._one = False, self._token
            self.failed = f" (torch.compile failed: {str(error).strip().splitlines()[0]})"
            return self._recorded(past)

    def _recorded(self, past: _Past) -> torch.cuda.CUDAGraph:
        """A graph of one token. What warming up writes is written again later."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._restart(past)
                self._one()
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._one()
        return graph

    # -- one token ------------------------------------------------------------------------------

    def _token(self) -> None:
        """Feed `token` at `position`, draw the next one, and move on."""
        logits = self._logits()
        place = self.position - self.begin
        score = sorted_scores(logits, self.noise.index_select(0, place), self.sampling)
        drawn = score.argmax(-1)
        self.codes.index_copy_(0, place, drawn)
        self.token.copy_(drawn)
        self.position.add_(1)

    def _logits(self) -> Tensor:
        """Float32 [1, vocab]."""
        cos, sin = self.cos[self.position], self.sin[self.position]
        mask = torch.arange(self.places, device=self.device) <= self.position[:, None]
        h: Tensor = self.model.tok_embeddings(self.token)[None]
        if self.config.takes_camera:
            h = h + self.views[self.position - self.begin]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[:, :, self.position], values[:, :, self.position] = k, v
            group = q.shape[1] // k.shape[1]
            mixed = F.scaled_dot_product_attention(
                q,
                keys.repeat_interleave(group, dim=1),
                values.repeat_interleave(group, dim=1),
                attn_mask=mask,
            )
            return mixed.transpose(1, 2).flatten(2)

        absolute = None if self.absolute is None else self.absolute[self.position]
        hidden = self.model.hidden(h, cos, sin, attend, context=self.context, absolute=absolute)
        logits: Tensor = self.model.output(hidden)
        return logits[0].float()


def sorted_scores(logits: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """logits and noise [1, V] -> scores [1, V] whose largest is the token; by a sort of all logits.

    The rule of `sampler.sample`: the `top_k` likeliest, and of these the nucleus.
    """
    if sampling.temperature == 0:
        return logits
    ranked, order = (logits / sampling.temperature).sort(dim=-1, descending=True)
    beyond = torch.arange(ranked.shape[-1], device=ranked.device) >= sampling.top_k
    probability = ranked.masked_fill(beyond, -torch.inf).softmax(-1)
    before = probability.cumsum(-1) - probability
    dropped = beyond | (before > sampling.top_p)
    kept = (ranked + noise.gather(-1, order)).masked_fill(dropped, -torch.inf)
    return torch.full_like(kept, -torch.inf).scatter(-1, order, kept)


class PlainWavefront:
    """One stream. Keys and values of the newest latents lie in a ring, as in `Decoder`."""

    def __init__(
        self, model: VideoTransformer, sampling: Sampling, seed: int, frames: int = 0
    ) -> None:
        config = model.config
        assert config.grid is not None, "this model has no token grid"
        self.model, self.config, self.grid = model, config, config.grid
        self.sampling, self.seed, self.frames = sampling, seed, frames
        _, self.height, self.width = config.latent_shape
        self.slots = self.height * self.width
        self.recent: list[Tensor] = []  # newest first, [H, W] codes
        self.device = model.norm.weight.device
        entries = self.grid.window_frames * self.slots
        self.cache = KVCache.allocate(config, 1, entries, model.norm.weight)

    @torch.inference_mode()
    def prefill(self, codes: Tensor, condition: Tensor) -> None:
        """Append a known latent: codes [H, W], condition [C]."""
        previous, hidden = self._before(condition)
        x = self.model.grid_input(codes[None], previous, hidden)[0].flatten(0, 1)
        self._features(x, torch.arange(self.slots, device=self.device), hidden)
        self._append(codes)

    @one_thread()  # as in `Decoder`: these steps are too small for two
    @torch.inference_mode()
    def draw(self, condition: Tensor, mark: Callable[[], None]) -> Tensor:
        """The next latent [H, W]; `mark` is called before every forward and after the last one."""
        previous, hidden = self._before(condition)
        base = self.model.grid_input.neighbourhood(previous, hidden)[0]
        codes = torch.zeros(self.height, self.width, dtype=torch.long, device=self.device)
        uniform = position_noise(
            self.seed, self.frames * self.slots, self.slots, sum(self.grid.fsq_levels)
        )
        noise = gumbel(uniform).to(self.device)
        for slot in range(self.slots):
            mark()
            row, column = divmod(slot, self.width)
            x = base[row, column][None]
            if column > 0:
                x = x + self.model.grid_input.left(codes[row, column - 1][None])
            else:
                x = x + self.model.grid_input.row_start[row]
            if row > 0:
                x = x + self.model.grid_input.above(codes[row - 1, column][None])
            place = torch.tensor([slot], device=self.device)
            features = self._features(x, place, hidden)
            codes[row, column] = self._code(features, noise[slot : slot + 1])
        mark()
        self._append(codes)
        return codes

    def _before(self, condition: Tensor) -> tuple[Tensor, Tensor]:
        """The latents before, [1, history, H, W], and the condition's hidden state [1, C]."""
        nothing = torch.full((self.height, self.width), -1, device=self.device)
        missing = self.grid.previous_latents - len(self.recent)
        previous = torch.stack([*self.recent, *[nothing] * missing])
        return previous[None], self.model.condition(condition[None].to(self.device))

    def _append(self, codes: Tensor) -> None:
        self.recent = [codes, *self.recent][: self.grid.previous_latents]
        self.frames += 1

    def _features(self, x: Tensor, slots: Tensor, hidden: Tensor) -> Tensor:
        """Features [n, dim] of the slots [n] of the next latent, whose inputs are x [n, dim]."""
        ring, end = self.frames % self.grid.window_frames, self.cache.keys.shape[3]
        cos, sin = (t[0, slots] for t in self.model.grid_rotation(self.frames, 1, x))
        rows = CacheRows(0, ring * self.slots + slots, end, self._mask()[slots])
        attend = self.cache.attend([rows])
        return self.model.hidden(x[None], cos, sin, attend, condition=hidden)[0]

    def _mask(self) -> Tensor:
        """[slots, window * slots]: every slot sees the latents before, and its own by its mask."""
        window = self.grid.window_frames
        mask = torch.zeros(self.slots, window, self.slots, dtype=torch.bool)
        for age in range(1, min(self.frames, window - 1) + 1):
            mask[:, (self.frames - age) % window] = True
        mask[:, self.frames % window] = slot_mask(self.height, self.width, self.grid.diagonal)
        return mask.flatten(1).to(self.device)

    def _code(self, features: Tensor, noise: Tensor) -> Tensor:
        """The code drawn from features [1, dim], digit by digit."""
        head = cast(DigitHead, self.model.output)
        state = head.project(features)
        first, basis = 0, 1
        code = torch.zeros(1, dtype=torch.long, device=self.device)
        for d, level in enumerate(head.levels):
            block = slice(first, first + level)
            logits = F.linear(F.silu(state + head.place[d]), head.weight[block], head.bias[block])
            digit = sample(logits, noise[:, block], self.sampling)
            code += digit * basis
            state = state + F.embedding(digit + first, head.earlier)
            first, basis = first + level, basis * level
        return code[0]
