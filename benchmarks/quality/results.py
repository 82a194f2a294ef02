"""Evaluate the embedded world: `python -m worldbridge.benchmarks.quality.results`.

Takes minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys

from worldbridge.benchmarks.quality.evaluate import evaluate
from worldbridge.benchmarks.store import write_result

__all__ = ["main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="embedded")
    parser.add_argument("--quick", action="store_true", help="one minute; not for publication")
    options = parser.parse_args()

    def tell(text: str, share: float) -> None:
        print(f"\r{share:4.0%} {text:<40}", end="", file=sys.stderr, flush=True)

    result, _ = evaluate(options.world, options.quick, tell)
    name = "quality-quick" if options.quick else "quality"
    write_result(name, {"quality": result})


if __name__ == "__main__":
    main()
