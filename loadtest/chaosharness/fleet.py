"""The services under attack: the local stack with failpoints in every process, and what can be done to it."""

import os
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from chaosharness.journal import ENVIRONMENT, PROCESS, RANDOM, Entry, Journal, JournalReader
from chaosharness.mutants import MUTANT
from tidemill import clock
from tidemill.local import machine
from tidemill.local.kafka import LocalKafka
from tidemill.local.stack import Stack, StackSettings
from tidemill.local.supervisor import Exit, RestartPolicy

_ALWAYS = RestartPolicy(max_restarts=1_000_000, backoff_s=0.05, max_backoff_s=0.5)
_TICK_S = 0.05
_LOADTEST = Path(__file__).resolve().parents[1]


class Fleet:
    """A running pipeline without its retrain service, whose part the harness plays. Main thread only."""

    def __init__(
        self,
        pipeline: str,
        folder: Path,
        broker: LocalKafka,
        environment: Mapping[str, str],
        mutant: str,
        report: Callable[[str], None],
    ) -> None:
        """The broker runs already; `environment` is that of every service, such as the proxy to connect to."""
        self._folder = folder / "chaos"
        settings = StackSettings(
            pipeline,
            folder / "data",
            bootstrap_servers=broker.bootstrap_servers,
            launcher=("chaosharness.victim",),
            without=frozenset({"retrain"}),
            restarts=_ALWAYS,
            environment={
                **self.python_path,
                ENVIRONMENT: str(self._folder),
                **({MUTANT: mutant} if mutant else {}),
                **environment,
            },
        )
        self.stack = Stack(settings, report)
        self.journal = Journal(self._folder, "harness")
        self.reader = JournalReader(self._folder)
        self.exits: list[Exit] = []
        """Processes that ended by themselves, killed ones left out."""
        (self._folder / "armed").mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.stack.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self.stack.supervisor.names:  # what stands still cannot leave
            self.signal(name, signal.SIGCONT)
        self.stack.stop()
        self.journal.close()

    @property
    def python_path(self) -> dict[str, str]:
        """What a child needs to find this package."""
        return {"PYTHONPATH": os.pathsep.join(filter(None, [str(_LOADTEST), os.environ.get("PYTHONPATH", "")]))}

    def tick(self) -> list[Entry]:
        """Restart what died, and return what was written to the journal since."""
        for ended in self.stack.watch():
            if ended.status != -signal.SIGKILL:
                self.exits.append(ended)
                self.journal.write("exit", ended.reason[:300], service=ended.name)
        return self.reader.poll()

    def wait_for(self, condition: Callable[[list[Entry]], bool], within_s: float) -> bool:
        """Tick until `condition` holds of the new entries of one tick; False when the time is over."""
        until = clock.monotonic() + within_s
        while clock.monotonic() < until:
            if condition(self.tick()):
                return True
            clock.pause(_TICK_S)
        return False

    def wait(self, seconds: float) -> None:
        self.wait_for(lambda entries: False, seconds)

    def arm(self, name: str, failpoint: str) -> None:
        """`name` dies there when it comes by; with ` stop` behind the failpoint it stands still."""
        draft = self._folder / f"armed.{name}"
        draft.write_text(failpoint)
        draft.replace(self._folder / "armed" / name)

    def disarm(self, name: str) -> None:
        (self._folder / "armed" / name).unlink(missing_ok=True)

    def disarm_all(self) -> None:
        """Who has not come by its failpoint yet may live."""
        for armed in (self._folder / "armed").iterdir():
            armed.unlink(missing_ok=True)

    def is_armed(self, name: str) -> bool:
        return (self._folder / "armed" / name).exists()

    def kill(self, name: str, detail: str = RANDOM) -> bool:
        """SIGKILL at this moment: the worker, or with PROCESS what forks it as well. False if it is not running."""
        pid = self.stack.supervisor.pid(name)
        if pid is None:
            return False
        if detail == PROCESS:
            self.journal.write("kill", detail, service=name, pid=pid)
            self.stack.supervisor.kill(name)
            return True
        for worker in machine.children(pid):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(worker, signal.SIGKILL)
                self.journal.write("kill", detail, service=name, pid=worker)
                return True
        return False

    def signal(self, name: str, number: signal.Signals) -> None:
        """To its worker too."""
        if (pid := self.stack.supervisor.pid(name)) is not None:
            for each in (pid, *machine.children(pid)):
                with suppress(ProcessLookupError):
                    os.kill(each, number)

    def add(self, service: str, instance: int) -> str:
        """Start another instance; returns its process' name."""
        name = f"{service}.{instance}"
        self.stack.supervisor.start([self.stack.command(service, name, instance)])
        return name

    def remove(self, name: str, *, violently: bool = False) -> None:
        """Stop an instance for good."""
        self.disarm(name)
        if violently and (pid := self.stack.supervisor.pid(name)) is not None:
            self.journal.write("kill", PROCESS, service=name, pid=pid)
        self.stack.supervisor.stop([name], grace_s=0.0 if violently else 15.0)

    def all_ready(self) -> bool:
        samples = self.stack.samples()
        expected = [name for name in self.stack.supervisor.names if "." not in name]
        return len(samples) == len(expected) and all(sample.state == "ready" for sample in samples)
