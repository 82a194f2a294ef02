"""H.264 in WebSocket messages: credit, key frames, and what a slow client gets."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from tests.bridge.conftest import RawClient, Rig, RigMaker
from tests.bridge.test_webrtc_impaired import noise
from tests.support import fake_worker
from tests.support.fake_worker import SPEC, now_ms
from worldbridge.benchmarks.impairment import Link, tcp_relay
from worldbridge.bridge.media import KeyframeGate
from worldbridge.bridge.media.rate import BitrateLimits, MessageRate
from worldbridge.bridge.protocol import Credit, Frame, Hello, Status

HELLO = Hello("page", transports=("websocket",), codecs=("h264", "jpeg"))


async def playing(rig: Rig) -> RawClient:
    client = await rig.play(hello=HELLO)
    await client.until(Status, lambda status: status.state == "playing")
    assert (client.welcome.transport, client.welcome.codec) == ("websocket", "h264")
    return client


async def frames(client: RawClient, count: int) -> list[Frame]:
    """Take frames, each paid by one credit."""
    taken = []
    for _ in range(count):
        taken.append(await client.until(Frame))
        await client.send(Credit(1))
    return taken


def decoded(sequence: Sequence[Frame]) -> int:
    """How many of the frames, in this order, a decoder decodes."""
    decoder = av.CodecContext.create("h264", "r")
    assert isinstance(decoder, VideoCodecContext)
    shown = 0
    for frame in sequence:
        assert frame.codec == "h264" and frame.image is not None
        for decoded_frame in decoder.decode(av.Packet(frame.image)):
            assert (decoded_frame.width, decoded_frame.height) == (SPEC.width, SPEC.height)
            shown += 1
    return shown


async def test_every_frame_decodes_from_the_first_on(rig: Rig) -> None:
    await rig.worker()
    client = await playing(rig)
    await client.send(Credit(2))
    taken = await frames(client, 30)
    assert decoded(taken) == 30
    numbers = [frame.header.frame for frame in taken]
    assert numbers == sorted(set(numbers))
    assert all(f.header.t_encoded <= f.header.t_sent for f in taken)


async def test_without_credit_nothing_comes_and_afterwards_it_still_decodes(rig: Rig) -> None:
    await rig.worker()
    client = await playing(rig)
    with suppress(AssertionError, TimeoutError):
        async with asyncio.timeout(1.0):
            raise RuntimeError(await client.until(Frame))
    await client.send(Credit(2))
    first = await frames(client, 10)
    for _ in range(2):  # what is still granted, and then none
        first.append(await client.until(Frame))
    await asyncio.sleep(1.0)
    await client.send(Credit(2))
    later = await frames(client, 12)
    assert decoded(first + later) == 24
    newest = later[-1].header.t_frame
    assert newest - first[-1].header.t_frame > 500, "it is not the past that is played"


async def test_a_slow_spectator_does_not_slow_the_player(rig: Rig) -> None:
    await rig.worker()
    client = await playing(rig)
    await client.send(Credit(2))
    playing_on = asyncio.create_task(frames(client, 60))
    watcher = await rig.greet(HELLO.replace(role="spectator"))
    await watcher.send(Credit(1))  # and never again
    first = await watcher.until(Frame)
    assert decoded([first]) == 1
    assert decoded(await playing_on) == 60


async def test_a_slow_line_gets_fresh_frames(
    make_rig: RigMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake_worker, "moving_frame", noise)
    rig = await make_rig(min_bitrate=30_000)
    await rig.worker()
    link = Link(delay_ms=20, rate_bps=200e3, queue_ms=100)
    async with tcp_relay(("127.0.0.1", rig.port), link) as relay:
        monkeypatch.setattr(rig, "port", relay.port)
        client = await playing(rig)
        await client.send(Credit(2))
        ages, sizes, taken = [], [], []
        begun = now_ms()
        while len(ages) < 40 or now_ms() - begun < 6_000:
            (frame,) = await frames(client, 1)
            taken.append(frame)
            ages.append(now_ms() - frame.header.t_frame)
            sizes.append(len(frame.image or b""))
        seconds = (now_ms() - begun) / 1000
        rate, late = sum(sizes) * 8 / seconds / 1e3, float(np.percentile(ages[-20:], 95))
        print(
            f"200 kbit/s: {rate:.0f} kbit/s, {len(ages) / seconds:.1f} frames/s, {late:.0f} ms old"
        )
        assert decoded(taken) == len(taken)
        assert late < 2_000, "stale frames: the queue was not kept short"


def test_a_decoder_gets_nothing_that_depends_on_what_it_missed() -> None:
    gate = KeyframeGate()
    steps = [
        (False, "full"),
        (True, "full"),
        (False, "full"),
        (False, "reduced"),
        (True, "reduced"),
    ]
    assert [gate.admits(*step) for step in steps] == [False, True, True, False, True]
    gate.lose()
    assert not gate.admits(False, "reduced")
    assert gate.admits(True, "reduced")


def test_credit_that_comes_late_slows_the_stream() -> None:
    rate = MessageRate(BitrateLimits(), 0.0)
    for n in range(120):
        now = n * 16.0
        delay = 10.0 if n < 60 else 150.0
        rate.sent(n, 4_000, now)
        rate.acknowledged(1, now + delay)
    assert rate.decreases > 0 and rate.bitrate < BitrateLimits().start
    rate.acknowledged(5, 2_500.0)  # credit for frames that were never sent is no report
