"""`python -m worldbridge.bridge '{"endpoint": "ipc:///tmp/worker", "port": 8080}'`.

The argument holds fields of GatewayConfig as JSON. A token is better handed over in the variable
WORLDBRIDGE_TOKEN, where other users of the machine cannot read it.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Final

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.process import run_gateway

EXIT_CONFIG: Final = 2
TOKEN_VARIABLE: Final = "WORLDBRIDGE_TOKEN"


def parse_config(text: str, token: str | None) -> GatewayConfig:
    """Raises ValueError (or TypeError for an unknown field)."""
    values: dict[str, Any] = json.loads(text)
    for name in ("allow_hosts", "allow_origins", "pictures"):
        values[name] = tuple(values.get(name, ()))
    if token:
        values["token"] = token
    return GatewayConfig(**values)


def main() -> None:
    try:
        config = parse_config(sys.argv[1], os.environ.get(TOKEN_VARIABLE))
    except (IndexError, ValueError, TypeError) as error:
        print(f"expected the fields of GatewayConfig as JSON, got {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG)
    run_gateway(config)


if __name__ == "__main__":
    main()
