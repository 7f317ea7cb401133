"""The supervisor on real processes: order, restarts, reasons, stopping."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import alive, until

from tidemill.local.supervisor import NEVER, Endpoint, Exit, RestartPolicy, ServiceCommand, Supervisor

QUICK = RestartPolicy(max_restarts=2, backoff_s=0.01)
# Says where it is, as a service does, then waits; on SIGTERM it notes its name and leaves.
POLITE = """
import json, os, pathlib, signal, sys
name, folder = sys.argv[1], pathlib.Path(sys.argv[2])
def leave(*_):
    with (folder / "order").open("a") as file:
        file.write(name + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
endpoint = {"service": name, "instance": 0, "pid": os.getpid(), "url": "http://127.0.0.1:1"}
pathlib.Path(os.environ["TIDEMILL_ENDPOINT_FILE"]).write_text(json.dumps(endpoint))
while True:
    signal.pause()
"""
DEAF = """
import os, pathlib, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
pathlib.Path(os.environ["TIDEMILL_ENDPOINT_FILE"]).write_text("{}")
while True:
    signal.pause()
"""


def command(name: str, program: str, *arguments: str) -> ServiceCommand:
    return ServiceCommand(name, (sys.executable, "-c", program, *arguments))


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[RestartPolicy], Supervisor]]:
    made: list[Supervisor] = []

    def make(policy: RestartPolicy = NEVER) -> Supervisor:
        made.append(Supervisor(tmp_path / "logs", policy))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop(grace_s=0.0)


def exits(supervisor: Supervisor, count: int) -> list[Exit]:
    """The next `count` exits that the supervisor reports."""
    found: list[Exit] = []

    def enough() -> bool:
        found.extend(supervisor.poll())
        return len(found) >= count

    until(enough, f"{count} exits")
    return found


def test_services_stop_in_the_reverse_order_and_leave_cleanly(
    tmp_path: Path, supervise: Callable[[], Supervisor]
) -> None:
    supervisor = supervise()
    supervisor.start(command(name, POLITE, name, str(tmp_path)) for name in ("first", "second"))
    until(lambda: all(map(supervisor.endpoint, supervisor.names)), "both endpoints")
    assert supervisor.stop(["second"]) == {"second": 0}
    assert supervisor.running("first") and not supervisor.running("second")
    assert supervisor.stop() == {"first": 0}
    assert (tmp_path / "order").read_text().split() == ["second", "first"]
    assert supervisor.poll() == []


def test_one_that_ignores_sigterm_is_killed_at_the_deadline(supervise: Callable[[], Supervisor]) -> None:
    supervisor = supervise()
    supervisor.start([command("deaf", DEAF)])
    endpoint_file = supervisor.log_file("deaf").with_name("deaf.endpoint.json")
    until(endpoint_file.exists, "the process is up")
    assert supervisor.stop(grace_s=0.2) == {"deaf": -9}


def test_a_failing_service_is_restarted_a_few_times_then_given_up(
    supervise: Callable[[RestartPolicy], Supervisor],
) -> None:
    supervisor = supervise(QUICK)
    line = json.dumps({"level": "critical", "event": "cannot go on", "reason": "state is corrupt"})
    supervisor.start([command("failing", f"import sys; print('''{line}'''); sys.exit(6)")])
    ended = exits(supervisor, 3)
    assert [(exit.status, exit.restart_in_s) for exit in ended] == [(6, 0.01), (6, 0.02), (6, None)]
    assert {exit.reason for exit in ended} == {"exit status 6: cannot go on · state is corrupt"}
    assert supervisor.restarts("failing") == 2 and not supervisor.running("failing")
    assert supervisor.log_file("failing").read_text().count("cannot go on") == 3


def test_a_killed_service_comes_back_as_a_new_process(
    tmp_path: Path, supervise: Callable[[RestartPolicy], Supervisor]
) -> None:
    supervisor = supervise(QUICK)
    supervisor.start([command("service", POLITE, "service", str(tmp_path))])
    until(lambda: supervisor.endpoint("service") is not None, "the first endpoint")
    first = supervisor.pid("service")
    supervisor.kill("service")
    assert supervisor.endpoint("service") is None, "the endpoint of a process that is gone is no endpoint"
    (ended,) = exits(supervisor, 1)
    assert ended.status == -9 and ended.reason == "killed by SIGKILL" and ended.restart_in_s == 0.01

    def back() -> bool:
        assert supervisor.poll() == []
        return supervisor.endpoint("service") is not None

    until(back, "the second endpoint")
    second = supervisor.pid("service")
    assert second not in (None, first)
    assert supervisor.endpoint("service") == Endpoint("service", 0, second or 0, "http://127.0.0.1:1")


def test_success_is_reported_and_not_restarted(supervise: Callable[[RestartPolicy], Supervisor]) -> None:
    supervisor = supervise(QUICK)
    supervisor.start([command("done", "pass")])
    assert [(exit.status, exit.restart_in_s) for exit in exits(supervisor, 1)] == [(0, None)]


def test_what_is_stopped_while_it_waits_for_its_restart_stays_stopped(
    supervise: Callable[[RestartPolicy], Supervisor],
) -> None:
    supervisor = supervise(RestartPolicy(max_restarts=1, backoff_s=0.0))
    supervisor.start([command("failing", "import sys; sys.exit(1)")])
    exits(supervisor, 1)
    supervisor.stop()
    assert supervisor.poll() == [] and not supervisor.running("failing") and supervisor.restarts("failing") == 0


def test_a_command_that_does_not_exist_is_an_exit_with_its_reason(supervise: Callable[[], Supervisor]) -> None:
    supervisor = supervise()
    supervisor.start([ServiceCommand("missing", ("/no/such/program",))])
    (ended,) = exits(supervisor, 1)
    assert "cannot start /no/such/program" in ended.reason


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_usage_is_that_of_the_service(supervise: Callable[[], Supervisor]) -> None:
    supervisor = supervise()
    supervisor.start([command("busy", "while True: pass")])
    until(lambda: (supervisor.usage("busy") or (0.0, 0))[0] > 0.05, "some CPU time")
    usage = supervisor.usage("busy")
    assert usage is not None and usage.resident_bytes > 1_000_000
    supervisor.stop(grace_s=5)
    assert supervisor.usage("busy") is None


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_services_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import pathlib, signal, sys
from tidemill.local.supervisor import ServiceCommand, Supervisor
supervisor = Supervisor(pathlib.Path({str(tmp_path)!r}))
supervisor.start([ServiceCommand("child", (sys.executable, "-c", "import signal; signal.pause()"))])
print(supervisor.pid("child"), flush=True)
signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: b"pause" in _command_line(child), "the child runs its own program")
        parent.kill()
    until(lambda: not alive(child), "the child is gone")


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().rpartition(b"lifeline.py")[2]


def test_a_child_does_not_start_for_a_parent_that_is_gone() -> None:
    from tidemill.local import processes

    result = subprocess.run(
        [sys.executable, processes._LIFELINE, str(os.getpid() + 1), sys.executable, "-c", "print('started')"],
        capture_output=True,
        text=True,
        check=False,
    )
    if sys.platform == "linux":
        assert result.returncode != 0 and "started" not in result.stdout
