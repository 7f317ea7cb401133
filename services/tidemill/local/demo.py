"""The demonstration: stream a scenario through the whole pipeline once, and audit what came out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError, EnvironmentUnusable
from tidemill.local.auditor import Auditor
from tidemill.local.closing import minimum_days
from tidemill.local.scrape import Sample, StageStatus, statuses
from tidemill.local.stack import Stack
from tidemill.local.supervisor import NEVER, Exit, ServiceCommand, Supervisor
from tidemill.scenarios import catalog

_TICK_S = 0.25
_LOOK_S = 1.0
_QUIET_S = 4.0
_STUCK_S = 60.0
PRODUCER = "producer"


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """What to stream, and how fast."""

    seed: int = 0
    days: int = 100
    days_per_minute: float = 25.0
    customers: int = 5_000
    terminals: int = 10_000
    bad_share: float = 0.005


class Screen(Protocol):
    """Where the run shows itself while it goes on."""

    def update(self, rows: Sequence[StageStatus], headline: str) -> None: ...

    def message(self, text: str) -> None: ...


def refuse_short(pipeline: Pipeline, settings: DemoSettings) -> None:
    """Raises ConfigurationError where `settings.days` are too few for the loop to close."""
    needed = minimum_days(pipeline, settings.days_per_minute)
    if settings.days < needed:
        raise ConfigurationError(
            f"{settings.days} days are too few: at {settings.days_per_minute:g} days a minute the loop of pipeline "
            f"{pipeline.name} needs {needed} to train, compare, promote, notice drift, and do it once more.",
            hint=f"Use --days {needed} or more, or a lower --days-per-minute.",
        )


class Demo:
    """One run on a stack that is up."""

    def __init__(self, stack: Stack, settings: DemoSettings, screen: Screen) -> None:
        self._stack = stack
        self._settings = settings
        self._screen = screen
        self._log_dir = stack.settings.data_dir / "logs"
        self._summary_file = stack.settings.data_dir / "producer.json"
        self._producer = Supervisor(self._log_dir, NEVER)
        self._before: list[Sample] = []
        self._looked = 0.0

    def run(self) -> dict[str, Any]:
        """Stream, drain, audit; returns the summary. Blocks for the length of the stream and a little more."""
        started = clock.monotonic()
        self._stack.wait_ready()
        auditor = Auditor(self._stack.bootstrap_servers, self._stack.settings.pipeline, self._log_dir / "audit.log")
        try:
            self._start_producer()
            sent = self._stream(auditor)
            self._drain(auditor, sent["payments"])
            self._screen.message("Closing the books")
            report = auditor.report()
        finally:
            self._producer.stop()
            auditor.close()
        return summarise(report, sent, round(clock.monotonic() - started, 1))

    def _start_producer(self) -> None:
        settings = self._settings
        options: dict[str, str | int | float | bool] = {
            "bootstrap_servers": self._stack.bootstrap_servers,
            "pipeline": self._stack.settings.pipeline,
            "seed": settings.seed,
            "days": settings.days,
            "days_per_minute": settings.days_per_minute,
            "customers": settings.customers,
            "terminals": settings.terminals,
            "bad_share": settings.bad_share,
            "summary_file": str(self._summary_file),
        }
        scenario = catalog.get(self._stack.pipeline.scenario or "")
        self._producer.start([ServiceCommand(PRODUCER, scenario.producer_command(options))])

    def _stream(self, auditor: Auditor) -> dict[str, Any]:
        """Until the producer has sent everything; returns its summary."""
        while True:
            self._look(auditor, "streaming")
            for ended in self._producer.poll():
                if ended.status != 0:
                    raise EnvironmentUnusable(f"The producer stopped: {ended.reason}", hint=f"Log: {ended.log_file}.")
                sent: dict[str, Any] = orjson.loads(self._summary_file.read_bytes())
                return sent
            clock.pause(_TICK_S)

    def _drain(self, auditor: Auditor, payments: int) -> None:
        """Until every payment has its prediction and nothing moves any more, or nothing moves although some lack."""
        last, since = auditor.progress(), clock.monotonic()
        while True:
            self._look(auditor, "draining")
            progress, now = auditor.progress(), clock.monotonic()
            # A service that is starting again may still have something to say.
            if progress != last or any(sample.state != "ready" for sample in self._before):
                last, since = progress, now
            if now - since > (_QUIET_S if progress["predictions"] >= payments else _STUCK_S):
                return
            clock.pause(_TICK_S)

    def _look(self, auditor: Auditor, doing: str) -> None:
        """Watch the services, and refresh the screen once a second."""
        for ended in self._stack.watch():
            self._tell(ended)
        now = clock.monotonic()
        if now - self._looked < _LOOK_S:
            return
        self._looked = now
        samples = self._stack.samples()
        progress = auditor.progress()
        headline = (
            f"{doing}: {progress['raw']:,} events in, {progress['predictions']:,} predictions, "
            f"{progress['outcomes']:,} outcomes, {progress['alarms']} alarms, {progress['decisions']} decisions"
        )
        self._screen.update(statuses(self._before, samples), headline)
        self._before = samples

    def _tell(self, ended: Exit) -> None:
        if ended.restart_in_s is None:
            raise EnvironmentUnusable(f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}.")
        self._screen.message(f"{ended.name} stopped ({ended.reason}) and starts again in {ended.restart_in_s:.1f} s")


def summarise(report: dict[str, Any], sent: dict[str, Any], wall_seconds: float) -> dict[str, Any]:
    """The audit's report beside what the producer says that it sent; `problems` lists what keeps it from success."""
    problems = []
    if report["missing"] or report["repeated"] or report["foreign"]:
        problems.append(
            f"{report['missing']} predictions missing, {report['repeated']} repeated, {report['foreign']} from nowhere"
        )
    if report["unnamed"]:
        problems.append(f"{report['unnamed']} predictions do not name their model or features")
    if report["events"] != sent["payments"]:
        problems.append(f"{sent['payments']} valid events were sent, {report['events']} were accepted")
    expected = {code: count for code, count in sent["dead_letters"].items() if count}
    if report["dlq"] != expected:
        problems.append(f"bad records sent {expected}, dead letters {report['dlq']}")
    if report["duplicates"] != sent["duplicates"]:
        problems.append(f"{sent['duplicates']} duplicates were sent, {report['duplicates']} were dropped")
    if not _closed(report["models"]):
        problems.append("no model that an alarm had asked for was promoted over an earlier one")
    return {**report, "sent": sent, "wall_seconds": wall_seconds, "problems": problems}


def _closed(models: Sequence[dict[str, Any]]) -> bool:
    """Whether an alarm led to a model that scored in place of one that had been promoted before."""
    promoted = [model for model in models if model["promoted_at"] is not None and model["scoring_from"] is not None]
    return any(model["reason"] in ("drift", "performance") for model in promoted[1:])
