"""Compiled code is kept where no other user of the machine can put code of theirs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from worldbridge.runtime.errors import DetokenizerError
from worldbridge.runtime.frames.patch_decoders import use_private_compile_cache

NAME = "TORCHINDUCTOR_CACHE_DIR"


def test_the_directory_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv(NAME, "")  # restored after the test
    existing = tmp_path / "worldbridge" / "inductor"
    existing.mkdir(parents=True, mode=0o777)
    use_private_compile_cache()
    assert Path(os.environ[NAME]) == existing
    assert existing.stat().st_mode & 0o777 == 0o700
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    assert Path(cache_dir()) == existing


def test_a_directory_that_is_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "/somewhere")
    use_private_compile_cache()
    assert os.environ[NAME] == "/somewhere"


def test_without_a_place_the_error_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv(NAME, "")
    with pytest.raises(DetokenizerError, match=f"no private directory .* set {NAME} to one"):
        use_private_compile_cache()
