"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Two cores: a test that starts a server must not also fan out in its own process.
    import os

    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what runs kernels in Triton's interpreter, so that `--fast` can leave it out."""
    for item in items:
        if "interpreter" in getattr(item, "fixturenames", ()) or "fake_cuda" in item.path.parts:
            item.add_marker(pytest.mark.interpreted)


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


@pytest.fixture
def interpreter() -> Iterator[None]:
    """Kernels launched in this test run in Triton's interpreter, on CPU tensors."""
    import numpy
    import triton  # here, because some machines lack it and skip these tests

    from tests.support.triton_interpreter import interpreted

    if _release(triton.__version__) < (3, 8) and _release(numpy.__version__) >= (2, 4):
        # It turns arrays of one element into integers, which NumPy no longer does.
        pytest.skip(
            f"the interpreter of triton {triton.__version__} does not run under NumPy "
            f"{numpy.__version__}: triton 3.8 or newer, or NumPy before 2.4, is needed"
        )
    with interpreted():
        yield
