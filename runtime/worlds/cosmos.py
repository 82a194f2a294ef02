"""A converted Cosmos model behind the `WorldModel` contract.

A latent becomes several pictures (eight with the published tokenizer), and a step shows one. `show`
draws and decodes the next latent while the pictures of the one before are shown (`latent_works.py`)
and begins it as late as it can (`tempo.py`). `step` does the same one after the other: it begins a
latent when no picture is left, and waits.

A latent is drawn with the mean of the actions of all steps since the one before it was begun, so
that no tap and no movement of the mouse is lost, and with a client's newest camera. Its pictures
report the cameras that those actions lead to, and the mark of the step that began it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import wait
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldbridge.bridge.protocol import WorldSpec
from worldbridge.clock import now_ms
from worldbridge.models.checkpoint.folder import World, load_world
from worldbridge.models.conditioning.prompt_frames import MAX_PICTURES, to_unit
from worldbridge.models.procedural import (
    THEMES,
    CameraState,
    build_scene,
    camera_pose,
    render,
    spawn,
)
from worldbridge.models.progress import silent
from worldbridge.models.tokenizer.receptive_field import decoder_receptive_field
from worldbridge.models.transformer import TransformerConfig
from worldbridge.runtime.decoding import RasterDecoder, RasterSnapshot, Sampling
from worldbridge.runtime.decoding.autotune import Wanted
from worldbridge.runtime.decoding.choice import decoder_for, pack_first
from worldbridge.runtime.decoding.options import DEFAULT_DIAGONAL
from worldbridge.runtime.decoding.seat_memory import Ring, places_that_fit, stream_bytes
from worldbridge.runtime.decoding.weight_dtype import WeightDtype
from worldbridge.runtime.decoding.weight_store import WeightStore
from worldbridge.runtime.errors import UnknownThemeError
from worldbridge.runtime.frames.detokenizer import make_detokenizer
from worldbridge.runtime.frames.options import EAGER
from worldbridge.runtime.worlds.camera import Alignment
from worldbridge.runtime.worlds.conditioning import Conditioning, conditionings_of, layout_of
from worldbridge.runtime.worlds.contract import (
    Frames,
    Picture,
    Pose,
    Progress,
    ShownFrames,
    WorldStart,
)
from worldbridge.runtime.worlds.cosmos_snapshot import Expected, Saved, fingerprint, pack, unpack
from worldbridge.runtime.worlds.cosmos_state import (
    ActionAccumulator,
    ClientView,
    CosmosState,
    DecodedLatent,
    InFlightLatent,
    Latent,
    LatentRequest,
    StreamSlot,
)
from worldbridge.runtime.worlds.lookahead import LookaheadScheduler
from worldbridge.runtime.worlds.pipeline import GenerationPipeline
from worldbridge.runtime.worlds.prompt_frames import start_video
from worldbridge.runtime.worlds.window import window_of

__all__ = ["CosmosState", "CosmosWorld", "cosmos_spec", "load_cosmos"]

log = logging.getLogger(__name__)

# Frames that wait are of three latents at most: `LookaheadScheduler.most` and the one it begins.
_WAITING = 3


class CosmosWorld:
    """WorldModel and LookaheadWorld over a transformer without token grid and a causal tokenizer.

    Args:
        capacity: places for sessions; `capacity` says how many there are, which on a GPU are no
            more than its memory holds beside the weights.
        context: [m, context_dim], the text that the world is told, if it takes one.
        lead: begin a latent when so many pictures are left (None: by measuring).
        progress: told what is compiled and recorded for a GPU.
        weights: how the transformer's are read; with one byte each, other tokens are drawn.
        pixels: how a GPU makes the pictures, see `runtime/frames/options.py`.

    Raises WeightsError for such weights where no kernels draw, and PixelsError for engines of
    another world.
    """

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
        self._progress = progress
        self.weights, self._packed = weights, WeightStore()  # which all its decoders share
        self.spec = cosmos_spec(world.manifest)
        self.past = window_of(world.manifest, world.transformer.config)
        self.tokenizer, self.config = world.tokenizer, world.transformer.config
        self.transformer, self.heads = world.transformer, world.heads
        _, self.height, self.width = self.config.latent_shape
        self.capacity = self._places(capacity)
        self.sampling = Sampling(**world.manifest["sampling"])
        self.decoder = self.make_decoder(Wanted(mode))
        if weights != "model":
            log.warning("%s weights: tokens differ from the model's own", weights)
        self.device = self.decoder.device
        self.told = Conditioning(world.manifest, self.config, self.device, context)
        # The tokenizer's temporal attention reaches as far back as the transformer: bounded.
        window = self.decoder.max_latents
        self.maker = make_detokenizer(
            self.tokenizer, self.height, self.width, window, pixels, progress or silent
        )
        self.works = GenerationPipeline(lambda: self.decoder, self.told, self.maker)
        self.tempo = LookaheadScheduler(1000 / self.spec.fps, self.spec.frames_per_latent, lead)
        self._players = 1
        self._prompt = fingerprint(self.told.context)
        # With so many latents the waiting pictures can be made again as they were.
        kept = decoder_receptive_field(self.tokenizer.config, window) + _WAITING
        self.expected = Expected(self.config, kept, self.spec.frames_per_latent)

    # -- WorldModel -----------------------------------------------------------------------------

    @torch.inference_mode()
    def open(self, start: WorldStart) -> CosmosState:
        """The world begins with what the rendered scene of that theme and seed looks like.

        With pictures it begins with the newest of these, at the origin, as the published models do:
        one is the first latent, up to nine are two latents. Only the encoder works here; all else
        is done on the threads of the world.
        """
        if start.theme not in THEMES:
            raise UnknownThemeError(start.theme, THEMES)
        if start.pictures is not None:
            camera = CameraState(0.0, 0.0)
            video = start_video(start.pictures, self.spec, self.tokenizer.config, 1)
        else:
            scene = build_scene(start.theme, start.seed)
            camera = spawn(scene, start.seed)
            picture = render(scene, camera, self.spec.height, self.spec.width)
            video = to_unit(picture)[None, :, None]
        with self.maker.aside():
            codes = self.tokenizer.encode(video.to(self._dtype).to(self.device))[0].cpu()
        poses = self.told.start_poses(camera, len(codes))
        tail = tuple(
            Latent(latent, pose=None if poses is None else poses[i])
            for i, latent in enumerate(codes)
        )
        newest = (Pose(*camera_pose(camera)),)
        return self._begun(start.theme, start.seed, len(tail), tail, camera, newest)

    def aim(self, states: Sequence[CosmosState], poses: Sequence[Pose | None]) -> None:
        """The next latents are seen from these cameras of the clients.

        From the first one on, a client's camera is where it says; while it says nothing, the
        camera stays.
        """
        if not self.config.takes_camera:
            return
        for state, pose in zip(states, poses, strict=True):
            if pose is None:
                continue
            if state.view is None:
                alignment = Alignment.of(Pose(*camera_pose(_ahead(state))), pose)
            else:
                alignment = state.view.alignment
            state.view = ClientView(alignment, alignment.apply(pose))

    @torch.inference_mode()
    def step(self, states: Sequence[CosmosState], actions: Tensor) -> Frames:
        """One picture of every state. Waits for what is being made, and for what has to be begun.

        When it raises, nothing of the states has changed.
        """
        self._finish(states)
        before = [(state.heard, state.orders.copy()) for state in states]
        for state, action in zip(states, actions.tolist(), strict=True):
            state.heard = state.heard.plus(action)
        try:
            self._order([state for state in states if not state.pending], [None] * len(states))
            self._wait(states)
        except Exception:
            for state, (heard, orders) in zip(states, before, strict=True):
                self._take_back(state)
                state.heard, state.orders = heard, orders
            raise
        for state in states:
            self._settle(state)
        shown = [state.pending.popleft() for state in states]
        t_tokens = max(picture.t_tokens for picture in shown)
        i420, poses = [p.i420 for p in shown], [p.pose for p in shown]
        return Frames(i420, poses, t_tokens, now_ms())

    def snapshot(self, state: CosmosState) -> bytes:
        """The latents that the next picture depends on, and the controls of what is being made.

        Latents whose pictures are not there are left out: they are drawn again, with the same
        controls. 64 kB with DV8x16x16 at 320x512.
        """
        begun = [coming.order for coming in state.coming if coming.order is not None]
        waiting = *(picture.pose for picture in state.pending), *state.unmade
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

    def restore(self, data: bytes) -> CosmosState:
        """Goes on with the pictures that were not shown, then with the latents that were begun.

        Both are as they would have been, bit for bit where arithmetic is: the tokenizer sees again,
        one by one, all latents that these pictures depend on. They answer no step's mark. A stream
        that was told another text keeps its past and is told this world's from now on; the log
        says so.
        """
        saved = unpack(data, self.expected)
        if saved.prompt != self._prompt:
            log.warning(
                "a session goes on under another prompt: its pictures so far followed the text "
                "%s, from now on they follow %s",
                saved.prompt,
                self._prompt,
            )
        state = self._begun(
            saved.theme, saved.seed, saved.latents, saved.tail, saved.camera, saved.poses
        )
        state.orders, state.heard, state.view = deque(saved.orders), saved.heard, saved.view
        self._begin_again([state])
        return state

    def record_of(self, state: CosmosState) -> RasterSnapshot:
        """What its next latent is drawn from, on the world's device."""
        record = self._record(state.seed, state.latents, state.tail)
        return replace(record, codes=record.codes.to(self.device))

    # -- LookaheadWorld -------------------------------------------------------------------------

    @property
    def period_ms(self) -> float:
        return self.tempo.period_ms(self._players)

    @torch.inference_mode()
    def show(
        self, states: Sequence[CosmosState], actions: Tensor, marks: Sequence[object]
    ) -> ShownFrames:
        self._players = len(states)
        for state in states:
            self._collect(state)
        self._raise_failure(states)
        pictures: list[Picture | None] = []
        for state, action in zip(states, actions.tolist(), strict=True):
            state.heard = state.heard.plus(action)
            pictures.append(state.pending.popleft() if state.pending else None)
        lead = self.tempo.lead(self._players)
        due = [i for i, state in enumerate(states) if _is_due(state, lead)]
        self._order([states[i] for i in due], [marks[i] for i in due])
        return ShownFrames(pictures, now_ms())

    def rest(self) -> None:
        self.works.rest()

    # -- DecodedWorld ---------------------------------------------------------------------------

    @property
    def exact_modes(self) -> tuple[str, ...]:
        guessing = ("jacobi",) if self.heads is None else ("medusa", "jacobi")
        return (*guessing, "sequential")

    def make_decoder(self, wanted: Wanted) -> RasterDecoder:
        """Raises ValueError for a mode that this world does not have."""
        return decoder_for(
            self.transformer,
            self.capacity,
            self.sampling,
            wanted.mode or "jacobi",
            heads=self.heads,
            diagonal=DEFAULT_DIAGONAL if wanted.diagonal is None else wanted.diagonal,
            window=self.past,
            precision=self.weights,
            packed=self._packed,
            progress=self._progress,
        )

    def _places(self, wanted: int) -> int:
        """How many of the wanted places the memory holds. The weights that decoding packs come
        first: every decoder needs them."""
        pack_first(self.transformer, self.heads, self.weights, self._packed)
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

    def _begin_again(self, states: Sequence[CosmosState]) -> None:
        again = [state for state in states if state.orders]
        self._order(again, [None] * len(again))

    def _coming(self, camera: CameraState, order: LatentRequest) -> InFlightLatent:
        actions = torch.tensor([order.action])
        pose = self.told.poses([camera], [order.sent], actions)
        poses = []
        for _ in range(self.spec.frames_per_latent):
            camera = self.told.moved(camera, order.action)
            # a client's camera is known only as of each latent
            poses.append(Pose(*camera_pose(camera)) if order.sent is None else order.sent)
        told = None if pose is None else pose[0]
        return InFlightLatent(poses, camera, order, told, asked_ms=now_ms())

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

    def _settle(self, state: CosmosState) -> None:
        """Take over all that is coming, which is ready and no failure."""
        while state.coming:
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
        pairs = zip(made.pictures, coming.poses, strict=True)
        state.pending += [Picture(i420, pose, mark, made.t_tokens) for i420, pose in pairs]

    def _measure(self, coming: InFlightLatent, made: DecodedLatent) -> None:
        self.tempo.drew(made.drawing_ms, made.together)
        self.tempo.decoded(made.pixels_ms)
        self.tempo.came(made.t_pixels - coming.asked_ms)

    # -- failures -------------------------------------------------------------------------------

    def _take_back(self, state: CosmosState) -> None:
        """Forget what is coming, as if it had never been begun; make pictures again that must be.

        The caller says what becomes of the orders.
        """
        state.coming.clear()
        state.work = StreamSlot(self._record(state.seed, state.latents, state.tail), state.stream)
        if state.unmade:
            self._make_again(state)

    def _raise_failure(self, states: Sequence[CosmosState]) -> None:
        """Raise what could not be made; of a state alone it is then begun again."""
        for state in states:
            if state.failure is not None:
                failure = state.failure
                if len(states) == 1:
                    state.failure = None
                    self._begin_again([state])
                raise failure

    def _finish(self, states: Sequence[CosmosState]) -> None:
        """Wait for what `show`, `open` and `restore` have begun."""
        wait([coming.made for state in states for coming in state.coming])
        for state in states:
            self._collect(state)
        failures = [state.failure for state in states if state.failure is not None]
        for state in states:
            state.failure = None
        if failures:
            raise failures[0]

    def _wait(self, states: Sequence[CosmosState]) -> None:
        for coming in [coming for state in states for coming in state.coming]:
            coming.made.result()

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
        """A state behind `tail` whose newest pictures, seen from `poses`, are still to be shown."""
        stream = self.maker.fresh()
        work = StreamSlot(self._record(seed, latents, tail), stream)
        state = CosmosState(theme, seed, latents, tail, camera, work, stream, poses)
        self._make_again(state)
        return state

    def _make_again(self, state: CosmosState) -> None:
        coming = InFlightLatent(state.unmade, state.camera)
        state.coming.append(coming)
        self.works.make(state.work, coming, state.tail)

    def _record(self, seed: int, latents: int, tail: Sequence[Latent]) -> RasterSnapshot:
        """What the decoder draws the next latent from."""
        window = tail[-(latents - self.decoder.window_start(latents)) :]
        actions = torch.tensor([latent.action for latent in window])
        poses = [latent.pose for latent in window if latent.pose is not None]
        return RasterSnapshot(
            seed,
            latents,
            torch.stack([latent.codes for latent in window]),
            self.told.context,
            self.told.actions(actions),
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
        action_schema=() if layout is None else layout.axes,
        context_frames=latents,
        kind="ar",
        conditionings=conditionings_of(config),
        takes_pictures=_takes_pictures(latents, manifest["tokenizer"]["temporal_compression"]),
    )


def _takes_pictures(latents: int, temporal_compression: int) -> int:
    """As many as leave room for the latent being drawn; two latents, as published, at most."""
    return min(MAX_PICTURES, 1 + temporal_compression * max(0, latents - 2))


def load_cosmos(
    directory: Path,
    *,
    seats: int,
    device: str,
    progress: Progress,
    context: Tensor | None = None,
    weights: WeightDtype = "model",
    pixels: str = EAGER,
) -> CosmosWorld:
    """The world in a folder made by `worldbridge convert`. Raises DamagedWorldError, WeightsError
    for weights that nothing here can read, and PixelsError."""
    progress("reading weights", 0.1)
    world = load_world(directory, keep_types=True)
    progress("moving weights", 0.6)
    world.tokenizer.to(device)
    world.transformer.to(device)
    if world.heads is not None:
        world.heads.to(device)
    return CosmosWorld(
        world,
        capacity=seats + 1,
        context=context,
        progress=lambda stage, done: progress(stage, 0.7 + 0.2 * done),
        weights=weights,
        pixels=pixels,
    )
