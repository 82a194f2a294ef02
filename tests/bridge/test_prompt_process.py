"""The process that decodes prompt frames: its limits, and that its end ends nothing else."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.bridge.conftest import Rig, eventually
from tests.bridge.test_prompts import RED, TAKES, chunk, encoded
from tests.support.fake_worker import SPEC
from worldbridge.bridge.gateway.prompt_process import PromptDecoder
from worldbridge.bridge.gateway.prompts import DepthFile, read_prompt_frames
from worldbridge.bridge.protocol import BridgeError, Error, Frame, Start
from worldbridge.engine_plugins.python.prompt_frames import PromptDepth


def flat_png(width: int, height: int) -> bytes:
    """A PNG of one colour: a few kilobytes, however many pixels."""
    pack = zlib.compressobj(9)
    row = b"\0" + b"\x30\x60\x90" * width
    body = b"".join(pack.compress(row) for _ in range(height)) + pack.flush()
    head = width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02\0\0\0"
    return RED[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


LARGE = flat_png(7000, 6000)


@contextmanager
def decoder(
    memory: int = 1 << 30, cpu_s: float = 30.0, wall_s: float = 60.0
) -> Iterator[PromptDecoder]:
    found = PromptDecoder(memory, cpu_s, wall_s)
    try:
        yield found
    finally:
        found.close()


async def test_one_process_decodes_them_all_as_the_function_does() -> None:
    with decoder() as found:
        assert found.pid is None, "started when it is needed"
        first = await found.decode([RED, RED], SPEC)
        pid = found.pid
        with pytest.raises(BridgeError, match="prompt frame 2 of 2 is not an image"):
            await found.decode([RED, b"hello, world"], SPEC)
        assert await found.decode([RED, RED], SPEC) == first
        assert found.pid == pid and pid != os.getpid()
    assert first == read_prompt_frames([RED, RED], SPEC.height, SPEC.width)


async def test_depth_is_cropped_as_the_frame_is_and_no_values_are_blended() -> None:
    frame = encoded(Image.new("RGB", (2 * SPEC.width, 2 * SPEC.height + 40)))
    metres = np.full((SPEC.height + 20, SPEC.width), 3.0)
    metres[:, SPEC.width // 2 :] = np.nan
    metres[:10] = metres[-10:] = 50.0  # cut off
    depth = PromptDepth.of(metres)
    with decoder() as found:
        frames = await found.decode([frame], SPEC, DepthFile(depth.data, depth.scale))
    assert frames.depth is not None
    steps = np.frombuffer(frames.depth, "<u2").reshape(SPEC.height, SPEC.width)
    assert np.allclose(steps[:, : SPEC.width // 2] * frames.depth_scale, 3.0, atol=0.001)
    assert not steps[:, SPEC.width // 2 :].any()


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (Image.new("L", (SPEC.width, SPEC.height)), "of another kind"),
        (Image.fromarray(np.ones((40, 90), np.uint16)), "has another shape"),
        (None, "is not an image"),
    ],
)
async def test_depth_that_is_none_is_refused(image: Image.Image | None, why: str) -> None:
    frame = encoded(Image.new("RGB", (SPEC.width, SPEC.height)))
    data = b"no file" if image is None else encoded(image)
    with decoder() as found, pytest.raises(BridgeError, match=why) as caught:
        await found.decode([frame], SPEC, DepthFile(data, 0.001))
    assert caught.value.code == "bad_prompt_frame"


async def test_what_a_browser_shows_is_taken() -> None:
    """42 megapixels in 137 kB, and a photo of 100 megapixels."""
    assert len(LARGE) < 140_000
    photo = encoded(Image.new("L", (10_000, 10_000), 90), "JPEG")
    with decoder() as found:
        for file, colour in ((LARGE, (0x30, 0x60, 0x90)), (photo, (90, 90, 90))):
            frames = await found.decode([file], SPEC)
            assert tuple(frames.rgb[:3]) == colour


@pytest.mark.parametrize("limits", [{"memory": 16 << 20}, {"cpu_s": 0.1}])
async def test_an_image_beyond_the_limits_is_refused_and_the_next_is_decoded(
    limits: dict[str, float],
) -> None:
    with decoder(**limits) as found:  # type: ignore[arg-type]
        with pytest.raises(BridgeError) as caught:
            await found.decode([LARGE], SPEC)
        assert caught.value.code == "bad_prompt_frame" and caught.value.remedy
        assert (await found.decode([RED], SPEC)).count == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSTOP])
async def test_a_process_that_ends_or_hangs_costs_one_start(number: signal.Signals) -> None:
    with decoder(wall_s=10.0) as found:
        await found.decode([RED], SPEC)
        assert found.pid is not None
        os.kill(found.pid, signal.SIGSTOP)
        work = asyncio.create_task(found.decode([RED], SPEC))
        await asyncio.sleep(0.2)
        os.kill(found.pid, number)
        os.kill(found.pid, 0 if number is signal.SIGSTOP else signal.SIGCONT)
        with pytest.raises(BridgeError, match="was ended by signal"):
            await work
        assert (await found.decode([RED], SPEC)).count == 1


async def test_one_that_died_between_two_starts_costs_none() -> None:
    with decoder() as found:
        await found.decode([RED], SPEC)
        first = found.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: Path(f"/proc/{first}/stat").read_text().split()[2] == "Z")
        assert (await found.decode([RED], SPEC)).count == 1
        assert found.pid != first


async def test_it_has_no_secret_and_ends_with_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLDBRIDGE_TOKEN", "hush-4711")
    with decoder() as found:
        await found.decode([RED], SPEC)
        process = Path(f"/proc/{found.pid}")
        assert b"hush-4711" not in (process / "environ").read_bytes()
        status = dict(
            line.split(":\t", 1) for line in (process / "status").read_text().splitlines()
        )
        assert status["Seccomp"].strip() == "2"
        assert len(list((process / "fd").iterdir())) <= 4
    await eventually(lambda: not process.exists() or "Z" in (process / "stat").read_text())


CONFINED = """
import ctypes, os, socket, subprocess, threading
from worldbridge.bridge.gateway.prompt_process import confine
server = socket.socket()
confine(64 << 20)

