"""`python -m worldbridge.runtime '{"world": "embedded"}'`: a worker with these settings."""

import sys

from worldbridge.runtime.worker import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
