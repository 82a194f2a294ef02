"""`python -m worldbridge.models.training`: training where only torch, numpy and safetensors are."""

from __future__ import annotations

import argparse
from pathlib import Path

from worldbridge.models.training.cli import STAGE_NAMES, train


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a world; see `worldbridge train --help`.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--frames", type=int)
    parser.add_argument("--stage", default="all", choices=tuple(STAGE_NAMES))
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    train(**vars(options))


if __name__ == "__main__":
    main()
