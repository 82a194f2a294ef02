"""What tests of several folders share."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    # Two cores: a test that starts a server must not also fan out in its own process.
    import os

    os.environ.setdefault("OMP_NUM_THREADS", "1")
