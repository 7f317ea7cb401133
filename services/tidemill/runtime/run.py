"""Runs stages as a process: waits for Kafka and their topics, drives a loop each, leaves on a signal."""

import gc
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from threading import Event, Thread
from typing import NamedTuple

import structlog

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.kafka import Admin, KafkaClient, KafkaIdentity
from tidemill.runtime.logs import configure_logs, get_logger
from tidemill.runtime.loop import Loop
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Service
from tidemill.runtime.spec import Replaying, ServiceSpec
from tidemill.runtime.succession import check_still_current, take_place

__all__ = ["Replaying", "ServiceSpec", "Unit", "run_service", "run_units"]

_ASK_EVERY_S = 0.5
_TELL_EVERY_S = 10.0
_LOOK_EVERY_S = 0.2
_THREAD_DIED = 1
_log = get_logger("run")


class Unit(NamedTuple):
    """One stage of one pipeline in this process: a consumer, a transactional producer and a loop of its own."""

    spec: ServiceSpec
    service: Service
    health: Health
    succeed: Callable[[Mapping[Partition, int]], None] | None = None
    """Told, before the first record, where the spec's predecessors stopped; partitions they never read are left out."""


def run_service(spec: ServiceSpec, config: RuntimeConfig, service: Service, health: Health) -> int:
    """`run_units` with one."""
    return run_units([Unit(spec, service, health)], config)


def run_units(units: Sequence[Unit], config: RuntimeConfig) -> int:
    """Blocks until SIGTERM, SIGINT or a fatal error of any unit, and returns the exit code (0 after a signal).

    Call it on the main thread; several units get a thread each, and where one ends, the others commit and end too. It
    sets up logging, waits for Kafka and every topic of a unit for as long as it takes, and closes the services. The
    HTTP server is the caller's: `serve_http(config, health, routes)` before, `close` after.
    """
    configure_logs(config.log_level, config.log_format, service=units[0].spec.group, instance=config.instance)
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    tune_garbage_collector()
    if len(units) == 1:
        return _run(units[0], config, stop)
    codes: list[int] = []

    def run(unit: Unit) -> None:
        structlog.contextvars.bind_contextvars(service=unit.spec.group)
        try:
            codes.append(_run(unit, config, stop))
        finally:
            stop.set()

    threads = [Thread(target=run, args=(unit,), name=unit.spec.group) for unit in units]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():  # a join without a limit would hold back the signal
            thread.join(_LOOK_EVERY_S)
    return max(codes) if len(codes) == len(units) else _THREAD_DIED


def _run(unit: Unit, config: RuntimeConfig, stop: Event) -> int:
    spec, service, health, succeed = unit
    _log.info("starting", inputs=[topic.name for topic in spec.inputs])
    try:
        wait_for_topics(config, _topics(spec), health, stop)
        if spec.replaceable and not stop.is_set():
            check_still_current(config, spec)
        if spec.predecessors and succeed is not None:
            succeed(take_place(config, spec, health, stop))
    except TidemillError as error:
        _log.critical("service stopped", reason=error.message, next_step=error.hint, kind=type(error).__name__)
        service.close()
        return error.exit_code
    if stop.is_set():
        service.close()
        return 0
    identity = KafkaIdentity(
        config.bootstrap_servers, spec.group, config.instance, config.group_protocol, config.kafka_options
    )
    client = KafkaClient(identity, spec.state_topic if config.standby else None)
    code = Loop(client, service, spec, config, health).run(stop)
    _log.info("stopped", exit_code=code)
    return code


def wait_for_topics(config: RuntimeConfig, names: Iterable[str], health: Health, stop: Event) -> None:
    """Return once every topic has leaders for all partitions, or `stop` is set. Says what it waits for."""
    admin = Admin(config.bootstrap_servers, config.kafka_options)
    wanted = set(names)
    told_at = float("-inf")
    while not stop.is_set():
        health.beat()
        try:
            missing = sorted(wanted - admin.partition_counts(timeout_s=5.0).keys())
            waiting_for = f"topics {', '.join(missing)}" if missing else ""
        except TidemillError as error:
            waiting_for = f"Kafka at {config.bootstrap_servers} ({error.message})"
        if not waiting_for:
            return
        health.set_ready(False, f"waiting for {waiting_for}")
        if clock.monotonic() - told_at >= _TELL_EVERY_S:
            told_at = clock.monotonic()
            _log.info("waiting", waiting_for=waiting_for, next_step="`tidemill topics apply` creates missing topics")
        stop.wait(_ASK_EVERY_S)


def tune_garbage_collector() -> None:
    """Records are tuples without cycles, thousands a batch: at the default threshold of 700 the collector walks them
    again and again (measured: a tenth of the loop's time)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)


def _topics(spec: ServiceSpec) -> list[str]:
    state = [spec.state_topic] if spec.state_topic else []
    return [*(topic.name for topic in spec.inputs), spec.dlq_topic, *state]
