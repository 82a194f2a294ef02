"""`python -m worldbridge.bridge '{"endpoint": "ipc:///tmp/worker", "port": 8080}'`.

The argument holds fields of GatewayConfig as JSON. A token is better handed over in the variable
WORLDBRIDGE_TOKEN, where other users of the machine cannot read it.
"""

from __future__ import annotations

import os
import sys

from worldbridge.bridge.config import GatewayConfig
from worldbridge.bridge.gateway.process import run_gateway
from worldbridge.errors import ConfigError
from worldbridge.settings import TOKEN_VARIABLE, from_json


def main() -> None:
    token = os.environ.get(TOKEN_VARIABLE)
    try:
        text = sys.argv[1] if len(sys.argv) > 1 else ""
        config = from_json(GatewayConfig, text, **({} if token is None else {"token": token}))
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    try:
        run_gateway(config)
    except ConfigError as error:  # a file that only the gateway reads
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
