"""One measured run: fresh topics, a warm-up that must come out, a backlog, and the CPU until its last output.

CPU counts from the moment the backlog can be seen until the output topic last grew, user and system time of the
contestant's processes and their children. Start-up, warm-up and shutdown are not in it; the broker's share is reported
apart. Every output is read afterwards and held against the right answer.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from featurebench.feeding import Fed, Feeder
from featurebench.ratios import figure
from featurebench.usage import cpu_seconds
from tidemill import clock
from tidemill.errors import EnvironmentUnusable, TidemillError
from tidemill.local.supervisor import NEVER, ServiceCommand, Supervisor
from tidemill.runtime.kafka import Admin, TopicReader
from tidemill.runtime.topics import TopicDefinition

START_WITHIN_S = 90.0
_LOOK_EVERY_S = 0.1
_QUIET_S = 0.6
"""The output topic must not have grown for so long before all of it is read: reading takes CPU of the same machine."""


@dataclass(frozen=True, slots=True)
class Job:
    """What one run needs. `enter` gets the outputs' values, each once, in some order."""

    name: str
    topics: Sequence[TopicDefinition]
    commands: Sequence[ServiceCommand]
    warm_up: Iterable[Fed]
    warm_up_outputs: int
    backlog: Iterable[Fed]
    backlog_outputs: int
    """Events that count: the outputs to come, not the records (labels are extra cost, not extra events)."""
    output_topic: str
    enter: Callable[[list[bytes | None]], None]
    reads_uncommitted: bool = False
    after: Callable[[Supervisor], Mapping[str, Any]] = field(default=lambda _: {})
    """Asked once the last output is there and before the processes stop, for what else is worth reporting."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`events` are the backlog's outputs that were seen within the limit; `complete` says whether those are all."""

    events: int
    complete: bool
    cpu_seconds: float
    wall_seconds: float
    broker_cpu_seconds: float
    events_per_cpu_second: float
    events_per_second: float
    cpu_us_per_event: float
    more: Mapping[str, Any]

    def as_dict(self) -> dict[str, Any]:
        measured = asdict(self)
        return {**measured.pop("more"), **measured}


@dataclass(frozen=True, slots=True)
class Bench:
    """Where runs happen."""

    bootstrap_servers: str
    broker_pid: int
    folder: Path
    feeder: Feeder
    seconds: float
    """Longest that one backlog may take."""

    def run(self, job: Job) -> Measured:
        """Blocks until the last output or the limit; nothing of it runs on afterwards.

        Raises TidemillError if a process ends, or if the warm-up does not come out.
        """
        admin = Admin(self.bootstrap_servers)
        admin.create_topics(job.topics)
        supervisor = Supervisor(self.folder / "logs" / job.name, NEVER)
        reader: TopicReader | None = None
        try:
            self.feeder.feed(job.warm_up)
            supervisor.start(job.commands)
            reader = TopicReader(self.bootstrap_servers, [job.output_topic])
            self._await_warm_up(job, supervisor, reader)
            return self._measure(job, supervisor, reader)
        finally:
            supervisor.stop(grace_s=15.0)
            if reader is not None:
                reader.close()
            with suppress(TidemillError):  # a peer may have added topics of its own; the broker's folder is temporary
                admin.delete_topics([topic.name for topic in job.topics])

    def _await_warm_up(self, job: Job, supervisor: Supervisor, reader: TopicReader) -> None:
        seen, give_up = 0, clock.monotonic() + START_WITHIN_S
        while seen < job.warm_up_outputs:
            values = [record.value for record in reader.poll(10_000, 0.2)]
            job.enter(values)
            seen += len(values)
            _check(job, supervisor)
            if clock.monotonic() > give_up:
                raise EnvironmentUnusable(
                    f"{job.name} wrote {seen} of {job.warm_up_outputs} warm-up outputs within {START_WITHIN_S:.0f} s.",
                    hint=f"Its log is in {self.folder / 'logs' / job.name}; keep it with --keep.",
                )

    def _measure(self, job: Job, supervisor: Supervisor, reader: TopicReader) -> Measured:
        pids = [pid for name in supervisor.names if (pid := supervisor.pid(name)) is not None]
        before = _Look.now(pids, self.broker_pid, reader)
        with self.feeder.backlog(job.backlog):
            if not job.reads_uncommitted:
                before = _Look.now(pids, self.broker_pid, reader)
        last, seen = before, 0
        give_up = before.at + self.seconds
        while seen < job.backlog_outputs:
            clock.pause(_LOOK_EVERY_S)
            look = _Look.now(pids, self.broker_pid, reader)
            _check(job, supervisor)
            over = look.at > give_up
            if look.written != last.written:
                last = look
            elif look.at - last.at < _QUIET_S and not over:
                continue
            if (last.written - before.written >= job.backlog_outputs and look.at - last.at >= _QUIET_S) or over:
                seen += _read_all(job, reader)
            if over:
                break
        more = (
            {"cpu_seconds_by_process": last.since(before), **job.after(supervisor)}
            if len(pids) > 1
            else job.after(supervisor)
        )
        return _measured(job, before, last, seen, more)


@dataclass(frozen=True, slots=True)
class _Look:
    """CPU used so far, and how far the output topic reached: transaction markers count in `written`."""

    at: float
    cpu: tuple[float, ...]
    broker_cpu: float
    written: int

    @classmethod
    def now(cls, pids: Sequence[int], broker_pid: int, reader: TopicReader) -> "_Look":
        written = sum(reader.end_offsets().values())
        cpu = tuple(cpu_seconds(pid) for pid in pids)
        return cls(clock.monotonic(), cpu, cpu_seconds(broker_pid), written)

    def since(self, before: "_Look") -> list[float]:
        return [round(now - then, 2) for now, then in zip(self.cpu, before.cpu, strict=True)]


def _read_all(job: Job, reader: TopicReader) -> int:
    """Everything to the end as it is now; returns how many outputs were new."""
    seen, ends = 0, reader.end_offsets()
    give_up = clock.monotonic() + START_WITHIN_S
    while True:
        values = [record.value for record in reader.poll(10_000, 0.2)]
        job.enter(values)
        seen += len(values)
        if not values and (reader.at_end() or reader.has_passed(ends)):
            return seen
        if clock.monotonic() > give_up:
            raise EnvironmentUnusable(f"The outputs of {job.name} could not be read to their end.")


def _measured(job: Job, before: _Look, last: _Look, seen: int, more: Mapping[str, Any]) -> Measured:
    cpu = sum(last.cpu) - sum(before.cpu)
    wall = last.at - before.at
    if seen == 0 or cpu <= 0:
        raise EnvironmentUnusable(
            f"{job.name} wrote nothing within the limit of one run.", hint="Give it longer with --seconds."
        )
    return Measured(
        events=seen,
        complete=seen >= job.backlog_outputs,
        cpu_seconds=round(cpu, 3),
        wall_seconds=round(wall, 3),
        broker_cpu_seconds=round(last.broker_cpu - before.broker_cpu, 3),
        events_per_cpu_second=figure(seen / cpu),
        events_per_second=figure(seen / wall) if wall > 0 else 0.0,
        cpu_us_per_event=figure(1e6 * cpu / seen),
        more=more,
    )


def _check(job: Job, supervisor: Supervisor) -> None:
    for ended in supervisor.poll():
        raise EnvironmentUnusable(
            f"{ended.name} stopped in run {job.name}: {' '.join(ended.reason.split())}",
            hint=f"Its log is {ended.log_file}; keep it with --keep.",
        )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
