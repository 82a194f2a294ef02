"""Picture files from strangers: what is decoded, what is refused, and how the gateway uses them."""

from __future__ import annotations

import asyncio
import io
import struct
import tracemalloc
import zlib
from dataclasses import replace
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
from worldbridge.bridge.errors import BridgeError
from worldbridge.bridge.gateway.prompts import check_files, read_pictures
from worldbridge.bridge.protocol import (
    Bye,
    Error,
    Frame,
    Hello,
    OpenSession,
    PromptFrames,
    RestartSession,
    Start,
    Status,
    Welcome,
)
from worldbridge.engine_plugins.python import connect
from worldbridge.engine_plugins.python.prompt_frames import as_files

TAKES = replace(SPEC, kind="ar", takes_pictures=9)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def colour(rgb: tuple[int, int, int], size: tuple[int, int] = (96, 64)) -> bytes:
    return encoded(Image.new("RGB", size, rgb))


RED, BLUE = colour((200, 20, 30)), colour((10, 20, 220))


def pixels(raw: PromptFrames) -> NDArray[np.uint8]:
    return np.frombuffer(raw.rgb, np.uint8).reshape(raw.count, raw.height, raw.width, 3)


def huge_png(width: int, height: int) -> bytes:
    """A PNG's head that promises more than it holds."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\x00\x00\x00\x00IDAT"


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
        [picture] = pixels(read_pictures([file], 32, 48))
        assert picture.shape == (32, 48, 3)
        assert abs(picture.astype(int) - [200, 20, 30]).max() <= 4

    def test_order_and_number_are_kept(self) -> None:
        found = pixels(read_pictures([RED, BLUE, RED], 32, 48))
        assert [tuple(p[0, 0]) for p in found] == [(200, 20, 30), (10, 20, 220), (200, 20, 30)]

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
    def test_every_kind_of_colour_becomes_rgb(self, mode: str) -> None:
        if mode == "I;16":
            image = Image.fromarray(np.full((64, 96), 0xC8FF, np.uint16))
        else:
            image = Image.new("RGB", (96, 64), (200, 200, 200)).convert(mode)
        file = encoded(image, "JPEG" if mode == "CMYK" else "PNG")
        [picture] = pixels(read_pictures([file], 32, 48))
        expected = 255 if mode == "1" else 200
        middle = picture.astype(float).mean()
        assert abs(middle - expected) < 60 if mode == "1" else abs(middle - expected) <= 6

    def test_transparent_pixels_lie_over_black(self) -> None:
        image = Image.new("RGBA", (96, 64), (200, 100, 50, 255))
        image.paste((255, 255, 255, 0), (0, 0, 48, 64))
        [picture] = pixels(read_pictures([encoded(image)], 64, 96))
        assert tuple(picture[0, 0]) == (0, 0, 0) and tuple(picture[0, -1]) == (200, 100, 50)

    def test_a_camera_that_was_held_upright(self) -> None:
        image = Image.new("RGB", (96, 64), (0, 0, 0))
        image.paste((255, 255, 255), (0, 0, 48, 64))  # left, which is up once it is turned
        exif = Image.Exif()
        exif[0x0112] = 6
        [picture] = pixels(read_pictures([encoded(image, exif=exif.tobytes())], 96, 64))
        assert picture[:40].min() == 255 and picture[-40:].max() == 0


REFUSED = {
    "not an image": (b"hello, world" * 9, "not a picture", "68 65 6c 6c 6f"),
    "another format": (encoded(Image.new("RGB", (32, 32)), "BMP"), "not a picture", "42 4d"),
    "a gif": (encoded(Image.new("L", (32, 32)), "GIF"), "not a picture", "47 49 46"),
    "nothing": (b"", "is empty", "0 bytes"),
    "half a png": (encoded(Image.effect_noise((96, 64), 50))[:2000], "damaged", "truncated"),
    "half a jpeg": (
        encoded(Image.effect_noise((96, 64), 50), "JPEG")[:900],
        "damaged",
        "truncated",
    ),
    "a bomb": (huge_png(60_000, 60_000), "too large", "3600000000"),
    "a smaller bomb": (huge_png(8_000, 8_000), "too large", "8000x8000"),
    "a webp bomb": (huge_webp(), "too large", "16383x16383"),
    "a thread": (huge_png(16, 4_000), "too narrow", "16x4000"),
    "a dot": (colour((1, 2, 3), (8, 8)), "too small", "8x8"),
    "an animated png": (animation("PNG"), "moves", "4 frames"),
    "an animated webp": (animation("WEBP"), "moves", "4 frames"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_which_and_why(name: str) -> None:
    file, message, got = REFUSED[name]
    tracemalloc.start()
    with pytest.raises(BridgeError) as caught:
        read_pictures([RED, file], 32, 48)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    error = caught.value
    assert error.code == "bad_picture"
    assert "picture 2 of 2" in error.message and message in error.message, error
    assert got in error.got and error.expected and error.remedy, error
    assert peak < 2_000_000
    with pytest.raises(BridgeError):
        check_files([file])


def test_too_many_for_any_world_and_for_a_large_one() -> None:
    with pytest.raises(BridgeError, match="expected 1 to 9, got 10"):
        read_pictures([RED] * 10, 32, 48)
    with pytest.raises(BridgeError, match="a world of 4096x2048 pixels: expected at most 2, got 3"):
        read_pictures([RED] * 3, 2048, 4096)


SEEDS = (
    RED,
    encoded(Image.effect_noise((40, 30), 80), "JPEG"),
    animation("WEBP"),
    encoded(Image.effect_noise((40, 30), 80).convert("RGBA"), "WEBP"),
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_damaged_files_are_pictures_or_refused(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at] = data.draw(st.integers(0, 255))
    try:
        read_pictures([bytes(damaged[: data.draw(st.integers(0, len(damaged)))])], 32, 48)
    except BridgeError as error:
        assert error.code == "bad_picture"


class TestGateway:
    async def test_hello_and_start_carry_them_to_the_worker(self, rig: Rig) -> None:
        worker = await rig.worker(spec=TAKES)
        noise = encoded(Image.effect_noise((512, 512), 90).convert("RGB"))
        assert len(noise) > 100_000, "larger than any other message may be"
        client = await rig.greet(Hello("test", theme="night", seed=7, pictures=(noise, RED)))
        assert (await client.until(Welcome)).spec.takes_pictures == 9
        await client.until(Frame)
        [opened] = worker.of(OpenSession)
        assert isinstance(opened, OpenSession) and (opened.theme, opened.seed) == ("night", 7)
        assert opened.pictures == read_pictures([noise, RED], SPEC.height, SPEC.width)

        await client.send(Start(seed=8))  # absent: they stay
        await client.send(Start(pictures=(BLUE,)))
        await client.until(Status, lambda s: s.detail == "reading the pictures")
        await client.until(Status, lambda s: s.state == "playing")
        await client.send(Start(pictures=()))  # none: back to the theme
        await eventually(lambda: len(worker.of(RestartSession)) == 3)
        same, blue, none = worker.of(RestartSession)
        assert same == RestartSession(opened.session, "night", 8, opened.pictures)
        assert isinstance(blue, RestartSession) and blue.pictures is not None
        assert pixels(blue.pictures)[0, 0, 0].tolist() == [10, 20, 220] and blue.seed == 8
        assert none == RestartSession(opened.session, "night", 8, None)

    @pytest.mark.parametrize("name", ["not an image", "a bomb", "an animated png"])
    async def test_bad_ones_end_a_hello_but_not_a_game(self, rig: Rig, name: str) -> None:
        worker = await rig.worker(spec=TAKES)
        bad = REFUSED[name][0]
        stranger = await rig.greet(Hello("test", pictures=(RED, bad)))
        error = await stranger.until(Error)
        assert (error.code, error.fatal) == ("bad_picture", True)
        assert "picture 2 of 2" in error.message
        assert not worker.of(OpenSession), "no world was opened for it"

        client = await rig.greet(Hello("test", pictures=(RED,)))
        await client.until(Frame)
        await client.send(Start(theme="night", pictures=(bad,)))
        error = await client.until(Error)
        assert (error.code, error.fatal) == ("bad_picture", False)
        await client.send(Start(pictures=(RED,) * 10))
        error = await client.until(Error)
        assert (error.code, error.fatal, error.got) == ("bad_picture", False, "10")
        await client.until(Frame)
        assert not worker.of(RestartSession), "the world goes on as it was"

    async def test_a_world_that_takes_none_or_fewer_says_so(self, rig: Rig) -> None:
        await rig.worker(spec=replace(TAKES, takes_pictures=1))
        client = await rig.greet(Hello("test", pictures=(RED, BLUE)))
        error = await client.until(Error)
        assert (error.code, error.expected, error.got) == ("bad_picture", "at most 1", "2")

    async def test_a_rendered_world_says_so(self, rig: Rig) -> None:
        await rig.worker()
        client = await rig.greet(Hello("test", pictures=(RED,)))
        error = await client.until(Error)
        assert error.code == "bad_picture" and "test-card" in error.message
        player = await rig.greet()
        await player.until(Frame)
        await player.send(Start(pictures=(RED,)))
        assert not (await player.until(Error)).fatal
        await player.until(Frame)

    async def test_a_world_without_a_snapshot_is_opened_from_them_again(self, rig: Rig) -> None:
        worker = await rig.worker(spec=TAKES)
        client = await rig.greet(Hello("test", pictures=(RED,)))
        await client.until(Frame)
        await worker.stop()
        await client.until(Status, lambda s: s.state == "reconnecting")
        again = await rig.worker(spec=TAKES)
        await client.until(Status, lambda s: s.state == "playing")
        first, second = worker.of(OpenSession)[0], again.of(OpenSession)[0]
        assert isinstance(first, OpenSession) and isinstance(second, OpenSession)
        assert first.pictures is not None
        assert (second.snapshot is None) == (second.pictures == first.pictures)

    async def test_the_newest_start_wins_and_takes_over_what_it_leaves_out(self, rig: Rig) -> None:
        worker = await rig.worker(spec=TAKES)
        client = await rig.greet()
        await client.until(Frame)
        large = encoded(Image.effect_noise((2000, 2000), 90).convert("RGB"), "JPEG")
        for seed in (1, 2, 3):
            await client.send(Start(seed=seed, pictures=(large, RED)))
        await client.send(Start("night"))
        await eventually(lambda: len(worker.of(RestartSession)) >= 1)
        await client.until(Status, lambda s: s.state == "playing")
        last = worker.of(RestartSession)[-1]
        assert isinstance(last, RestartSession) and (last.theme, last.seed) == ("night", 3)
        assert last.pictures is not None and last.pictures.count == 2
        assert len(worker.of(RestartSession)) <= 2, "what was overtaken is not begun"

    async def test_a_client_that_leaves_while_they_are_read(self, make_rig: RigMaker) -> None:
        rig = await make_rig(silence_s=60.0, hello_s=60.0)
        worker = await rig.worker(spec=TAKES)
        large = encoded(Image.effect_noise((1500, 1500), 90).convert("RGB"), "JPEG")
        client = await rig.greet(Hello("test", pictures=(large,)))
        await client.send(Bye())
        await asyncio.sleep(0.5)
        player = await rig.greet(Hello("test", pictures=(RED,)))
        welcome = await player.until(Welcome)
        await player.until(Frame)
        assert welcome.seats.used == 1 and len(worker.of(OpenSession)) == 1

    async def test_pictures_of_the_server(self, make_rig: RigMaker, tmp_path: Path) -> None:
        file = tmp_path / "start.png"
        file.write_bytes(RED)
        rig = await make_rig(pictures=(str(file),))
        worker = await rig.worker(spec=TAKES, seats=4)
        for wanted in (None, None, (), (BLUE,)):
            await (await rig.greet(Hello("test", pictures=wanted))).until(Frame)
        found = [m.pictures for m in worker.of(OpenSession) if isinstance(m, OpenSession)]
        colours = [None if raw is None else pixels(raw)[0, 0, 0].tolist() for raw in found]
        assert colours == [[200, 20, 30], [200, 20, 30], None, [10, 20, 220]]
        async with httpx.AsyncClient() as http:
            answer = await http.get(rig.url + "picture")
            health = (await http.get(rig.url + "health")).json()
        assert (answer.content, answer.headers["content-type"]) == (RED, "image/png")
        assert health["pictures"] == 1


class TestPythonClient:
    async def test_it_brings_files_bytes_and_screenshots(self, rig: Rig, tmp_path: Path) -> None:
        worker = await rig.worker(spec=TAKES)
        file = tmp_path / "red.png"
        file.write_bytes(RED)
        screenshot = np.full((72, 128, 4), (10, 20, 220, 255), np.uint8)
        async with connect(rig.url, pictures=[file, RED, screenshot]) as client:
            await client.frame()
            client.start(pictures=str(file))
            await eventually(lambda: len(worker.of(RestartSession)) == 1)
            client.start(pictures=b"no picture")
            await eventually(lambda: client.refusal is not None)
            assert client.refusal is not None and client.refusal.code == "bad_picture"
            await client.frame()
        [opened] = worker.of(OpenSession)
        assert isinstance(opened, OpenSession) and opened.pictures is not None
        corners = pixels(opened.pictures)[:, 0, 0].tolist()
        assert corners == [[200, 20, 30], [200, 20, 30], [10, 20, 220]]

    async def test_a_refusal_is_raised(self, rig: Rig) -> None:
        await rig.worker()
        async with connect(rig.url, pictures=RED) as client:
            with pytest.raises(BridgeError, match="bad_picture.*test-card"):
                await asyncio.wait_for(client.frame(), 20)

    @pytest.mark.parametrize(
        ("pictures", "error", "said"),
        [
            ([RED] * 10, BridgeError, "at most 9, got 10"),
            (["/nowhere/at/all.png"], FileNotFoundError, "all.png"),
            (np.zeros((4, 4), np.uint8), ValueError, r"uint8 \[4, 4\]"),
            ([bytes(5_000_000)] * 2, BridgeError, "10000000"),
        ],
    )
    def test_what_cannot_be_sent(self, pictures: object, error: type[Exception], said: str) -> None:
        with pytest.raises(error, match=said):
            as_files(pictures)  # type: ignore[arg-type]
