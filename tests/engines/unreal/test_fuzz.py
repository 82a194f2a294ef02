"""Any bytes from a server are a message or an error: libFuzzer with both sanitizers.

WORLDBRIDGE_FUZZ_SECONDS=600 makes a long run of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.engines.unreal.native import CORE, FIXTURES, FLAGS, HERE, compiler, run

SECONDS = int(os.environ.get("WORLDBRIDGE_FUZZ_SECONDS", "2"))
PARTS = ("MessagePack.cpp", "Protocol.cpp", "WebSocket.cpp")
PROBE = 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }\n'


def write_seeds(folder: Path) -> None:
    """Write the example messages, each behind the byte that chooses what reads it."""
    folder.mkdir()
    for path in FIXTURES.glob("*valid/*.msgpack"):
        target = {"server": 0, "client": 1}.get(path.stem.partition("_")[0])
        data = path.read_bytes()
        if target is not None and len(data) < 4000:
            (folder / f"{path.parent.name}_{path.stem}").write_bytes(bytes([target]) + data)
            frame = bytes([0x82, 126, *len(data).to_bytes(2, "big")]) + data
            (folder / f"stream_{path.parent.name}_{path.stem}").write_bytes(b"\x02\x06" + frame)


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 100)
def test_no_bytes_break_the_parsers(tmp_path: Path) -> None:
    clang = compiler("clang++")
    program = tmp_path / "fuzz"
    sanitize = ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
    try:
        run(clang, "-fsanitize=fuzzer", "-x", "c++", "-", "-o", tmp_path / "probe", stdin=PROBE)
    except AssertionError:
        pytest.skip("clang has no libFuzzer on this machine (on Debian: libclang-rt-14-dev)")
    whole = tmp_path / "whole.cpp"
    whole.write_text("".join(f'#include "{name}"\n' for name in (*PARTS, "fuzz.cpp")))
    run(clang, *FLAGS, *sanitize, "-O1", f"-I{CORE}", f"-I{HERE}", whole, "-o", program)
    write_seeds(tmp_path / "seeds")
    # The resident size that libFuzzer reads is the largest that the process ever had, that of the
    # test runner before it included, so single allocations are limited instead.
    memory = ["-rss_limit_mb=0", "-malloc_limit_mb=256"]
    limits = [f"-max_total_time={SECONDS}", "-max_len=8192", *memory, "-timeout=10"]
    # libFuzzer prints to stderr.
    command = 'exec "$0" "$@" 2>&1'
    arguments = [*limits, "-print_final_stats=1", tmp_path / "seeds"]
    printed = run("sh", "-c", command, program, *arguments, seconds=SECONDS + 60)
    runs = re.search(r"stat::number_of_executed_units:\s+(\d+)", printed)
    assert runs is not None and int(runs[1]) > 100, printed
    print(f"{runs[1]} inputs in {SECONDS} s, no finding")
