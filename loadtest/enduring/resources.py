"""Memory and open files of each service's process tree, sample by sample."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from enduring.growth import growth, rises
from tidemill import clock
from tidemill.local.machine import children, process_usage
from tidemill.local.stack import Stack

_MB = 2**20


@dataclass(frozen=True)
class Tree:
    """One look at a service: the process that was started, the worker that answers, and all that they hold.

    `resident_mb` counts a page that several processes share in parts (the proportional set size), so that it sums to
    what the service really takes. `files` are the open descriptors of each process.
    """

    pids: tuple[int | None, int | None]
    resident_mb: float
    files: int


@dataclass
class Series:
    """Every look at one service; `at` in monotonic seconds."""

    at: list[float] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)

    def add(self, at: float, tree: Tree) -> None:
        self.at.append(at)
        self.trees.append(tree)

    @property
    def most_mb(self) -> float:
        return max(tree.resident_mb for tree in self.trees)

    @property
    def replaced(self) -> bool:
        """Whether a process ended: another's memory begins anew and would hide what the first one's came to."""
        return len({tree.pids for tree in self.trees}) > 1 or None in self.trees[0].pids

    def verdict(self) -> dict[str, Any]:
        """What the last two thirds say: what is loaded and filled at the beginning is no growth. Raises ValueError for
        too few samples."""
        first = len(self.trees) // 3
        at, trees = self.at[first:], self.trees[first:]
        memory, files = growth(at, [tree.resident_mb for tree in trees]), [tree.files for tree in trees]
        return {
            "resident_mb": round(memory.mean, 1),
            "most_mb": round(self.most_mb, 1),
            "growth_mb": round(memory.growth, 2),
            "growth_at_least_mb": round(memory.at_least, 2),
            "files": {"first": files[0], "last": files[-1], "least": min(files), "most": max(files)},
            "pids": sorted({pid or 0 for tree in self.trees for pid in tree.pids}),
            "memory_grows": memory.grows,
            "files_grow": rises(files),
            "replaced": self.replaced,
        }


class Resources:
    """Looks at all services of a stack, and at its broker."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.services: Mapping[str, Series] = {name: Series() for name in stack.supervisor.names}
        self.broker_mb: list[float] = []

    def sample(self) -> None:
        """Takes some milliseconds a process: the kernel walks its pages."""
        at = clock.monotonic()
        for name, series in self.services.items():
            series.add(at, look(self._stack, name))
        if self._stack.broker_pid is not None and (usage := process_usage(self._stack.broker_pid)):
            self.broker_mb.append(usage.resident_bytes / _MB)

    @property
    def most_mb(self) -> dict[str, float]:
        return {name: round(series.most_mb, 1) for name, series in self.services.items()}

    def broker(self) -> dict[str, float] | None:
        """For the report only: its heap is set, and how much of a log the kernel keeps in memory is its own affair."""
        if not self.broker_mb:
            return None
        first, last = self.broker_mb[0], self.broker_mb[-1]
        return {"first_mb": round(first, 1), "mean_mb": round(mean(self.broker_mb), 1), "last_mb": round(last, 1)}


def look(stack: Stack, name: str) -> Tree:
    """A service that is being started again has no worker, or no process at all: that is in `pids` too."""
    pid, endpoint = stack.supervisor.pid(name), stack.supervisor.endpoint(name)
    usage = None if pid is None else process_usage(pid)
    files = sum(map(open_files, [] if pid is None else family(pid)))
    resident = 0 if usage is None else usage.resident_bytes
    return Tree((pid, endpoint.pid if endpoint else None), resident / _MB, files)


def family(pid: int) -> list[int]:
    """`pid`, its children and theirs."""
    return [pid, *(one for child in children(pid) for one in family(child))]


def open_files(pid: int) -> int:
    """0 when it is gone or there is no /proc."""
    try:
        return len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return 0
