"""CPU seconds of a process and of everything it started, from /proc."""

import os
from pathlib import Path

from tidemill.errors import EnvironmentUnusable

_TICK = os.sysconf("SC_CLK_TCK")


def require_proc() -> None:
    """Raises EnvironmentUnusable where there is no /proc."""
    if not Path("/proc/self/stat").is_file():
        raise EnvironmentUnusable(
            "This benchmark reads CPU seconds from /proc, which this system does not have.", hint="Run it on Linux."
        )


def cpu_seconds(*pids: int) -> float:
    """User and system time of these processes, of their living descendants, and of those they have reaped."""
    parents: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid, parent = int(entry.name), int(fields[1])
        parents.setdefault(parent, []).append(pid)
        # utime, stime, cutime and cstime: fields 14 to 17 of proc(5).
        ticks[pid] = sum(int(value) for value in fields[11:15])
    total, waiting = 0, list(pids)
    while waiting:
        pid = waiting.pop()
        total += ticks.get(pid, 0)
        waiting += parents.get(pid, ())
    return total / _TICK
