"""A whole pipeline on this machine: broker, topics, signing key, and one process per service and stage."""

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, generate_key_files
from tidemill.errors import ConfigurationError, EnvironmentUnusable
from tidemill.local import processes
from tidemill.local.kafka import LocalKafka
from tidemill.local.scrape import Sample, look
from tidemill.local.supervisor import Endpoint, Exit, RestartPolicy, ServiceCommand, Supervisor
from tidemill.runtime.kafka import Admin, TopicReader
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.topics import apply, plan

READY_TIMEOUT_S = 300.0
_TELL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class StackSettings:
    """What to run and where. Without `bootstrap_servers` a broker is started in `data_dir`."""

    pipeline: str
    data_dir: Path
    bootstrap_servers: str | None = None
    require_empty: bool = True
    """Refuse topics that hold records already: a run that audits itself must own what it counts."""
    environment: Mapping[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()
    """A module that runs the service's module, named after it, in its own process: for tests of the services."""
    without: frozenset[str] = frozenset()
    """Services that are not started."""
    restarts: RestartPolicy = field(default_factory=RestartPolicy)


def service_commands(pipeline: Pipeline) -> list[tuple[str, str, dict[str, str]]]:
    """(name, module, extra environment) of each process, sources first."""
    stages = [stage.entity for stage in pipeline.features.stages] + ["outcomes"]
    return [
        ("ingest", "tidemill.ingest", {}),
        *((f"features-{stage}", "tidemill.features", {"TIDEMILL_STAGE": stage}) for stage in stages),
        ("inference", "tidemill.inference", {}),
        ("drift", "tidemill.drift", {}),
        ("retrain", "tidemill.retrain", {}),
    ]


class Stack:
    """Starts everything on entry and stops it, in reverse, on exit. Use it from the main thread."""

    def __init__(self, settings: StackSettings, report: Callable[[str], None]) -> None:
        self.settings = settings
        self.pipeline = load_pipeline(settings.pipeline)
        self.supervisor = Supervisor(settings.data_dir / "logs", settings.restarts)
        self._report = report
        self._kafka: LocalKafka | None = None
        self._services: list[str] = []
        self.bootstrap_servers = settings.bootstrap_servers or ""

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def broker_pid(self) -> int | None:
        """Process id of the broker if this stack started it."""
        return None if self._kafka is None else self._kafka.pid

    def stop(self) -> None:
        """Let the services finish their transactions and leave, then the broker. Safe to call twice."""
        self.supervisor.stop()
        if self._kafka is not None:
            self._kafka.stop()
            self._kafka = None

    def _start(self) -> None:
        settings = self.settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        # Once a version and machine: several stages compiling at the same time would each take several times as long.
        compiling = processes.spawn(
            [sys.executable, "-m", "tidemill.features.warmup"], log_file=settings.data_dir / "logs" / "kernels.log"
        )
        if settings.bootstrap_servers is None:
            self._kafka = LocalKafka(settings.data_dir / "kafka", report=self._report)
            self._kafka.start()
            self.bootstrap_servers = self._kafka.bootstrap_servers
        self._create_topics()
        self._await_kernels(compiling)
        self._start_services()

    def _await_kernels(self, compiling: subprocess.Popen[bytes]) -> None:
        if compiling.poll() is None:
            self._report("Compiling the feature kernels, once for this version")
        if compiling.wait() != 0:
            log_file = self.settings.data_dir / "logs" / "kernels.log"
            last = processes.last_lines(log_file, 1)
            raise EnvironmentUnusable(
                f"The feature kernels could not be compiled: {' '.join(last)}", hint=f"The log is {log_file}."
            )

    def _create_topics(self) -> None:
        admin = Admin(self.bootstrap_servers)
        topics = plan(self.pipeline)
        if self.settings.require_empty:
            self._refuse_used(list(admin.describe_topics([topic.name for topic in topics])))
        apply(admin, topics)
        self._report(f"Created {len(topics)} topics on {self.bootstrap_servers}")

    def _refuse_used(self, existing: list[str]) -> None:
        if not existing:
            return
        reader = TopicReader(self.bootstrap_servers, existing)
        used = sorted({topic for (topic, _), end in reader.end_offsets().items() if end > 0})
        reader.close()
        if used:
            raise ConfigurationError(
                f"{len(used)} topics of pipeline {self.pipeline.name} hold records already, such as {used[0]}.",
                hint="This run counts every record, so it needs topics of its own: delete them, name another Kafka, "
                "or copy the pipeline file and give it another `name`.",
            )

    def _start_services(self) -> None:
        generate_key_files(self.keys_dir)
        commands = [
            self.command(name, name)
            for name, _, _ in service_commands(self.pipeline)
            if name not in self.settings.without
        ]
        self._services = [command.name for command in commands]
        self.supervisor.start(commands)
        self._report(f"Started {len(commands)} services; their logs are in {self.settings.data_dir / 'logs'}")

    def command(self, service: str, name: str, instance: int = 0) -> ServiceCommand:
        """How to run one instance of `service`, as the process `name`."""
        module, extra = next(
            (module, extra) for each, module, extra in service_commands(self.pipeline) if each == service
        )
        settings = self.settings
        private, public = self.keys_dir / PRIVATE_KEY_FILE, self.keys_dir / PUBLIC_KEY_FILE
        keys = {
            "inference": {"TIDEMILL_PUBLIC_KEY_FILE": str(public)},
            "drift": {"TIDEMILL_PUBLIC_KEY_FILE": str(public)},
            "retrain": {"TIDEMILL_SIGNING_KEY_FILE": str(private)},
        }
        environment = {
            "TIDEMILL_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "TIDEMILL_PIPELINE": settings.pipeline,
            "TIDEMILL_LOG_FORMAT": "json",
            "TIDEMILL_INSTANCE": str(instance),
            "TIDEMILL_DATA_DIR": str(settings.data_dir / "services" / name),
            **settings.environment,
            **extra,
            **keys.get(service, {}),
        }
        return ServiceCommand(name, (sys.executable, "-m", *settings.launcher, module), environment)

    @property
    def keys_dir(self) -> Path:
        """Where the key pair of this run is."""
        return self.settings.data_dir / "keys"

    def watch(self) -> list[Exit]:
        """Services that ended since the last call; failed ones are restarted a few times by the supervisor."""
        return self.supervisor.poll()

    def endpoints(self) -> list[Endpoint]:
        found = (self.supervisor.endpoint(name) for name in self._services)
        return [endpoint for endpoint in found if endpoint is not None]

    def samples(self) -> list[Sample]:
        """One look at every service that listens. Blocks for a few milliseconds a service."""
        return [look(endpoint) for endpoint in self.endpoints()]

    def wait_ready(self, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Block until every service is ready. Raises EnvironmentUnusable with the reason of the first that is not."""
        deadline = clock.monotonic() + timeout_s
        tell_at = clock.monotonic() + _TELL_EVERY_S
        while True:
            for ended in self.watch():
                if ended.restart_in_s is None:
                    raise EnvironmentUnusable(
                        f"{ended.name} stopped: {ended.reason}", hint=f"Its log is {ended.log_file}."
                    )
                self._report(f"{ended.name} stopped and starts again: {ended.reason}")
            samples = self.samples()
            waiting = [sample for sample in samples if sample.state != "ready"]
            if len(samples) == len(self._services) and not waiting:
                return
            silent = sorted(set(self._services) - {sample.endpoint.service for sample in samples})
            reasons = [f"{sample.endpoint.service}: {sample.reason}" for sample in waiting]
            missing = "; ".join(reasons + [f"{name}: starting" for name in silent])
            if clock.monotonic() > tell_at:
                tell_at = clock.monotonic() + _TELL_EVERY_S
                self._report(f"Waiting for {missing}")
            if clock.monotonic() > deadline:
                raise EnvironmentUnusable(
                    f"Not every service was ready after {timeout_s:.0f} s: {missing}.",
                    hint=f"Their logs are in {self.settings.data_dir / 'logs'}.",
                )
            clock.pause(0.2)
