"""A killed worker is forked anew; any other end of it goes on to whoever supervises the process. Linux only."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from support.polling import eventually
from tidemill.local import machine
from tidemill.local.supervisor import RestartPolicy, ServiceCommand, Supervisor
from tidemill.runtime.respawn import SUPPORTED

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="a worker is forked on Linux only")

PROGRAM = """
import os, pathlib, signal, sys
from tidemill.runtime.respawn import run_in_worker

folder = pathlib.Path({folder!r})

def life():
    '''How many workers there were before this one.'''
    before = len(list(folder.glob("life-*")))
    (folder / f"life-{{before}}").write_text(str(os.getpid()))
    return before

def wait():
    while True:
        signal.pause()

def work():
{work}

sys.exit(run_in_worker(work))
"""


def program(folder: Path, work: str) -> str:
    """`work` is the body of what runs in the worker."""
    return PROGRAM.format(folder=str(folder), work=textwrap.indent(textwrap.dedent(work), "    "))


LOADED = """
import os, numpy
threads = lambda: len(os.listdir("/proc/self/task"))
before = threads()
import tidemill.{service}.__main__
{more}
print(threads() - before)
"""


@pytest.mark.parametrize(
    ("service", "more"),
    [
        ("ingest", ""),
        ("features", "import tidemill.features.warmup as warmup; warmup.compile_kernels()"),
        ("inference", ""),
        ("drift", ""),
    ],
)
def test_what_a_parent_loads_starts_no_thread(service: str, more: str) -> None:
    """A thread would not live on in the worker, and what waits for it there would wait for ever or end it."""
    text = LOADED.format(service=service, more=more)
    # OpenBLAS has threads otherwise, of numpy and of scipy, which it ends before a fork and starts again behind it.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout.split() == ["0"], done.stdout + done.stderr


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], "subprocess.Popen[bytes]"]:
    def run(work: str) -> "subprocess.Popen[bytes]":
        with (tmp_path / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", program(tmp_path, work)], stdout=log, stderr=subprocess.STDOUT
            )

    return run


def pid_of(folder: Path, life: int) -> int:
    """The worker's, once it works."""
    return int(eventually(lambda: (folder / f"life-{life}").exists() and (folder / f"life-{life}").read_text()))


def gone(pid: int) -> bool:
    return machine.parent(pid) is None


def test_a_killed_worker_is_forked_anew_and_its_successor_decides_the_status(
    tmp_path: Path, start: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    process = start("return 7 if life() else wait()")
    first = pid_of(tmp_path, 0)
    assert machine.parent(first) == process.pid
    os.kill(first, signal.SIGKILL)
    assert process.wait(20) == 7
    assert pid_of(tmp_path, 1) != first
    assert "worker killed, starting another" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("status", [0, 2, 70])
def test_a_status_of_its_own_ends_the_process(
    tmp_path: Path, start: Callable[[str], "subprocess.Popen[bytes]"], status: int
) -> None:
    assert start(f"life(); return {status}").wait(20) == status
    assert len(list(tmp_path.glob("life-*"))) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_reaches_the_worker_and_waits_for_it(
    tmp_path: Path, start: Callable[[str], "subprocess.Popen[bytes]"], number: signal.Signals
) -> None:
    process = start(
        f"""
        signal.signal({int(number)}, lambda *_: sys.exit(9))
        life()
        wait()
        """
    )
    worker = pid_of(tmp_path, 0)
    process.send_signal(number)
    assert process.wait(20) == 9
    assert gone(worker)


def test_a_worker_that_has_no_handler_yet_is_ended_by_the_request(
    tmp_path: Path, start: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    process = start("life(); wait()")
    pid_of(tmp_path, 0)
    process.terminate()
    assert process.wait(20) == 0
    assert len(list(tmp_path.glob("life-*"))) == 1


def test_the_worker_dies_with_its_parent(tmp_path: Path, start: Callable[[str], "subprocess.Popen[bytes]"]) -> None:
    process = start("life(); wait()")
    worker = pid_of(tmp_path, 0)
    process.kill()
    process.wait(20)
    eventually(lambda: gone(worker))


def test_workers_that_die_one_after_the_other_are_left_to_the_supervisor(
    tmp_path: Path, start: Callable[[str], "subprocess.Popen[bytes]"]
) -> None:
    process = start("life(); os.kill(os.getpid(), signal.SIGSEGV)")
    assert process.wait(60) == -signal.SIGSEGV
    assert len(list(tmp_path.glob("life-*"))) == 5
    assert "workers are killed one after the other" in (tmp_path / "log").read_text()


def test_so_are_those_that_live_longer_but_die_again_and_again(tmp_path: Path) -> None:
    patient = "import tidemill.runtime.respawn as respawn; respawn._IN_A_ROW_S = 0.0\n"
    text = patient + program(tmp_path, "life(); os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", text], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("life-*"))) == 10


def test_a_request_to_stop_between_two_workers_is_not_lost(tmp_path: Path) -> None:
    between = """
import os, signal, tidemill.runtime.respawn as respawn
class Log:
    def warning(self, *_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
respawn._log = Log()
"""
    text = between + program(tmp_path, "life(); os.kill(os.getpid(), signal.SIGKILL)")
    assert subprocess.run([sys.executable, "-c", text], timeout=60).returncode == 128 + signal.SIGKILL
    assert len(list(tmp_path.glob("life-*"))) == 1


def test_a_launcher_that_ignores_the_end_of_its_children_does_no_harm(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
    text = ignoring + program(tmp_path, "return life() or 6")
    assert subprocess.run([sys.executable, "-c", text], timeout=60).returncode == 6


def test_what_a_worker_leaves_behind_is_reaped_and_not_taken_for_it(
    tmp_path: Path,
) -> None:
    """As in a container, where orphans become children of its first process."""
    work = """
        if life():
            return 5
        read, write = os.pipe()
        if os.fork() == 0:
            if os.fork() == 0:
                os.close(write)
                os.read(read, 1)  # until the worker is gone
                os._exit(3)
            os._exit(0)
        os.wait()
        os.kill(os.getpid(), signal.SIGKILL)
        """
    subreaper = "import ctypes; ctypes.CDLL(None).prctl(36, 1)\n"
    process = subprocess.Popen([sys.executable, "-c", subreaper + program(tmp_path, work)])
    assert process.wait(20) == 5


def test_the_supervisor_finds_the_worker_that_answers_and_counts_its_cpu(tmp_path: Path) -> None:
    work = """
        import json
        life()
        about = {"service": "s", "instance": 0, "pid": os.getpid(), "url": "http://127.0.0.1:1"}
        pathlib.Path(os.environ["TIDEMILL_ENDPOINT_FILE"]).write_text(json.dumps(about))
        sum(range(20_000_000))
        wait()
        """
    supervisor = Supervisor(tmp_path / "logs", RestartPolicy(max_restarts=0))
    supervisor.start([ServiceCommand("s", (sys.executable, "-c", program(tmp_path, work)))])
    try:
        first = pid_of(tmp_path, 0)
        eventually(lambda: (found := supervisor.endpoint("s")) and found.pid == first)
        eventually(lambda: (used := supervisor.usage("s")) and used.cpu_seconds > 0.3)
        os.kill(first, signal.SIGKILL)
        second = pid_of(tmp_path, 1)
        assert supervisor.poll() == []
        eventually(lambda: (found := supervisor.endpoint("s")) and found.pid == second)
        used = supervisor.usage("s")
        assert used is not None and used.cpu_seconds > 0.3
    finally:
        supervisor.stop(grace_s=5.0)
    assert gone(second)
