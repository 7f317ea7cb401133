"""The services of one run as child processes: started together, watched, restarted a few times, stopped in order."""

import json
import os
import signal
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tidemill import clock
from tidemill.errors import ConfigurationError
from tidemill.local import exitreason, machine, processes

ENDPOINT_VARIABLE = "TIDEMILL_ENDPOINT_FILE"
_MOST_DOUBLINGS = 32  # any bound is long reached, and a float still holds it


@dataclass(frozen=True, slots=True)
class ServiceCommand:
    """One process to run. `env` is added to this process's environment; `name` names its log file."""

    name: str
    args: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """After a failure start again, at most `max_restarts` times, after `backoff_s` that doubles up to `max_backoff_s`.

    A process that refused its configuration would refuse it again and is not restarted.
    """

    max_restarts: int = 3
    backoff_s: float = 0.5
    max_backoff_s: float = 10.0

    def delay_s(self, status: int, restarts: int) -> float | None:
        """Seconds to wait before the next start after exit `status`, or None to leave it stopped."""
        if status in (0, ConfigurationError.exit_code) or restarts >= self.max_restarts:
            return None
        return min(self.backoff_s * 2.0 ** min(restarts, _MOST_DOUBLINGS), self.max_backoff_s)


NEVER = RestartPolicy(max_restarts=0)


class Exit(NamedTuple):
    """A process ended without being asked to. `status` is negative for a signal; `reason` is for people."""

    name: str
    status: int
    reason: str
    restart_in_s: float | None
    """None when it stays stopped: it was done (status 0), or has failed too often."""
    log_file: Path


class Endpoint(NamedTuple):
    """Where a running service answers HTTP."""

    service: str
    instance: int
    pid: int
    url: str


@dataclass(slots=True)
class _Child:
    command: ServiceCommand
    log_file: Path
    endpoint_file: Path
    process: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    restarts: int = 0
    start_at: float | None = None

    @property
    def lives(self) -> bool:
        """Runs, or will again."""
        return self.process is not None or self.start_at is not None


class Supervisor:
    """Runs services. Not thread-safe: use it from one thread that outlives them (see `processes.spawn`).

    Nothing happens between calls: `poll` notices exits and restarts what is due, so call it a few times a second.
    """

    def __init__(self, log_dir: Path, policy: RestartPolicy = RestartPolicy()) -> None:
        self._dir = Path(log_dir).absolute()
        self._policy = policy
        self._children: dict[str, _Child] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """All services, in the order in which they were started."""
        return tuple(self._children)

    def start(self, commands: Iterable[ServiceCommand]) -> None:
        """Start each, in order. May be called again, with more or with what was stopped or has ended for good."""
        for command in commands:
            if (known := self._children.get(command.name)) is not None and known.lives:
                raise ValueError(f"{command.name} was started before")
            paths = self._dir / f"{command.name}.log", self._dir / f"{command.name}.endpoint.json"
            child = self._children[command.name] = _Child(command, *paths)
            self._spawn(child)

    def poll(self) -> list[Exit]:
        """What ended since the last call. Starts again what is due. Does not block."""
        exits = []
        now = clock.monotonic()
        for child in self._children.values():
            if child.start_at is not None and now >= child.start_at:
                child.restarts += 1
                self._spawn(child)
            status = None if child.process is None else child.process.poll()
            if status is None:
                continue
            child.process = None
            delay = self._policy.delay_s(status, child.restarts)
            child.start_at = None if delay is None else now + delay
            reason = exitreason.explain(status, child.log_file, child.log_start)
            exits.append(Exit(child.command.name, status, reason, delay, child.log_file))
        return exits

    def running(self, name: str) -> bool:
        process = self._children[name].process
        return process is not None and process.poll() is None

    def pid(self, name: str) -> int | None:
        """Process id, None while it does not run."""
        process = self._children[name].process
        return None if process is None or process.poll() is not None else process.pid

    def restarts(self, name: str) -> int:
        return self._children[name].restarts

    def log_file(self, name: str) -> Path:
        return self._children[name].log_file

    def endpoint(self, name: str) -> Endpoint | None:
        """Where `name` answers HTTP; None until this very process, or the worker that it runs now, has said so."""
        child = self._children[name]
        try:
            endpoint = Endpoint(**json.loads(child.endpoint_file.read_text("utf-8")))
        except (FileNotFoundError, json.JSONDecodeError):  # not there yet, or half written
            return None
        # a service answers from a worker, which a child of ours has forked and forks anew when it is killed
        return endpoint if (pid := self.pid(name)) and pid in (endpoint.pid, machine.parent(endpoint.pid)) else None

    def usage(self, name: str) -> machine.ProcessUsage | None:
        """CPU seconds since its latest start, and memory, both with its children's; None when it does not run or the
        platform cannot tell."""
        pid = self.pid(name)
        return None if pid is None else machine.process_usage(pid)

    def stop(self, names: Iterable[str] | None = None, grace_s: float = 20.0) -> dict[str, int]:
        """SIGTERM `names` (default: all) in reverse order of start, wait until one shared deadline, then SIGKILL.

        Returns the exit status of each that was running. What is stopped is not restarted.
        """
        chosen = set(self._children if names is None else names)
        stopping = [self._children[name] for name in reversed(self._children) if name in chosen]
        for child in stopping:
            child.start_at = None
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        deadline = clock.monotonic() + grace_s
        statuses = {}
        for child in stopping:
            if child.process is not None:
                remaining = max(0.0, deadline - clock.monotonic())
                statuses[child.command.name] = processes.wait(child.process, remaining)
                child.process = None
        return statuses

    def kill(self, name: str) -> None:
        """SIGKILL, as a crash would; `poll` then reports it and the restart policy applies."""
        process = self._children[name].process
        if process is not None:
            processes.kill(process)

    def _spawn(self, child: _Child) -> None:
        child.start_at = None
        self._dir.mkdir(parents=True, exist_ok=True)
        child.endpoint_file.unlink(missing_ok=True)
        child.log_start = child.log_file.stat().st_size if child.log_file.exists() else 0
        env = {**os.environ, ENDPOINT_VARIABLE: str(child.endpoint_file), **child.command.env}
        child.process = processes.spawn(child.command.args, log_file=child.log_file, env=env)
