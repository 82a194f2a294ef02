"""`python -m worldbridge.child MODULE ARGS...`: runs MODULE, and ends with the process that asked.

A supervisor that is killed outright cannot stop its children; the kernel does it for it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """The kernel kills this process when `parent`, its parent, ends. Linux only."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def main() -> None:
    # A terminal's Ctrl-C reaches the whole group; stopping in order is the supervisor's work.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Under nohup this would be ignored, too; here it is how the supervisor asks for a new start.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    end_with(int(os.environ["WORLDBRIDGE_PARENT"]))
    module, sys.argv = sys.argv[1], sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
