"""Decode the prompt frames of clients in a process of its own.

Decoders of images are C code that reads strangers' bytes. The process holds no token and no
session, has limits of memory and time, and can open neither files nor sockets. If an image ends it,
one start is refused and the next one finds a new process.

A request is 8 bytes of length, then MessagePack of [height, width, files, depth]; the reply
likewise of [rgb, depth, error].
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import io
import os
import platform
import resource
import signal
import struct
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Timer
from typing import IO, Final

import msgspec
import numpy as np
from PIL import Image, JpegImagePlugin, MpoImagePlugin, PngImagePlugin, TiffImagePlugin
from PIL import WebPImagePlugin as WebPImagePlugin  # Pillow would import it with the first file

from worldbridge.bridge.gateway.prompts import DepthFile, read_prompt_frames
from worldbridge.bridge.protocol import BridgeError, PromptFrames, WorldSpec
from worldbridge.settings import HEALTH_VARIABLE, TOKEN_VARIABLE

__all__ = ["PromptDecoder", "confine", "main"]

MEMORY: Final = 1 << 30  # bytes beyond those of the idle process; 64 megapixels take 0.5 GB
CPU_S: Final = 10.0  # of one start
WALL_S: Final = 60.0  # of one start, for a process that does not compute
_LENGTH: Final = struct.Struct("<Q")
_OVERHEAD: Final = 4096  # bytes of a reply beside its pixels


class _Request(msgspec.Struct, array_like=True):
    height: int
    width: int
    files: list[bytes]
    depth: tuple[bytes, float] | None = None  # of the newest file, and its scale


class _Reply(msgspec.Struct, array_like=True):
    rgb: bytes = b""
    depth: bytes = b""
    error: tuple[str, str, str, str] | None = None  # message, expected, got, remedy


class _Ended(Exception):
    """The process ended before it answered."""


# --- in the gateway ------------------------------------------------------------------------------


class PromptDecoder:
    """Decodes prompt frames in one process, started when it is needed and kept.

    What waits for it can be cancelled, so a client that keeps changing its mind cannot pile up
    megabytes.
    """

    def __init__(self, memory: int = MEMORY, cpu_s: float = CPU_S, wall_s: float = WALL_S) -> None:
        self._limits = (memory, cpu_s)
        self._wall_s = wall_s
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prompt frames")
        self._free = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id, once the first prompt frames came."""
        return None if self._process is None else self._process.pid

    async def decode(
        self, files: Sequence[bytes], spec: WorldSpec, depth: DepthFile | None = None
    ) -> PromptFrames:
        """Return the frames at the size of a world. Raises BridgeError bad_prompt_frame."""
        async with self._free:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(
                self._thread, self._ask, files, spec.height, spec.width, depth
            )
            try:
                return await asyncio.shield(work)
            except asyncio.CancelledError:
                await asyncio.wait([work])  # a thread cannot be cancelled: it is not free before
                raise

    def close(self) -> None:
        """End the process."""
        self._closed = True
        if self._process is not None:
            self._process.kill()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _ask(
        self, files: Sequence[bytes], height: int, width: int, depth: DepthFile | None
    ) -> PromptFrames:
        if not files:  # nothing to start a process for
            return read_prompt_frames(files, height, width)
        process = self._process
        if process is None or process.poll() is not None:
            process = self._process = self._started()
        timer = Timer(self._wall_s, process.kill)
        timer.start()
        try:
            size = len(files) * height * width * 3
            beside = None if depth is None else (depth.data, depth.scale)
            wanted = 0 if depth is None else 2 * height * width
            request = msgspec.msgpack.encode(_Request(height, width, list(files), beside))
            reply = _exchange(process, request, size + wanted + _OVERHEAD)
            if reply.error is None and (len(reply.rgb), len(reply.depth)) != (size, wanted):
                raise _Ended
        except (_Ended, OSError, msgspec.MsgspecError) as error:
            process.kill()
            raise self._refusal(process.wait()) from error
        finally:
            timer.cancel()
        if reply.error is not None:
            raise BridgeError("bad_prompt_frame", *reply.error)
        frames = PromptFrames(len(files), height, width, reply.rgb)
        if depth is None:
            return frames
        return frames.replace(depth=reply.depth, depth_scale=depth.scale)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._closed:
            raise _internal("the server is ending")
        secret = {TOKEN_VARIABLE, HEALTH_VARIABLE}
        environment = {name: v for name, v in os.environ.items() if name not in secret}
        return subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, self._limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment | {"OPENBLAS_NUM_THREADS": "1"},
        )

    def _refusal(self, code: int) -> BridgeError:
        if self._closed:
            return _internal("the server is ending")
        memory, cpu_s = self._limits
        cause = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return BridgeError(
            "bad_prompt_frame",
            "these prompt frames cannot be decoded",
            f"images that take at most {cpu_s:g} s and {memory >> 20} MB",
            f"images with which the decoder {cause}",
            "Save them again as plain PNG or JPEG files, smaller if they are large.",
        )


