"""One encoder for all viewers of a codec, and a second one for spectators with slow networks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.bridge.conftest import eventually
from tests.support.fake_worker import SPEC, moving_frame, now_ms
from worldbridge.bridge.media import broadcaster as module
from worldbridge.bridge.media.broadcaster import Broadcaster, Quality
from worldbridge.bridge.media.encoder import VideoEncoder, VideoPacket
from worldbridge.bridge.media.rate import BitrateLimits, RateController
from worldbridge.bridge.protocol import Codec, FrameHeader, Pose, RawFrame

LIMITS = BitrateLimits(start=2_000_000, floor=100_000, ceiling=6_000_000)


class Watching:
    """A viewer whose network carries what the test says."""

    def __init__(self, bitrate: int, plays: bool = False, wants: Codec | None = "h264") -> None:
        limits = BitrateLimits(bitrate, min(bitrate, LIMITS.floor), LIMITS.ceiling)
        self.rate: RateController | None = RateController(limits, 0.0)
        self.plays, self.wants, self.late = plays, wants, False
        self.packets: list[tuple[str, bytes, bool]] = []
        self.images: list[bytes] = []

    def carry(self, bitrate: int) -> None:
        self.rate = RateController(BitrateLimits(bitrate, 1_000, LIMITS.ceiling), 0.0)

    def congested(self, now: float) -> bool:
        return self.late

    def show_image(
        self, header: FrameHeader, image: bytes, codec: Codec, depth: object = None
    ) -> None:
        self.images.append(image)

    def show_packet(self, header: FrameHeader, packet: VideoPacket, layer: str) -> None:
        self.packets.append((layer, bytes(packet), packet.is_keyframe))

    @property
    def layers(self) -> set[str]:
        return {layer for layer, _, _ in self.packets}


class Show:
    """A broadcaster, and the encoders that it opened."""

    def __init__(self, made: list[VideoEncoder]) -> None:
        self.made = made
        self.taken = 0
        self.frames = 0
        self._pool = ThreadPoolExecutor(1)
        self.broadcaster = Broadcaster(SPEC, Quality(85, LIMITS), self._pool, self._taken)

    def _taken(self, frame: RawFrame) -> None:
        self.taken += 1

    async def play(self, viewers: Iterable[Any], frames: int = 8) -> None:
        """Show frames one after the other, none of them replaced."""
        self.broadcaster.viewers.clear()
        self.broadcaster.viewers.update(viewers)
        for _ in range(frames):
            now = now_ms()
            header = FrameHeader(self.frames, -1, 0.0, now, now, now, now, Pose())
            payload = moving_frame(self.frames)
            self.broadcaster.offer(RawFrame("s", header, payload))
            self.frames += 1
            await eventually(lambda: self.taken == self.frames)
            await asyncio.get_running_loop().run_in_executor(self._pool, int)  # it was encoded
            await asyncio.sleep(0.01)


@pytest.fixture
async def show(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Show]:
    made: list[VideoEncoder] = []

    class Counted(VideoEncoder):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(module, "VideoEncoder", Counted)
    show = Show(made)
    yield show
    await show.broadcaster.close()


async def test_all_viewers_get_the_same_packets_of_one_encoder(show: Show) -> None:
    viewers = [Watching(2_000_000, plays=True), *(Watching(2_000_000) for _ in range(8))]
    await show.play(viewers)
    assert len(show.made) == 1
    assert all(viewer.packets == viewers[0].packets for viewer in viewers)
    assert len(viewers[0].packets) == 8


async def test_a_slow_spectator_gets_a_stream_of_its_own(show: Show) -> None:
    player, fast, slow = Watching(2_000_000, plays=True), Watching(2_500_000), Watching(300_000)
    await show.play([player, fast, slow])
    assert (player.layers, fast.layers, slow.layers) == ({"full"}, {"full"}, {"reduced"})
    assert sorted(encoder.bitrate for encoder in show.made) == [300_000, 2_000_000]
    slow.packets.clear()
    slow.carry(3_000_000)
    await show.play([player, fast, slow])
    assert slow.layers == {"full"}, "its network is better now"


async def test_a_slow_player_slows_its_own_stream(show: Show) -> None:
    player, fast = Watching(400_000, plays=True), Watching(5_000_000)
    await show.play([player, fast])
    assert [encoder.bitrate for encoder in show.made] == [400_000]
    assert fast.packets == player.packets


async def test_spectators_alone_get_what_the_fastest_carries(show: Show) -> None:
    await show.play([Watching(3_000_000), Watching(500_000)])
    assert sorted(encoder.bitrate for encoder in show.made) == [500_000, 3_000_000]


async def test_nothing_is_encoded_for_a_network_that_is_full(show: Show) -> None:
    player, spectator = Watching(2_000_000, plays=True), Watching(2_000_000)
    await show.play([player, spectator], 4)
    spectator.late = True
    await show.play([player, spectator], 4)
    assert len(player.packets) == 8, "a spectator does not slow the player"
    player.late, spectator.late = True, False
    await show.play([player, spectator], 4)
    assert len(player.packets) == 8
    player.late = False
    await show.play([player, spectator], 4)
    assert len(player.packets) == 12
    assert [key for _, _, key in player.packets] == [True] + [False] * 11, "no storm of key frames"


async def test_what_probes_a_network_that_is_down_can_be_shown_alone(
    show: Show, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worldbridge.bridge.media.encoder.KEYFRAME_THROTTLE_MS", 0.0)
    player, spectator = Watching(2_000_000, plays=True), Watching(2_000_000)
    await show.play([player, spectator], 4)
    assert [key for _, _, key in player.packets] == [True, False, False, False]
    assert spectator.rate is not None and player.rate is not None
    monkeypatch.setattr(spectator.rate, "silent", lambda now: True)
    await show.play([player, spectator], 2)
    assert [key for _, _, key in player.packets[4:]] == [False, False], "no spectator's matter"
    monkeypatch.setattr(player.rate, "silent", lambda now: True)
    await show.play([player, spectator], 3)
    assert [key for _, _, key in player.packets[6:]] == [True] * 3


async def test_images_and_video_at_once(show: Show) -> None:
    player, page = Watching(2_000_000, plays=True), Watching(1_000_000, wants="jpeg")
    await show.play([player, page], 4)
    assert len(player.packets) == len(page.images) == 4
