"""What this machine has and what a process uses, read from /proc and cgroups; None where the platform has neither."""

import os
import socket
from pathlib import Path
from random import SystemRandom
from typing import NamedTuple

from tidemill.errors import EnvironmentUnusable

LOOPBACK = "127.0.0.1"
# Below the ranges that systems hand out for outgoing connections (Linux from 32768, macOS from 49152): a client that
# keeps dialling a restarting broker on such a port could otherwise be given that very port and connect to itself.
_PORTS = range(20_000, 32_000)
_ATTEMPTS = 200
_MIB = 1 << 20


class ProcessUsage(NamedTuple):
    """CPU time of a process and its children since it started, and their resident memory now."""

    cpu_seconds: float
    resident_bytes: int


def available_memory_mb() -> int | None:
    """Memory that a new process could take without swapping, the container's limit included."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    available = int(fields["MemAvailable"].split()[0]) // 1024
    limit = _cgroup_headroom(Path("/sys/fs/cgroup"))
    return available if limit is None else min(available, limit)


def process_usage(pid: int) -> ProcessUsage | None:
    """CPU and memory of `pid` and its children, or None when it is gone or the platform has no /proc."""
    stat = _stat(pid)
    if stat is None:
        return None
    # utime, stime, and both again of the children that have ended: fields 14 to 17 of proc(5)
    cpu = sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
    resident = _resident_bytes(pid)
    for child in children(pid):
        if (usage := process_usage(child)) is not None:
            cpu += usage.cpu_seconds
            resident += usage.resident_bytes
    return ProcessUsage(cpu, resident)


def children(pid: int) -> list[int]:
    """Processes that the main thread of `pid` has started and not yet waited for; none without /proc."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def parent(pid: int) -> int | None:
    """Which process started `pid`; None when it is gone or there is no /proc."""
    stat = _stat(pid)
    return None if stat is None else int(stat[1])


def _stat(pid: int) -> list[str] | None:
    """The fields behind the name, so that field n of proc(5) is at n - 3."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _resident_bytes(pid: int) -> int:
    """What several processes share, such as a worker with its parent, counts in parts (the proportional set size),
    where the kernel tells."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024
    except OSError:
        return resident_bytes(pid)


def resident_bytes(pid: int) -> int:
    """All memory of one process that is resident, also what it shares; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def free_port(avoid: frozenset[int] = frozenset()) -> int:
    """A loopback port that nobody listens on right now. Another process may still take it first."""
    random = SystemRandom()
    for _ in range(_ATTEMPTS):
        port = random.choice(_PORTS)
        if port not in avoid and port_is_free(port):
            return port
    raise EnvironmentUnusable(
        f"No free TCP port found on {LOOPBACK} between {_PORTS.start} and {_PORTS.stop}.",
        hint="Stop programs that listen there, or name a free port.",
    )


def port_is_free(port: int) -> bool:
    """True if a server could listen on `port` of the loopback interface now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Java does: closing connections do not count
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def _cgroup_headroom(root: Path) -> int | None:
    for limit_name, used_name in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        try:
            limit, used = (root / limit_name).read_text().strip(), (root / used_name).read_text().strip()
        except OSError:
            continue
        if limit != "max" and int(limit) < 1 << 60:  # cgroup v1 writes a huge number for "no limit"
            return max(0, int(limit) - int(used)) // _MIB
    return None
