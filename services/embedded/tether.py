"""Become another command, tied to its parent: ``python tether.py PARENT COMMAND...``.

Linux sends the command SIGTERM when its parent dies, however that dies, so that nothing of a killed run goes on.
Elsewhere the command is simply run.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tie this process to its parent, then become the command."""
    parent = int(sys.argv[1])
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            sys.exit(1)  # it died before the tie was made
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - what the parent asked for, without a shell


if __name__ == "__main__":
    main()
