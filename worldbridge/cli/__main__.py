"""`python -m worldbridge.cli`."""

from worldbridge.cli import main

main()