def refused(what):
    try:
        what()
    except (OSError, MemoryError, RuntimeError, ValueError):
        return True
    return False

for name, what in {
    "a socket": lambda: socket.socket(),
    "a connection": lambda: server.connect(("127.0.0.1", 9)),
    "a file": lambda: open("/etc/hostname"),
    "a removal": lambda: os.unlink("/tmp/no-such-file-of-worldbridge"),
    "a process": lambda: os.fork() or os._exit(0),
    "a program": lambda: os.execv("/bin/true", ["true"]),
    "a thread": lambda: threading.Thread(target=print).start(),
    "a signal": lambda: os.kill(os.getppid(), 0),
    "memory": lambda: bytearray(128 << 20),
    "a way back": lambda: __import__("resource").setrlimit(7, (64, 64)),
}.items():
    print(name, refused(what), flush=True)
"""


def test_what_is_taken_away() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("True") == 10 and "False" not in done.stdout, done.stdout


async def test_the_gateway_refuses_the_start_and_others_play_on(rig: Rig) -> None:
    await rig.worker(spec=TAKES, seats=2)
    honest = await rig.play()
    await honest.until(Frame)
    hostile = await rig.play(files=(RED,))
    await hostile.until(Frame)
    killer = threading.Thread(target=_kill_decoders, args=(time.monotonic() + 20,), daemon=True)
    killer.start()
    await hostile.start(Start(), (LARGE,))
    error = await hostile.until(Error)
    assert (error.code, error.fatal) == ("bad_prompt_frame", False)
    killer.join()
    await honest.until(Frame)
    await hostile.start(Start(), (RED,))
    await hostile.until(Frame)


def _kill_decoders(deadline: float) -> None:
    """Kill the decoder below this process while it computes."""
    me = os.getpid()
    while time.monotonic() < deadline:
        for task in Path(f"/proc/{me}/task").iterdir():
            for pid in (task / "children").read_text().split():
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
                if b"prompt_process" in command and memory > 90 << 20:
                    os.kill(int(pid), signal.SIGKILL)
                    return
        time.sleep(0.005)
