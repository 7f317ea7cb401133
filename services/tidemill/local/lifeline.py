"""Replace this process by another that dies with its parent: `python lifeline.py PARENT_PID COMMAND [ARGUMENT…]`.

Run as a script, never imported by what it starts. On Linux the kernel is asked to SIGKILL the process when the thread
that started it ends (PR_SET_PDEATHSIG survives the exec). Elsewhere the command starts without that protection. A
script of its own, rather than code between fork and exec, because the parent may have threads that hold locks.
"""

import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns: becomes the command, or exits when the parent is already gone."""
    parent, command = int(arguments[0]), arguments[1:]
    if sys.platform == "linux":
        import ctypes

        if ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
            sys.exit("could not ask the kernel to end this process with its parent")
        if os.getppid() != parent:  # it died before the request above was in place
            sys.exit("the parent process is gone")
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.exit(f"cannot start {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
