"""Watch a server's latency: play for a while, print the percentiles, fail above a limit.

    python examples/latency_bot.py http://127.0.0.1:8080 --seconds 10 --limit-ms 100

Prints one line of JSON. The exit code is 1 if the 95th percentile of input-to-photon latency
is above the limit or nothing could be measured, so that a scheduler can raise an alarm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys

from worldbridge.engine_plugins.python import profile
from worldbridge.errors import StructuredError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8080")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--limit-ms", type=float, default=100.0)
    parser.add_argument("--token", help="the server's secret, if it requires one")
    options = parser.parse_args()
    try:
        result = asyncio.run(profile(options.url, options.seconds, token=options.token))
    except (StructuredError, TimeoutError, RuntimeError) as error:
        print(f"nothing could be measured: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result.as_json()))
    return int(result.input_to_photon_ms["p95"] > options.limit_ms)


if __name__ == "__main__":
    sys.exit(main())
