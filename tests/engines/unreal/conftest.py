"""The core, built with sanitizers as the engine builds it: without exceptions and RTTI."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.unreal.native import (
    CORE,
    FLAGS,
    HERE,
    SANITIZERS,
    Build,
    compiler,
    has_openssl,
    run,
)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Return a function that builds a program of this folder with the core, and its path."""
    cxx = compiler("g++", "clang++")
    folder = tmp_path_factory.mktemp("unreal")
    sources = sorted(CORE.glob("*.cpp"))
    assert sources
    command = [cxx, *FLAGS, *SANITIZERS, "-O0", "-g1", "-pthread", f"-I{CORE}", f"-I{CORE.parent}"]
    libraries = ["-lssl", "-lcrypto"] if has_openssl(cxx) else []
    whole, core = folder / "core.cpp", folder / "core.o"
    # One unit: reading the standard library's headers takes most of the time.
    whole.write_text("".join(f'#include "{source.name}"\n' for source in sources))
    run(*command, "-c", whole, "-o", core, seconds=300)

    def program(name: str) -> Path:
        target = folder / name
        if not target.exists():
            run(*command, HERE / f"{name}.cpp", core, "-o", target, *libraries, seconds=300)
        return target

    return program