def _internal(message: str) -> BridgeError:
    return BridgeError("internal", message, "", "", "Connect again.")


def _exchange(process: subprocess.Popen[bytes], request: bytes, most: int) -> _Reply:
    assert process.stdin is not None and process.stdout is not None
    _write(process.stdin, request)
    return msgspec.msgpack.decode(_read(process.stdout, most), type=_Reply)


def _write(pipe: IO[bytes], message: bytes) -> None:
    pipe.write(_LENGTH.pack(len(message)))
    pipe.write(message)
    pipe.flush()


def _read(pipe: IO[bytes], most: int) -> bytes:
    head = pipe.read(_LENGTH.size)
    if len(head) < _LENGTH.size or (length := _LENGTH.unpack(head)[0]) > most:
        raise _Ended
    message = pipe.read(length)
    if len(message) < length:
        raise _Ended
    return message


# --- in the process ------------------------------------------------------------------------------


def main() -> None:
    """Answer requests until the pipe ends."""
    memory, cpu_s = int(sys.argv[1]), float(sys.argv[2])
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints is no reply
    _warm_up()
    confine(memory)
    requests = sys.stdin.buffer
    with suppress(_Ended, BrokenPipeError):
        while True:
            request = msgspec.msgpack.decode(_read(requests, sys.maxsize), type=_Request)
            signal.setitimer(signal.ITIMER_PROF, cpu_s)  # SIGPROF ends us, and says why
            reply = _answer(request)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _write(replies, msgspec.msgpack.encode(reply))
            del request, reply
            gc.collect()


def _answer(request: _Request) -> _Reply:
    try:
        depth = None if request.depth is None else DepthFile(*request.depth)
        found = read_prompt_frames(request.files, request.height, request.width, depth)
        return _Reply(found.rgb, found.depth or b"")
    except BridgeError as error:
        return _Reply(error=(error.message, error.expected, error.got, error.remedy))


def _warm_up() -> None:
    """Let Pillow import what it imports with the first image of a kind."""
    assert JpegImagePlugin and MpoImagePlugin and PngImagePlugin and TiffImagePlugin
    exif = Image.Exif()
    exif[0x0112] = 6
    files = []
    grey = io.BytesIO()
    Image.fromarray(np.ones((32, 32), np.uint16)).save(grey, "PNG")
    for kind in ("PNG", "JPEG", "WEBP"):
        file = io.BytesIO()
        Image.new("RGB", (32, 32)).save(file, kind, exif=exif.tobytes())
        files.append(file.getvalue())
    read_prompt_frames(files, 16, 16, DepthFile(grey.getvalue(), 1.0))
    with suppress(BridgeError):
        read_prompt_frames([files[0][:-20]], 16, 16)


def confine(memory: int) -> None:
    """Take away from this process what decoding does not need. There is no way back.

    `memory`: bytes that it may still allocate. Afterwards it can open nothing, start nothing,
    signal nobody, and ends with its parent. On Linux for x86-64 and ARM64 a filter of system calls
    holds even code that an image smuggled in.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # short of memory, the kernel ends us first
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    for limit, value in (
        (resource.RLIMIT_AS, size + memory),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),  # what is open stays open
    ):
        resource.setrlimit(limit, (value, value))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _filter_system_calls(libc)


_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER: Final = 2
# Source: linux/bpf_common.h, linux/seccomp.h.
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _ARCH = 0, 4  # offsets in struct seccomp_data
_ALLOW, _REFUSE = 0x7FFF_0000, 0x0005_0001  # the latter with EPERM

# Source: arch/x86/entry/syscalls/syscall_64.tbl and include/uapi/asm-generic/unistd.h of Linux 6.
_ARCHITECTURES: Final = {"x86_64": (0xC000_003E, 0), "aarch64": (0xC000_00B7, 1)}
_ALLOWED: Final = {
    "read": (0, 63),
    "write": (1, 64),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "restart_syscall": (219, 128),
    "setitimer": (38, 103),
    "clock_gettime": (228, 113),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "exit": (60, 93),
    "exit_group": (231, 94),
}


def _filter_system_calls(libc: ctypes.CDLL) -> None:
    """Refuse with EPERM every system call that is not in `_ALLOWED`, where the kernel can."""
    if platform.machine() not in _ARCHITECTURES:
        return
    arch, column = _ARCHITECTURES[platform.machine()]
    numbers = [both[column] for both in _ALLOWED.values()]
    steps = [(_LOAD, 0, 0, _ARCH), (_JUMP_IF_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _REFUSE)]
    steps += [(_LOAD, 0, 0, _NUMBER)]
    steps += [(_JUMP_IF_EQUAL, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
    steps += [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    program = ctypes.create_string_buffer(struct.pack("HP", len(steps), ctypes.addressof(code)))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, program, 0, 0)


if __name__ == "__main__":
    main()
