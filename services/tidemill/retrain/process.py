"""One retrain process: keys, topics, Faust, the training process, and the order in which they start and stop."""

import asyncio
import errno
import signal
from pathlib import Path
from threading import Event

from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import PRIVATE_KEY_FILE, generate_key_files, public_key_of, read_key
from tidemill.errors import EnvironmentUnusable
from tidemill.retrain.app import STATE_ROLE, RetrainApp
from tidemill.retrain.config import RetrainConfig
from tidemill.retrain.jobs import TrainingProcess
from tidemill.retrain.journal import read_journal
from tidemill.retrain.metrics import RETRAIN
from tidemill.retrain.outcomes import OutcomeSource
from tidemill.retrain.publishing import Publisher
from tidemill.retrain.readers import reader_opener
from tidemill.retrain.recorder import Recorder
from tidemill.retrain.shell import LearningLoop
from tidemill.retrain.web import add_views, free_port
from tidemill.runtime.health import Health, url_of, write_endpoint
from tidemill.runtime.kafka import PlainProducer
from tidemill.runtime.logs import get_logger
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import wait_for_topics
from tidemill.runtime.service import OutRecord

NAME = "retrain"
TOPIC_ROLES = ("drift", "outcomes", "decisions", "models", "model-chunks", STATE_ROLE)
_JOIN_S = 120.0
_log = get_logger("process")


def run(config: RetrainConfig, pipeline: Pipeline) -> int:
    """Blocks until SIGTERM or SIGINT (returns 0) or a fatal error (raises). Call it on the main thread."""
    metrics = Metrics({"pipeline": pipeline.name, "service": NAME}, RETRAIN)
    health = Health(NAME, metrics, config.instance)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    config.data_dir.mkdir(parents=True, exist_ok=True)
    private_key = signing_key(config.signing_key_file)
    wait_for_topics(config, [pipeline.topic(role) for role in TOPIC_ROLES], health, stop)
    if not stop.is_set():
        asyncio.run(Process(config, pipeline, private_key, health).serve(stop))
    _log.info("stopped", exit_code=0)
    return 0


def signing_key(path: Path) -> bytes:
    """The key at `path`; made first, with its public half beside it, if nothing is there and it has the usual name."""
    if not path.exists() and path.name == PRIVATE_KEY_FILE:
        generate_key_files(path.parent)
        _log.info("signing_key_made", path=str(path))
    return read_key(path)


class Process:
    """Everything that lives in the event loop."""

    def __init__(self, config: RetrainConfig, pipeline: Pipeline, private_key: bytes, health: Health) -> None:
        self._config = config
        self._pipeline = pipeline
        self._key = private_key
        self._health = health
        self._port = config.http_port or free_port(config.http_host)
        self._producer = PlainProducer(config.bootstrap_servers, config.kafka_options)
        self._open = reader_opener(config)
        self._jobs = TrainingProcess(timeout_s=config.job_timeout_s)
        self._source = OutcomeSource(pipeline, self._open)

    async def serve(self, stop: Event) -> None:
        """Until a signal or a failure. `stop` may be set already."""
        stopped = asyncio.Event()
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, stopped.set)
        if stop.is_set():
            return
        app = RetrainApp(self._config, self._pipeline, self, self._port)
        add_views(app, self._health)
        self._health.set_ready(False, "joining the consumer group")
        await self._jobs.start()
        try:
            await self._run(app, stopped)
        finally:
            await app.stop()
            await self._jobs.stop()
            self._producer.close()

    async def _run(self, app: RetrainApp, stopped: asyncio.Event) -> None:
        started = asyncio.create_task(app.faust.start(), name="faust")
        signalled = asyncio.create_task(stopped.wait(), name="signal")
        ended = asyncio.create_task(app.faust.wait_until_stopped(), name="faust ended")
        failed = asyncio.create_task(_outcome(app.failure), name="failure")
        try:
            await asyncio.wait([started, signalled], timeout=_JOIN_S, return_when=asyncio.FIRST_COMPLETED)
            if started.done():
                _raise_port_taken(started, self._port)
                self._announce()
            elif not signalled.done():
                reason = f"not a member of the consumer group after {_JOIN_S:g} s"
                raise EnvironmentUnusable(reason, hint="look for errors of aiokafka or faust above, and start again")
            await asyncio.wait({signalled, ended, failed}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._health.set_ready(False, "stopping")
            for task in (started, signalled, ended, failed):
                task.cancel()
        if app.failure.done():
            app.failure.result()
        if ended.done() and not ended.cancelled() and not stopped.is_set():
            raise app.faust.crash_reason or EnvironmentUnusable("Faust stopped by itself", hint="its log says why")

    def _announce(self) -> None:
        if self._config.endpoint_file is not None:
            write_endpoint(self._config.endpoint_file, self._health, url_of(self._config.http_host, self._port))
        _log.info("listening", host=self._config.http_host, port=self._port)

    async def activate(self) -> LearningLoop:
        """Read the truth to its end; from then on this instance decides."""
        self._health.set_ready(False, "reading decisions, models and alarms")
        journal = await asyncio.to_thread(read_journal, self._pipeline, public_key_of(self._key), self._open)
        publisher = Publisher(self._pipeline, self._key, self._write)
        recorder = Recorder(self._pipeline, journal, publisher, self._health.metrics)
        self._health.set_ready(True)
        _log.info("active", decisions=len(journal.situation.decisions), phase=journal.situation.phase)
        return LearningLoop(
            self._pipeline, recorder, self._jobs, self._source.oldest_event_time, self._config.job_attempts
        )

    def standby(self) -> None:
        self._health.set_ready(False, "another instance owns the drift topic's partition")

    def tick(self) -> None:
        self._health.beat()

    def _write(self, records: list[OutRecord]) -> None:
        for record in records:
            self._producer.send(record)
        self._producer.flush()


async def _outcome(future: asyncio.Future[None]) -> None:
    await asyncio.shield(future)


def _raise_port_taken(started: asyncio.Task[None], port: int) -> None:
    error = started.exception()
    if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES):
        hint = "set TIDEMILL_HTTP_PORT to another port, or to 0"
        raise EnvironmentUnusable(f"cannot listen on port {port}: {error.strerror}", hint=hint) from error
    if error is not None:
        raise error
