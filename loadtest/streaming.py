"""A pipeline of its own on a local Kafka, with its scenario streaming to it and the audit reading what it commits."""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.local.auditor import Auditor
from tidemill.local.machine import process_usage
from tidemill.local.stack import Stack, StackSettings
from tidemill.local.supervisor import NEVER, ServiceCommand, Supervisor
from tidemill.scenarios import catalog

EVENTS_PER_DAY = 9_000
"""Fewer than a simulated day of 5,000 customers brings, so that the stream never ends before the measurement."""
_SPARE_S, _SPARE_DAYS = 30, 8
_PRODUCER = "producer"
_FIRST_WITHIN_S = 120.0
_SENDER_FIRST = 5
_TICK_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What is streamed: `rate` valid events a second for at most `seconds`, and bad ones among them."""

    pipeline: str
    rate: float
    seconds: float
    seed: int = 0
    bad_share: float = 0.0
    """Bad records per valid event, added to them."""
    without: frozenset[str] = frozenset()
    """Services that are not started."""
    sender_first: bool = False
    """Give the sender precedence over the system for the CPU, so that it can offer more than the system takes."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Stream:
    """A ready stack with a producer and the audit. Use it by `streaming`."""

    def __init__(self, stack: Stack, folder: Path, plan: Plan) -> None:
        self.stack = stack
        self.plan = plan
        self._folder = folder
        self._producer = Supervisor(folder / "logs", NEVER)
        # Timing a few hundred events a second is enough, and keeps the audit light.
        sample = max(1, int(plan.rate // 500))
        log_file = folder / "logs" / "audit.log"
        self.auditor = Auditor(stack.bootstrap_servers, plan.pipeline, log_file, latency_sample=sample)

    def start(self) -> None:
        """Blocks until the first prediction: the simulation has been made and the first events are through."""
        plan = self.plan
        scenario = catalog.get(self.stack.pipeline.scenario or "")
        options: dict[str, str | int | float | bool] = {
            "bootstrap_servers": self.stack.bootstrap_servers,
            "pipeline": plan.pipeline,
            "rate": plan.rate,
            "seed": plan.seed,
            "bad_share": plan.bad_share,
            "days": ceil(plan.rate * (plan.seconds + _SPARE_S) / EVENTS_PER_DAY) + _SPARE_DAYS,
            "summary_file": str(self._folder / "producer.json"),
        }
        self._producer.start([ServiceCommand(_PRODUCER, scenario.producer_command(options))])
        if plan.sender_first:
            self._put_sender_first()
        until = clock.monotonic() + _FIRST_WITHIN_S
        while self.predictions() == 0:
            self.watch(0.2)
            if clock.monotonic() > until:
                raise TidemillError(
                    f"No prediction within {_FIRST_WITHIN_S:.0f} s of starting the producer.",
                    hint=f"The services' logs are in {self._folder / 'logs'}.",
                )

    def _put_sender_first(self) -> None:
        """Its threads are yet to come and inherit it. Without the privilege it competes like any other process."""
        pid = self._producer.pid(_PRODUCER)
        if pid is not None:
            try:
                os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, 0) - _SENDER_FIRST)
            except OSError as error:
                say(f"the sender has no precedence for the CPU: {error}")

    def predictions(self) -> int:
        """Committed so far, as far as the audit has read."""
        return int(self.auditor.progress()["predictions"])

    def watch(self, seconds: float, each: Callable[[], None] = lambda: None, every_s: float = 1.0) -> None:
        """Let it flow; `each` is called at once and every so often. Raises TidemillError if a service dies."""
        until, due = clock.monotonic() + seconds, clock.monotonic()
        while clock.monotonic() < until:
            for ended in self.stack.watch():
                raise TidemillError(f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
            for ended in self._producer.poll():
                if ended.status != 0:
                    raise TidemillError(f"The producer stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
            if clock.monotonic() >= due:
                due = clock.monotonic() + every_s
                each()
            clock.pause(_TICK_S)

    def stop_sending(self) -> dict[str, Any]:
        """What the producer says that it sent, all of it acknowledged. Raises TidemillError where it says nothing."""
        self._producer.stop(grace_s=120.0)
        try:
            sent: dict[str, Any] = json.loads((self._folder / "producer.json").read_text("utf-8"))
        except FileNotFoundError:
            log_file = self._producer.log_file(_PRODUCER)
            raise TidemillError(
                "The producer left no account of what it sent.", hint=f"Its log is {log_file}."
            ) from None
        return sent

    def cpu_seconds(self) -> dict[str, float]:
        """So far, of each service and of the broker."""
        supervisor = self.stack.supervisor
        used = {name: usage.cpu_seconds for name in supervisor.names if (usage := supervisor.usage(name))}
        if self.stack.broker_pid is not None and (broker := process_usage(self.stack.broker_pid)):
            used["kafka"] = broker.cpu_seconds
        return used

    def harness_cpu_seconds(self) -> float:
        """So far, of what is no part of the system but takes its share of the same cores: producer and audit."""
        producer, auditor = self._producer.usage(_PRODUCER), process_usage(self.auditor.pid)
        if producer is None or auditor is None:
            raise TidemillError("The producer or the audit ended within the measurement.", hint="See the logs.")
        return producer.cpu_seconds + auditor.cpu_seconds

    def close(self) -> None:
        self._producer.stop()
        self.auditor.close()


@contextmanager
def streaming(plan: Plan, folder: Path) -> Iterator[Stream]:
    """A stack in `folder` with the stream flowing. Blocks until the first prediction; stops everything on exit."""
    with Stack(StackSettings(plan.pipeline, folder, without=plan.without), say) as stack:
        stack.wait_ready()
        stream = Stream(stack, folder, plan)
        try:
            stream.start()
            yield stream
        finally:
            stream.close()
