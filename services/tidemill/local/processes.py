"""Child processes that end with their parent, in a process group of their own, with their output in a file."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_LIFELINE = str(Path(__file__).with_name("lifeline.py"))


def spawn(
    command: Sequence[str],
    *,
    log_file: Path,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command`; stdout and stderr are appended to `log_file`, stdin is empty.

    The child leads a new process group, so a Ctrl-C in the terminal reaches only the parent. On Linux it is killed when
    the *calling thread* ends: call from the main thread, or from one that lives as long as the child should.
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    with log_file.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _LIFELINE, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            pass_fds=pass_fds,
            process_group=0,
        )


def terminate(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """SIGTERM, wait at most `grace_s`, then SIGKILL the whole group; returns the exit status once it is reaped."""
    process.terminate()
    return wait(process, grace_s)


def wait(process: subprocess.Popen[bytes], grace_s: float) -> int:
    """The exit status; SIGKILL for the whole group if the process does not end within `grace_s`."""
    try:
        return process.wait(grace_s)
    except subprocess.TimeoutExpired:
        return kill(process)


def kill(process: subprocess.Popen[bytes]) -> int:
    """SIGKILL the process and what it started in its group; returns the exit status once it is reaped."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def last_lines(file: Path, count: int = 12, start: int = 0) -> list[str]:
    """The last `count` non-empty lines that `file` holds after byte `start`; none if it does not exist."""
    try:
        with file.open("rb") as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(start, size - 65_536))
            text = stream.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-count:]
