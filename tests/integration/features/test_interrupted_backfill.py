"""A backfill in several processes that is ended in the middle: nothing runs on, nothing lies about."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.polling import eventually

WITHIN_S = 60.0


@contextmanager
def at_work(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", list[int]]]:
    """The command's process, and those of its two workers, which are stuck in their input."""
    readers, spills = folder / "readers", folder / "spills"
    readers.mkdir()
    spills.mkdir()
    command = [sys.executable, "-m", "support.stuckinput", str(readers), "features", "backfill", "fraud"]
    command += ["--input", "events.parquet", "--no-labels", "--arrival", "event_time", "--workers", "2"]
    command += ["--out", str(folder / "out.parquet"), "--temp-dir", str(spills)]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), *sys.path]))
    environment = {**os.environ, "PYTHONPATH": paths}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        eventually(lambda: len(list(readers.iterdir())) == 2, within_s=WITHIN_S)
        yield process, [int(reader.name) for reader in readers.iterdir()]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # Whoever inherited it has not looked yet.


def takes_interrupts(pid: int) -> bool:
    (blocked,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk"))
    return not int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)


def left(folder: Path) -> list[str]:
    return [path.name for path in (*folder.glob("out*"), *(folder / "spills").iterdir())]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_processes_and_removes_what_was_written(tmp_path: Path, number: signal.Signals) -> None:
    with at_work(tmp_path) as (process, workers):
        assert not any(map(takes_interrupts, workers)), "each would say so with a traceback of its own"
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # As a terminal does.
        else:
            process.send_signal(number)
        _, said = process.communicate(timeout=WITHIN_S)
        assert process.returncode == 130, said
        assert "Traceback" not in said
        assert not any(map(runs, workers))
        assert left(tmp_path) == []


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    with at_work(tmp_path) as (process, workers):
        process.kill()
        eventually(lambda: not any(map(runs, workers)), within_s=WITHIN_S)


def test_a_killed_worker_is_an_error_with_a_next_step(tmp_path: Path) -> None:
    with at_work(tmp_path) as (process, workers):
        os.kill(workers[0], signal.SIGKILL)
        _, said = process.communicate(timeout=WITHIN_S)
        assert (process.returncode, "a worker process was killed" in said, "Traceback" in said) == (3, True, False)
        assert not any(map(runs, workers))
        assert left(tmp_path) == []
