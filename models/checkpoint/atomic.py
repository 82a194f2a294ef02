"""A folder that appears once it is complete, and of which nothing is left after a failure."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from worldbridge.errors import StructuredError

__all__ = ["atomic_directory", "check_out"]


def check_out(out: Path, error: type[StructuredError]) -> None:
    """Raises `error` unless `out` does not exist or is an empty folder."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise error(
            f"{out} is in the way",
            expected="a folder that does not exist yet, or an empty one",
            got="a folder with files" if out.is_dir() else "a file",
            remedy="choose another --out, or remove it",
        )


@contextmanager
def atomic_directory(out: Path, needed: int, error: type[StructuredError]) -> Iterator[Path]:
    """A folder to write to, which becomes `out` at the end, or vanishes after a failure.

    Raises `error` where there are fewer than `needed` bytes, and for what the system refuses.
    """
    out = out.absolute()
    made = [parent for parent in out.parents if not parent.exists()]
    temporary: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _check_space(out.parent, needed, error)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        yield temporary
        temporary.chmod(0o755)  # mkdtemp's, and safetensors' files, are for their maker alone
        for path in temporary.iterdir():
            path.chmod(0o644)
        temporary.replace(out)
    except BaseException as problem:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        for parent in made:  # the innermost first
            if parent.is_dir() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(problem, OSError):
            raise error(
                f"cannot write {out}",
                expected="a folder that can be written",
                got=str(problem),
                remedy="make room or choose another --out",
            ) from problem
        raise


def _check_space(folder: Path, needed: int, error: type[StructuredError]) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise error(
            f"not enough space in {folder}",
            expected=f"{needed / 1e9:.1f} GB",
            got=f"{free / 1e9:.1f} GB",
            remedy="make room, or choose another --out",
        )
