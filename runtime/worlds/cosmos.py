"""A converted Cosmos model behind the `WorldModel` contract.

A latent becomes several frames (eight with the published tokenizer). The next latent is sampled and
decoded while the frames of the one before are shown (`pipeline.py`), and begun as late as possible
(`pipeline.py`).

A latent is sampled with the mean of all actions submitted since the one before it was begun, so
that no tap and no movement of the mouse is lost, and with the client's newest camera. Its frames
report the cameras that those actions lead to, and the tag of the controls that began it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.clock import now_ms
from worldbridge.models.checkpoint import World, load_world
from worldbridge.models.conditioning.prompt_frames import MAX_PROMPT_FRAMES, to_unit
from worldbridge.models.procedural import (
    THEMES,
    CameraState,
    build_scene,
    camera_pose,
    render,
    spawn,
)
from worldbridge.models.progress import silent
from worldbridge.models.tokenizer.config import decoder_receptive_field
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.config import EAGER, WeightDtype, WorkerConfig
from worldbridge.runtime.controls import control_specs
from worldbridge.runtime.decoding import (
    DecodeOptions,
    Decoder,
    Sampling,
    SavedTokens,
    make_decoder,
    pack_weights,
)
from worldbridge.runtime.decoding.capacity import Ring, places_that_fit, seats_tried, stream_bytes
from worldbridge.runtime.decoding.options import DEFAULT_ROW_LAG
from worldbridge.runtime.errors import UnknownThemeError
from worldbridge.runtime.frames.detokenizer import make_detokenizer
from worldbridge.runtime.worlds.conditioning import (
    Alignment,
    Conditioning,
    conditionings_of,
    layout_of,
    start_video,
    window_of,
)
from worldbridge.runtime.worlds.contract import (
    Controls,
    Pose,
    Progress,
    WorldFrame,
    WorldModel,
    WorldStart,
)
from worldbridge.runtime.worlds.cosmos_state import (
    ActionAccumulator,
    ClientView,
    CosmosState,
    DecodedLatent,
    Expected,
    InFlightLatent,
    Latent,
    LatentRequest,
    Saved,
    StreamSlot,
    fingerprint,
    pack,
    unpack,
)
from worldbridge.runtime.worlds.pipeline import GenerationPipeline, LookaheadScheduler

__all__ = ["CosmosState", "CosmosWorld", "cosmos_spec", "load_cosmos"]

log = logging.getLogger(__name__)

# Frames that wait are of three latents at most: `LookaheadScheduler.most` and the one it begins.
_WAITING = 3


class CosmosWorld(WorldModel[CosmosState]):
    """A transformer over raster-ordered tokens, and a causal tokenizer.

    Args:
        capacity: places for sessions; `capacity` says how many there are, which on a GPU are no
            more than its memory holds beside the weights.
        context: [m, context_dim], the embedded text, if the world takes one.
        lead: begin a latent when this many frames are left (None: as measured).
        progress: reports what is compiled and recorded for a GPU.
        weights: how the transformer's are read; with one byte each, other tokens are drawn.
        pixels: how a GPU makes the frames, see `runtime/config.py`.

    Raises WeightsError for such weights where no kernels draw, and PixelsError for engines of
    another world.
    """

    capacity: int

    def __init__(
        self,
        world: World,
        capacity: int,
        mode: str = "jacobi",
        context: Tensor | None = None,
        lead: int | None = None,
        progress: Progress | None = None,
        weights: WeightDtype = "model",
        pixels: str = EAGER,
    ) -> None:
        super().__init__()
        self.lead, self._progress = lead, progress
        self.weights = weights
        self.spec = cosmos_spec(world.manifest)
        self.past = window_of(world.manifest, world.transformer.config)
        self.tokenizer, self.config = world.tokenizer, world.transformer.config
        self.transformer, self.heads = world.transformer, world.heads
        _, self.height, self.width = self.config.latent_shape
        self.capacity = self._places(capacity)
        self.sampling = Sampling(**world.manifest["sampling"])
        self.decoder = self.make_decoder(mode)
        if weights != "model":
            log.warning("%s weights: tokens differ from the model's own", weights)
        self.device = self.decoder.device
        self.conditioning = Conditioning(world.manifest, self.config, self.device, context)
        # The tokenizer's temporal attention reaches as far back as the transformer: bounded.
        window = self.decoder.max_latents
        self.maker = make_detokenizer(
            self.tokenizer, self.height, self.width, window, pixels, progress or silent
        )
        self.works = GenerationPipeline(lambda: self.decoder, self.conditioning, self.maker)
        self.tempo = LookaheadScheduler(1000 / self.spec.fps, self.spec.frames_per_latent)
        self._players = 1
        self._prompt = fingerprint(self.conditioning.context)
        # With this many latents the waiting frames can be made again as they were.
        kept = decoder_receptive_field(self.tokenizer.config, window) + _WAITING
        self.expected = Expected(self.config, kept, self.spec.frames_per_latent)

    @torch.inference_mode()
    def open(self, start: WorldStart) -> CosmosState:
        """The world begins with what the rendered scene of that theme and seed looks like.

        With frames it begins with the newest of these, at the origin, as the published models do:
        one is the first latent, up to nine are two latents. Only the encoder works here; all else
        is done on the threads of the world.
        """
        if start.theme not in THEMES:
            raise UnknownThemeError(start.theme, THEMES)
        if start.prompt_frames is not None:
            camera = CameraState(0.0, 0.0)
            video = start_video(start.prompt_frames, self.spec, self.tokenizer.config, 1)
        else:
            scene = build_scene(start.theme, start.seed)
            camera = spawn(scene, start.seed)
            frame = render(scene, camera, self.spec.height, self.spec.width)
            video = to_unit(frame)[None, :, None]
        with self.maker.aside():
            codes = self.tokenizer.encode(video.to(self._dtype).to(self.device))[0].cpu()
        poses = self.conditioning.start_poses(camera, len(codes))
        tail = tuple(
            Latent(latent, pose=None if poses is None else poses[i])
            for i, latent in enumerate(codes)
        )
        newest = (Pose(*camera_pose(camera)),)
        return self._begun(start.theme, start.seed, len(tail), tail, camera, newest)

    @torch.inference_mode()
    def submit(self, states: Sequence[CosmosState], controls: Sequence[Controls]) -> None:
        self._players = len(states)
        lead = self.tempo.lead(self._players) if self.lead is None else self.lead
        due = []
        for state, asked in zip(states, controls, strict=True):
            self._collect(state)
            self._look_from(state, asked.camera)
            # in float32, as models and snapshots have it
            state.heard = state.heard.plus(np.asarray(asked.action, np.float32).tolist())
            state.owed = True
            if state.failure is None and _is_due(state, lead):
                due.append((state, asked.tag))
        self._order([state for state, _ in due], [tag for _, tag in due])

    @torch.inference_mode()
    def poll(self, states: Sequence[CosmosState]) -> list[WorldFrame | Exception | None]:
        again = [s for s in states if s.owed and s.orders and not s.coming and s.failure is None]
        self._order(again, [None] * len(again))  # what failed before
        return [self._next(state) for state in states]

    def _next(self, state: CosmosState) -> WorldFrame | Exception | None:
        """The frame whose turn it is. Video needs a time of its own for each: `t_pixels` is now."""
        self._collect(state)
        if state.failure is not None:
            failure, state.failure = state.failure, None
            return failure
        if not state.owed or not state.pending:
            return None
        state.owed = False
        return replace(state.pending.popleft(), t_pixels=now_ms())

    def _look_from(self, state: CosmosState, camera: Pose | None) -> None:
        """See the next latents of a stream from its client's camera, if it sends one.

        From the first one on, the view is where the client says; while it says nothing, the view
        stays.
        """
        if camera is None or not self.config.takes_camera:
            return
        if state.view is None:
            alignment = Alignment.of(Pose(*camera_pose(_ahead(state))), camera)
        else:
            alignment = state.view.alignment
        state.view = ClientView(alignment, alignment.apply(camera))

    def save(self, state: CosmosState) -> bytes:
        """The latents that the next frame depends on, and the controls of what is being made.

        Latents whose frames are not there are left out: they are drawn again, with the same
        controls. 64 kB with DV8x16x16 at 320x512.
        """
        begun = [coming.order for coming in state.coming if coming.order is not None]
        waiting = *(frame.pose for frame in state.pending), *state.unmade
        return pack(
            Saved(
                state.theme,
                state.seed,
                state.latents,
                state.tail,
                state.camera,
                waiting,
                (*begun, *state.orders),
                state.heard,
                state.view,
                self._prompt,
            ),
            self.config,
        )

    def load(self, data: bytes) -> CosmosState:
        """Goes on with the frames that were not shown, then with the latents that were begun.

        Both are as they would have been, bit for bit where arithmetic is: the tokenizer sees again,
        one by one, all latents that these frames depend on. They answer no submit's tag. A stream
        that followed another text keeps its past and follows this world's from now on; the log
        says so.
        """
        saved = unpack(data, self.expected)
        if saved.prompt != self._prompt:
            log.warning(
                "a session goes on under another prompt: its frames so far followed the text "
                "%s, from now on they follow %s",
                saved.prompt,
                self._prompt,
            )
        state = self._begun(
            saved.theme, saved.seed, saved.latents, saved.tail, saved.camera, saved.poses
        )
        state.orders, state.heard, state.view = deque(saved.orders), saved.heard, saved.view
        self._order([state] if state.orders else [], [None])
        return state

    @property
    def period_ms(self) -> float:
        return self.tempo.period_ms(self._players)

    def rest(self) -> None:
        self.works.rest()

    @property
    def decoding(self) -> CosmosWorld:
        return self

    @property
    def exact_modes(self) -> tuple[str, ...]:
        drafting = ("jacobi",) if self.heads is None else ("medusa", "jacobi")
        return (*drafting, "sequential")

    def make_decoder(self, mode: str | None, row_lag: int | None = None) -> Decoder:
        """Raises ValueError for a mode that this world does not have."""
        past = self.past
        options = DecodeOptions(
            mode=mode or "jacobi",
            max_latents=past.latents,
            keep=past.keep,
            slide=past.slide,
            row_lag=row_lag or DEFAULT_ROW_LAG,
            weight_dtype=self.weights,
        )
        return make_decoder(
            self.transformer,
            self.capacity,
            self.sampling,
            options,
            heads=self.heads,
            progress=self._progress or silent,
        )

    def _places(self, wanted: int) -> int:
        """How many of the wanted places the memory holds. The weights that decoding packs come
        first: every decoder needs them."""
        pack_weights(self.transformer, self.heads, self.weights)
        own, latents = self.transformer.norm.weight, self.past.latents
        ring = Ring(self.config, latents, own.element_size())
        size = self.height, self.width
        return places_that_fit(
            wanted, ring, lambda: stream_bytes(self.tokenizer, *size, latents), own.device
        )

    # -- making latents -------------------------------------------------------------------------

    def _order(self, states: Sequence[CosmosState], marks: Sequence[object]) -> None:
        """Begin the next latent of each, all together: those that were begun once come first."""
        jobs = []
        for state, mark in zip(states, marks, strict=False):
            if state.orders:
                order = state.orders.popleft()
            else:
                sent = None if state.view is None else state.view.pose
                order, state.heard = (
                    LatentRequest(state.heard.mean(), sent, mark),
                    ActionAccumulator(),
                )
            coming = self._coming(_ahead(state), order)
            state.coming.append(coming)
            jobs.append((state.work, coming))
        self.works.draw(jobs)

    def _coming(self, camera: CameraState, order: LatentRequest) -> InFlightLatent:
        actions = torch.tensor([order.action])
        pose = self.conditioning.poses([camera], [order.sent], actions)
        poses = []
        for _ in range(self.spec.frames_per_latent):
            camera = self.conditioning.moved(camera, order.action)
            # a client's camera is known only as of each latent
            poses.append(Pose(*camera_pose(camera)) if order.sent is None else order.sent)
        sent_pose = None if pose is None else pose[0]
        coming = InFlightLatent(poses, camera, order, sent_pose, asked_ms=now_ms())
        coming.made.add_done_callback(self._made)
        return coming

    def _made(self, made: Future[DecodedLatent]) -> None:
        self.notify()

    def _collect(self, state: CosmosState) -> None:
        """Take over what is ready, up to what is not; remember a failure and go back before it."""
        while state.coming and state.coming[0].made.done():
            error = state.coming[0].made.exception()
            if isinstance(error, Exception):
                orders = [c.order for c in state.coming if c.order is not None]
                self._take_back(state)
                state.orders.extendleft(reversed(orders))
                state.failure = error
                return
            self._take_over(state, state.coming.popleft())

    def _take_over(self, state: CosmosState, coming: InFlightLatent) -> None:
        made = coming.made.result()
        mark = None
        if coming.order is None:
            state.unmade = ()
        else:
            mark = coming.order.mark
            latent = Latent(made.codes, coming.order.action, coming.pose)
            state.tail = (*state.tail, latent)[-self.expected.kept :]
            state.latents, state.camera = state.latents + 1, coming.camera
            self._measure(coming, made)
        state.stream = made.stream
        pairs = zip(made.frames, coming.poses, strict=True)
        state.pending += [
            WorldFrame(i420, pose, made.t_tokens, made.t_pixels, mark) for i420, pose in pairs
        ]

    def _measure(self, coming: InFlightLatent, made: DecodedLatent) -> None:
        self.tempo.drew(made.drawing_ms, made.together)
        self.tempo.decoded(made.pixels_ms)
        self.tempo.came(made.t_pixels - coming.asked_ms)

    # -- failures -------------------------------------------------------------------------------

    def _take_back(self, state: CosmosState) -> None:
        """Forget what is coming, as if it had never been begun; make frames again that must be.

        The caller says what becomes of the orders.
        """
        state.coming.clear()
        state.work = StreamSlot(self._record(state.seed, state.latents, state.tail), state.stream)
        if state.unmade:
            self._make_again(state)

    # -- parts ----------------------------------------------------------------------------------

    @property
    def _dtype(self) -> torch.dtype:
        return self.tokenizer.post_quant_conv.conv3d.weight.dtype

    def _begun(
        self,
        theme: str,
        seed: int,
        latents: int,
        tail: tuple[Latent, ...],
        camera: CameraState,
        poses: tuple[Pose, ...],
    ) -> CosmosState:
        """A state behind `tail` whose newest frames, seen from `poses`, are still to be shown."""
        stream = self.maker.fresh()
        work = StreamSlot(self._record(seed, latents, tail), stream)
        state = CosmosState(theme, seed, latents, tail, camera, work, stream, poses)
        self._make_again(state)
        return state

    def _make_again(self, state: CosmosState) -> None:
        coming = InFlightLatent(state.unmade, state.camera)
        coming.made.add_done_callback(self._made)
        state.coming.append(coming)
        self.works.make(state.work, coming, state.tail)

    def _record(self, seed: int, latents: int, tail: Sequence[Latent]) -> SavedTokens:
        """What the decoder draws the next latent from."""
        window = tail[-(latents - self.decoder.window_start(latents)) :]
        actions = torch.tensor([latent.action for latent in window])
        poses = [latent.pose for latent in window if latent.pose is not None]
        return SavedTokens(
            seed,
            latents,
            torch.stack([latent.codes for latent in window]),
            self.conditioning.context,
            self.conditioning.actions(actions),
            torch.stack(poses) if poses else None,
        )


def _is_due(state: CosmosState, lead: int) -> bool:
    """Whether its next latent should be begun. One is drawn at a time."""
    drawing = any(c.order is not None and not c.drawn for c in state.coming)
    return not drawing and (bool(state.orders) or state.left <= lead)


def _ahead(state: CosmosState) -> CameraState:
    """The camera after all that was begun."""
    return state.coming[-1].camera if state.coming else state.camera


def cosmos_spec(manifest: dict[str, Any]) -> WorldSpec:
    """What a converted world looks like from outside."""
    _, height, width = manifest["transformer"]["latent_shape"]
    scale = int(manifest["tokenizer"]["spatial_compression"])
    config = TransformerConfig.from_dict(manifest["transformer"])
    layout, latents = layout_of(manifest, config), window_of(manifest, config).latents
    return WorldSpec(
        name=manifest["name"],
        title=manifest["title"],
        width=width * scale,
        height=height * scale,
        fps=float(manifest["frames_per_second"]),
        frames_per_latent=int(manifest["tokenizer"]["temporal_compression"]),
        themes=tuple(THEMES),
        action_schema=() if layout is None else control_specs(layout.axes),
        context_latents=latents,
        kind="autoregressive",
        conditionings=conditionings_of(config),
        max_prompt_frames=_max_prompt_frames(
            latents, manifest["tokenizer"]["temporal_compression"]
        ),
    )


def _max_prompt_frames(latents: int, temporal_compression: int) -> int:
    """As many as leave room for the latent being drawn; two latents, as published, at most."""
    return min(MAX_PROMPT_FRAMES, 1 + temporal_compression * max(0, latents - 2))


def load_cosmos(
    directory: Path, config: WorkerConfig, progress: Progress, context: Tensor | None = None
) -> CosmosWorld:
    """The world in a folder made by `worldbridge convert`.

    Raises:
        DamagedWorldError: a file is missing, truncated or altered.
        WeightDtypeError, DetokenizerError: nothing here can read these weights or make its frames.
    """
    progress("reading weights", 0.1)
    world = load_world(directory, keep_types=True)
    progress("moving weights", 0.6)
    world.tokenizer.to(config.device)
    world.transformer.to(config.device)
    if world.heads is not None:
        world.heads.to(config.device)
    return CosmosWorld(
        world,
        capacity=seats_tried(config) + 1,
        context=context,
        progress=lambda stage, done: progress(stage, 0.7 + 0.2 * done),
        weights=config.weight_dtype,
        pixels=config.detokenizer,
    )
