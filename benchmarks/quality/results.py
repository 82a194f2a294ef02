"""Evaluate a bundled world for the README: `python -m worldbridge.benchmarks.quality.results`.

`--world guided` writes `quality-guided.json`; `--world embedded` writes `quality.json`, which also
has the worth of its drafts. Takes minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import sys

from worldbridge.benchmarks.quality.evaluate import evaluate
from worldbridge.benchmarks.store import write_result

__all__ = ["main"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", default="guided")
    parser.add_argument("--quick", action="store_true", help="one minute; not for publication")
    options = parser.parse_args()

    def tell(text: str, share: float) -> None:
        print(f"\r{share:4.0%} {text:<40}", end="", file=sys.stderr, flush=True)

    result, _ = evaluate(options.world, options.quick, tell)
    name = "quality" if options.world == "embedded" else f"quality-{options.world}"
    name += "-quick" if options.quick else ""
    write_result(name, {"quality": result})


if __name__ == "__main__":
    main()
