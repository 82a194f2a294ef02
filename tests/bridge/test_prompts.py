"""Image files from strangers: what is decoded, what is refused, and how the gateway uses them."""

from __future__ import annotations

import asyncio
import io
import struct
import tracemalloc
import weakref
import zlib
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from tests.bridge.conftest import Rig, RigMaker, eventually
from tests.support.fake_worker import SPEC
from worldbridge.bridge.gateway import prompts
from worldbridge.bridge.gateway.prompts import check_files, read_prompt_frames
from worldbridge.bridge.protocol import (
    BridgeError,
    Bye,
    Error,
    Frame,
    OpenSession,
    PromptFrames,
    RestartSession,
    Start,
    Status,
)
from worldbridge.engine_plugins.python import connect
from worldbridge.engine_plugins.python.prompt_frames import as_files, in_parts

TAKES = SPEC.replace(kind="autoregressive", max_prompt_frames=9)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour(rgb: tuple[int, int, int], size: tuple[int, int] = (96, 64)) -> bytes:
    return encoded(Image.new("RGB", size, rgb))


RED, BLUE = colour((200, 20, 30)), colour((10, 20, 220))


def pixels(raw: PromptFrames) -> NDArray[np.uint8]:
    return np.frombuffer(raw.rgb, np.uint8).reshape(raw.count, raw.height, raw.width, 3)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG's chunk."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(width: int, height: int) -> bytes:
    """A PNG's head that promises more than it holds."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"\x00\x00\x00\x00IDAT"


def huge_webp() -> bytes:
    body = b"VP8X\x0a\x00\x00\x00\x00\x00\x00\x00" + b"\xfe\x3f\x00\xfe\x3f\x00" + bytes(20)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (32, 32), (i * 60, 0, 0)) for i in range(4)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)


class TestReading:
    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
    def test_formats(self, kind: str) -> None:
        file = encoded(Image.new("RGB", (120, 80), (200, 20, 30)), kind)
        [frame] = pixels(read_prompt_frames([file], 32, 48))
        assert frame.shape == (32, 48, 3)
        assert abs(frame.astype(int) - [200, 20, 30]).max() <= 4

    def test_order_and_number_are_kept(self) -> None:
        found = pixels(read_prompt_frames([RED, BLUE, RED], 32, 48))
        assert [tuple(p[0, 0]) for p in found] == [(200, 20, 30), (10, 20, 220), (200, 20, 30)]

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
    def test_every_kind_of_colour_becomes_rgb(self, mode: str) -> None:
        if mode == "I;16":
            image = Image.fromarray(np.full((64, 96), 0xC8FF, np.uint16))
        else:
            image = Image.new("RGB", (96, 64), (200, 200, 200)).convert(mode)
        file = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
        [frame] = pixels(read_prompt_frames([file], 32, 48))
        expected = 255 if mode == "1" else 200
        middle = frame.astype(float).mean()
        assert abs(middle - expected) < 60 if mode == "1" else abs(middle - expected) <= 6

    def test_transparent_pixels_lie_over_black(self) -> None:
        image = Image.new("RGBA", (96, 64), (200, 100, 50, 255))
        image.paste((255, 255, 255, 0), (0, 0, 48, 64))
        [frame] = pixels(read_prompt_frames([encoded(image)], 64, 96))
        assert tuple(frame[0, 0]) == (0, 0, 0) and tuple(frame[0, -1]) == (200, 100, 50)

    def test_a_camera_that_was_held_upright(self) -> None:
        image = Image.new("RGB", (96, 64), (0, 0, 0))
        image.paste((255, 255, 255), (0, 0, 48, 64))  # left, which is up once it is turned
        exif = Image.Exif()
        exif[0x0112] = 6
        [frame] = pixels(read_prompt_frames([encoded(image, exif=exif.tobytes())], 96, 64))
        assert frame[:40].min() == 255 and frame[-40:].max() == 0

    @pytest.mark.parametrize("kind", ["iCCP", "zTXt", "tEXt"])
    def test_a_large_colour_profile_or_text(self, kind: str) -> None:
        body = bytes(1_500_000) if kind == "tEXt" else b"\0" + zlib.compress(bytes(1_500_000))
        file = RED[:33] + chunk(kind.encode(), b"display\0" + body) + RED[33:]
        assert read_prompt_frames([file], 32, 48) == read_prompt_frames([RED], 32, 48)

    @pytest.mark.parametrize("progressive", [False, True])
    def test_a_jpeg_without_its_end_marker(self, progressive: bool) -> None:
        noise = Image.effect_noise((320, 240), 80).convert("RGB")
        whole = encoded(noise, "JPEG", progressive=progressive)
        assert whole.endswith(b"\xff\xd9")
        found = read_prompt_frames([whole[:-2]], 32, 48)
        assert found == read_prompt_frames([whole], 32, 48)

    def test_a_large_photo_is_scaled_as_it_is_decoded(self) -> None:
        ramp = np.broadcast_to(np.arange(4_000) * 255 // 4_000, (3_000, 4_000)).astype(np.uint8)
        photo = Image.fromarray(ramp).convert("RGB")
        [small] = pixels(read_prompt_frames([encoded(photo, "JPEG", quality=95)], 60, 80))
        [plain] = pixels(read_prompt_frames([encoded(photo)], 60, 80))
        assert np.abs(small.astype(int) - plain).max() <= 3

    def test_one_is_decoded_at_a_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        alive: list[weakref.ref[Image.Image]] = []
        decode = prompts._decode

        def counted(image: Image.Image, name: str) -> Image.Image:
            assert not any(ref() is not None for ref in alive), "an image is still held"
            result = decode(image, name)
            alive.append(weakref.ref(result))
            return result

        monkeypatch.setattr(prompts, "_decode", counted)
        read_prompt_frames([RED, BLUE, RED], 32, 48)
        assert len(alive) == 3

    def test_all_files_of_a_start_share_a_budget(self) -> None:
        file = huge_png(6_000, 5_000)  # 30 megapixels, which is not too many for one
        with pytest.raises(BridgeError, match="too large together.*80000000 pixels.*90000000"):
            read_prompt_frames([file] * 3, 32, 48)


REFUSED = {
    "not an image": (b"hello, world" * 9, "not an image", "68 65 6c 6c 6f"),
    "another format": (encoded(Image.new("RGB", (32, 32)), "BMP"), "not an image", "42 4d"),
    "a gif": (encoded(Image.new("L", (32, 32)), "GIF"), "not an image", "47 49 46"),
    "nothing": (b"", "is empty", "0 bytes"),
    "half a png": (encoded(Image.effect_noise((96, 64), 50))[:2000], "damaged", "truncated"),
    "half a jpeg": (
        encoded(Image.effect_noise((96, 64), 50), "JPEG")[:900],
        "damaged",
        "truncated",
    ),
    "a bomb": (huge_png(60_000, 60_000), "too large", "3600000000"),
    "a smaller bomb": (huge_png(9_000, 9_000), "too large", "9000x9000"),
    "a webp bomb": (huge_webp(), "too large", "16383x16383"),
    "a thread": (huge_png(16, 4_000), "too narrow", "16x4000"),
    "a dot": (colour((1, 2, 3), (8, 8)), "too small", "8x8"),
    "an animated png": (animation("PNG"), "is animated", "4 frames"),
    "an animated webp": (animation("WEBP"), "is animated", "4 frames"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_which_and_why(name: str) -> None:
    file, message, got = REFUSED[name]
    tracemalloc.start()
    with pytest.raises(BridgeError) as caught:
        read_prompt_frames([RED, file], 32, 48)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = caught.value
    assert error.code == "bad_prompt_frame"
    assert "prompt frame 2 of 2" in error.message and message in error.message, error
    assert got in error.got and error.expected and error.remedy, error
    assert peak < 2_000_000
    with pytest.raises(BridgeError):
        check_files([file])


def test_too_many_for_any_world_and_for_a_large_one() -> None:
    with pytest.raises(BridgeError, match="expected 1 to 9, got 10"):
        read_prompt_frames([RED] * 10, 32, 48)
    with pytest.raises(BridgeError, match="a world of 4096x2048 pixels: expected at most 2, got 3"):
        read_prompt_frames([RED] * 3, 2048, 4096)


SEEDS = (
    RED,
    encoded(Image.effect_noise((40, 30), 80), "JPEG"),
    animation("WEBP"),
    encoded(Image.effect_noise((40, 30), 80).convert("RGBA"), "WEBP"),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_files_are_frames_or_refused(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        read_prompt_frames([bytes(damaged[: data.draw(st.integers(0, len(damaged)))])], 32, 48)
    except BridgeError as error:
        assert error.code == "bad_prompt_frame"


class TestGateway:
    async def test_start_carries_them_to_the_worker(self, rig: Rig) -> None:
        worker = await rig.worker(spec=TAKES)
        noise = encoded(Image.effect_noise((512, 512), 90).convert("RGB"))
        assert len(noise) > 300_000, "more than one part"
        client = await rig.play(Start("night", 7), files=(noise, RED))
        assert client.welcome.world.max_prompt_frames == 9
        await client.until(Frame)
        [opened] = worker.of(OpenSession)
        assert isinstance(opened, OpenSession) and (opened.theme, opened.seed) == ("night", 7)
        assert opened.prompt_frames == read_prompt_frames([noise, RED], SPEC.height, SPEC.width)

        await client.send(Start(seed=8))  # absent: they stay
        await client.start(Start(), (BLUE,))
        await client.until(Status, lambda s: s.detail == "decoding the prompt frames")
        await client.until(Status, lambda s: s.state == "playing")
        await client.send(Start(prompt_frames=0))  # none: back to the theme
        await eventually(lambda: len(worker.of(RestartSession)) == 3)
        same, blue, none = worker.of(RestartSession)
        assert same == RestartSession(opened.session, "night", 8, opened.prompt_frames)
        assert isinstance(blue, RestartSession) and blue.prompt_frames is not None
        assert pixels(blue.prompt_frames)[0, 0, 0].tolist() == [10, 20, 220] and blue.seed == 8
        assert none == RestartSession(opened.session, "night", 8, None)

    @pytest.mark.parametrize("name", ["not an image", "a bomb", "an animated png"])
    async def test_bad_ones_start_nothing_and_end_no_game(self, rig: Rig, name: str) -> None:
        worker = await rig.worker(spec=TAKES)
        bad = REFUSED[name][0]
        client = await rig.play(files=(RED, bad))
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("bad_prompt_frame", False)
        assert "prompt frame 2 of 2" in error.message
        await client.until(Status, lambda s: s.state == "ready")
        assert not worker.of(OpenSession), "no world was opened for it"

        await client.start(Start(), (RED,))
        await client.until(Frame)
        await client.start(Start("night"), (bad,))
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("bad_prompt_frame", False)
        await client.send(Start(prompt_frames=2))
        error = await client.until(Error)
        assert (error.code, error.message) == ("bad_prompt_frame", "prompt frames are missing")
        await client.until(Frame)
        assert not worker.of(RestartSession), "the world continues as it was"

    async def test_a_world_that_takes_fewer_says_so(self, rig: Rig) -> None:
        await rig.worker(spec=TAKES.replace(max_prompt_frames=1))
        client = await rig.play(files=(RED, BLUE))
        error = await client.until(Error)
        assert (error.code, error.expected, error.got) == ("bad_prompt_frame", "at most 1", "2")

    async def test_a_rendered_world_says_so(self, rig: Rig) -> None:
        await rig.worker()
        client = await rig.play(files=(RED,))
        error = await client.until(Error)
        assert error.code == "bad_prompt_frame" and "test-card" in error.message
        await client.send(Start())
        await client.until(Frame)

    async def test_one_that_was_not_saved_is_opened_from_them_again(self, rig: Rig) -> None:
        worker = await rig.worker(spec=TAKES)
        client = await rig.play(files=(RED,))
        await client.until(Frame)
        await worker.stop()
        await client.until(Status, lambda s: s.state == "reconnecting")
        again = await rig.worker(spec=TAKES)
        await client.until(Status, lambda s: s.state == "playing")
        first, second = worker.of(OpenSession)[0], again.of(OpenSession)[0]
        assert isinstance(first, OpenSession) and isinstance(second, OpenSession)
        assert first.prompt_frames is not None
        assert (second.saved is None) == (second.prompt_frames == first.prompt_frames)

    async def test_the_newest_start_wins_and_takes_over_what_it_leaves_out(self, rig: Rig) -> None:
        worker = await rig.worker(spec=TAKES)
        client = await rig.play()
        await client.until(Frame)
        large = encoded(Image.effect_noise((2000, 2000), 90).convert("RGB"), "JPEG")
        for seed in (1, 2, 3):
            await client.start(Start(seed=seed), (large, RED))
        await client.send(Start("night"))
        await eventually(lambda: len(worker.of(RestartSession)) >= 1)
        await client.until(Status, lambda s: s.state == "playing")
        last = worker.of(RestartSession)[-1]
        assert isinstance(last, RestartSession) and (last.theme, last.seed) == ("night", 3)
        assert last.prompt_frames is not None and last.prompt_frames.count == 2
        assert len(worker.of(RestartSession)) <= 2, "what was overtaken is not started"

    async def test_a_client_that_leaves_while_they_are_decoded(self, make_rig: RigMaker) -> None:
        rig = await make_rig(silence_s=60.0, hello_s=60.0)
        worker = await rig.worker(spec=TAKES)
        large = encoded(Image.effect_noise((1500, 1500), 90).convert("RGB"), "JPEG")
        client = await rig.play(files=(large,))
        await client.send(Bye())
        await asyncio.sleep(0.5)
        player = await rig.play(files=(RED,))
        await player.until(Frame)
        assert player.welcome.seats.used == 1 and len(worker.of(OpenSession)) == 1

    async def test_prompt_frames_of_the_server(self, make_rig: RigMaker, tmp_path: Path) -> None:
        file = tmp_path / "start.png"
        file.write_bytes(RED)
        rig = await make_rig(prompt_frames=(str(file),))
        worker = await rig.worker(spec=TAKES, seats=4)
        for start, files in ((Start(), ()), (Start(), ()), (Start(prompt_frames=0), ())):
            await (await rig.play(start, files=files)).until(Frame)
        await (await rig.play(files=(BLUE,))).until(Frame)
        found = [m.prompt_frames for m in worker.of(OpenSession) if isinstance(m, OpenSession)]
        colours = [None if raw is None else pixels(raw)[0, 0, 0].tolist() for raw in found]
        assert colours == [[200, 20, 30], [200, 20, 30], None, [10, 20, 220]]
        async with httpx.AsyncClient() as http:
            answer = await http.get(rig.url + "prompt-frame")
            health = (await http.get(rig.url + "health")).json()
        assert (answer.content, answer.headers["content-type"]) == (RED, "image/png")
        assert health["prompt_frames"] == 1


class TestPythonClient:
    async def test_it_sends_files_bytes_and_screenshots(self, rig: Rig, tmp_path: Path) -> None:
        worker = await rig.worker(spec=TAKES)
        file = tmp_path / "red.png"
        file.write_bytes(RED)
        screenshot = np.full((72, 128, 4), (10, 20, 220, 255), np.uint8)
        async with connect(rig.url, prompt_frames=[file, RED, screenshot]) as client:
            await client.frame()
            client.start(prompt_frames=str(file))
            await eventually(lambda: len(worker.of(RestartSession)) == 1)
            client.start(prompt_frames=b"no image")
            await eventually(lambda: client.refusal is not None)
            assert client.refusal is not None and client.refusal.code == "bad_prompt_frame"
            await client.frame()
        [opened] = worker.of(OpenSession)
        assert isinstance(opened, OpenSession) and opened.prompt_frames is not None
        corners = pixels(opened.prompt_frames)[:, 0, 0].tolist()
        assert corners == [[200, 20, 30], [200, 20, 30], [10, 20, 220]]

    async def test_a_refusal_is_raised(self, rig: Rig) -> None:
        await rig.worker()
        async with connect(rig.url, prompt_frames=RED) as client:
            with pytest.raises(BridgeError, match="bad_prompt_frame.*test-card"):
                await asyncio.wait_for(client.frame(), 20)

    def test_files_are_cut_into_parts(self) -> None:
        parts = list(in_parts([bytes(600_000), b"x"]))
        assert [(p.index, p.part, p.parts, len(p.data)) for p in parts] == [
            (0, 0, 3, 262_144),
            (0, 1, 3, 262_144),
            (0, 2, 3, 75_712),
            (1, 0, 1, 1),
        ]

    @pytest.mark.parametrize(
        ("frames", "error", "said"),
        [
            ([RED] * 10, BridgeError, "at most 9, got 10"),
            (["/nowhere/at/all.png"], FileNotFoundError, "all.png"),
            (np.zeros((4, 4), np.uint8), ValueError, r"uint8 \[4, 4\]"),
            ([bytes(5_000_000)] * 2, BridgeError, "10000000"),
        ],
    )
    def test_what_cannot_be_sent(self, frames: object, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            as_files(frames)  # type: ignore[arg-type]
