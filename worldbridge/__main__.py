"""`python -m worldbridge`: the command line where its script is not on the PATH."""

from worldbridge.cli import main

main()
