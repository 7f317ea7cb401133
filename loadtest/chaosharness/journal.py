"""What happened inside the victims: a file to which every process appends a line, and what the lines add up to."""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

ENVIRONMENT = "TIDEMILL_CHAOS_FOLDER"
"""Names the folder to a victim. Only `chaosharness.victim` reads it: the services know nothing of it."""
RANDOM = "random"
"""In place of a failpoint: wherever the worker happens to be."""
PROCESS = "process"
"""The same, and what would fork another worker is killed with it: the service starts from nothing."""


class Entry(NamedTuple):
    """`at` is monotonic seconds, the same clock in all processes of the machine."""

    at: float
    kind: str
    service: str
    pid: int
    detail: str


class Journal:
    """Appends whole lines, so that several processes share the file and a kill loses none that was written."""

    def __init__(self, folder: Path, service: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._service = service

    def write(self, kind: str, detail: str = "", *, service: str | None = None, pid: int | None = None) -> None:
        entry = Entry(time.monotonic(), kind, service or self._service, pid or os.getpid(), detail)
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


class JournalReader:
    """Reads what was appended since the last look."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal.jsonl"
        self._read = 0
        self.entries: list[Entry] = []

    def poll(self) -> list[Entry]:
        """New entries, which are also kept. A line that is being written counts next time."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        new = [Entry(*json.loads(line)) for line in whole.splitlines()]
        self.entries += new
        return new


def totals(entries: Sequence[Entry]) -> dict[str, int]:
    """How often each kind was written."""
    return dict(sorted(Counter(entry.kind for entry in entries).items()))


def kills_by_failpoint(entries: Sequence[Entry]) -> dict[str, int]:
    return dict(sorted(Counter(entry.detail for entry in entries if entry.kind == "kill").items()))


def unexplained(entries: Sequence[Entry]) -> list[str]:
    """Workers that another of the same parent has replaced although nobody killed them: some other signal did."""
    killed = {entry.pid for entry in entries if entry.kind == "kill"}
    latest: dict[tuple[str, str], int] = {}
    found = []
    for entry in sorted(entry for entry in entries if entry.kind == "joining"):
        before = latest.get((entry.service, entry.detail))
        if before is not None and before not in killed:
            found.append(f"{entry.service}: worker {before} ended by a signal that no fault sent")
        latest[entry.service, entry.detail] = entry.pid
    return found


def recoveries(entries: Sequence[Entry]) -> dict[str, Any]:
    """Seconds from each kill to the next commit of that service by any process: where its worker was forked anew, where
    the whole process had to start (it was killed, or gave up after so many workers; another parent, which `joining`
    names, tells), and in both cases from the moment at which it joined the group.

    Where something was killed again before it had committed anything, the time would say how densely the schedule
    kills: it is left out, and counts as `interrupted`. `never` are those after which nothing was committed any more,
    as at the end of the stream. Instances that come and go with a storm are left out.
    """
    since: dict[str, list[float]] = {"worker": [], "process": [], "joining": []}
    by_service: dict[str, list[float]] = defaultdict(list)
    killed: dict[str, Entry] = {}
    again: set[str] = set()
    anew: set[str] = set()
    started: dict[tuple[str, int], float] = {}
    parents: dict[str, str] = {}
    interrupted = 0
    for entry in sorted(entry for entry in entries if "." not in entry.service):
        if entry.kind == "kill":
            if entry.service in killed:
                again.add(entry.service)
                interrupted += 1
            killed[entry.service] = entry
        elif entry.kind == "joining":
            started[entry.service, entry.pid] = entry.at
            if parents.get(entry.service, entry.detail) != entry.detail:
                anew.add(entry.service)
            parents[entry.service] = entry.detail
        elif entry.kind == "first_commit":
            kill = killed.pop(entry.service, None)
            dense = entry.service in again
            again.discard(entry.service)
            whole = entry.service in anew
            anew.discard(entry.service)
            if kill is None or dense:
                continue
            since["process" if whole else "worker"].append(entry.at - kill.at)
            if not whole:
                by_service[entry.service].append(entry.at - kill.at)
            if (entry.service, entry.pid) in started:
                since["joining"].append(entry.at - started[entry.service, entry.pid])
    return {
        "kill_to_commit_s": _spread(since["worker"]),
        "process_kill_to_commit_s": _spread(since["process"]),
        "join_to_commit_s": _spread(since["joining"]),
        "kill_to_commit_by_service_s": {name: _spread(seconds) for name, seconds in sorted(by_service.items())},
        "interrupted": interrupted,
        "never": len(killed),
    }


def _spread(values: Sequence[float]) -> dict[str, float | int | None]:
    ordered = sorted(values)
    if not ordered:
        return {"count": 0, "p50": None, "p99": None, "max": None}
    return {
        "count": len(ordered),
        "p50": round(ordered[len(ordered) // 2], 3),
        "p99": round(ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))], 3),
        "max": round(ordered[-1], 3),
    }
