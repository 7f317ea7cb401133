"""How long a stage takes to have its state back: N keys of 60 rows each, from records in memory, from Kafka, and from a
copy that was kept beside the instance that died.

The state is made by the stage itself and written to the topic that the shipped definitions give the stage. Then the
real service starts on it, with offsets that say that all input has been read.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Consumer, TopicPartition

from featurebench.enginerun import new_stage
from featurebench.fraudfeed import Payments, name
from featurebench.latencyrun import await_ready
from featurebench.measuring import Bench, say
from featurebench.ratios import figure
from featurebench.usage import cpu_seconds
from featurebench.windowing import service_environment, stage_command, stage_topics, write_fraud_pipeline
from tidemill import clock
from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.local.scrape import look
from tidemill.local.supervisor import NEVER, Supervisor
from tidemill.runtime.kafka import Admin, PlainProducer
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import TopicDefinition

ROWS = 60
STAGE = "customer"
_START_MS = 1_522_540_800_000
_STEP_MS = DAY_MS // 2
"""60 rows are 30 days, so that every row is inside the longest window."""
_START_WITHIN_S = 600.0

_TEMPLATES = 64
_LOOK_S = 0.1
_RESTING_CPU_S = 0.1

Entries = list[tuple[bytes, bytes]]


def run(bench: Bench, keys: int, compression: str) -> dict[str, Any]:
    """A minute or two at 50,000 keys; 1,000,000 take several GB of memory. Raises TidemillError if the service ends."""
    file, pipeline = write_fraud_pipeline("restore", bench.folder / "pipelines")
    topics = stage_topics(pipeline, [STAGE])
    admin = Admin(bench.bootstrap_servers)
    admin.create_topics(topics)
    state = next(topic for topic in topics if topic.name == pipeline.topic(f"{STAGE}-state"))
    say(f"restore: making {keys:,} keys of {ROWS} rows")
    in_memory, records, size = _make_state(bench, pipeline, state, keys, compression)
    environment = service_environment(bench.bootstrap_servers, compression)
    command = stage_command(str(file), STAGE, environment, bench.folder / "data" / "restore")
    supervisor = Supervisor(bench.folder / "logs" / "restore", NEVER)
    try:
        began = clock.monotonic()
        supervisor.start([command])
        await_ready(supervisor, command.name, _START_WITHIN_S)
        until_ready = clock.monotonic() - began
        endpoint, pid = supervisor.endpoint(command.name), supervisor.pid(command.name)
        assert endpoint is not None and pid is not None
        sample, cpu = look(endpoint), cpu_seconds(pid)
    finally:
        supervisor.stop(grace_s=15.0)
        admin.delete_topics([topic.name for topic in topics])
    restored = sum(count for count, _ in _taken_over(supervisor.log_file(command.name)))
    return {
        "keys": keys,
        "rows_per_key": ROWS,
        "changelog_records": records,
        "changelog_bytes": size,
        "engine_cpu_seconds": figure(in_memory),
        "service_restore_seconds": sample.total("tidemill_runtime_restore_seconds"),
        "service_start_to_ready_seconds": round(until_ready, 2),
        "service_cpu_seconds": round(cpu, 2),
        "records_restored": restored,
        "all_right": restored == records,
        "state_topic": {"partitions": state.partitions, **state.configs},
        "compacted_before": "no: each key's records are there once",
    }


def _make_state(
    bench: Bench, pipeline: Pipeline, state: TopicDefinition, keys: int, compression: str
) -> tuple[float, int, int]:
    """CPU seconds in which an engine takes the entries over, how many were written, and their bytes."""
    templates = _templates(pipeline)
    producer = PlainProducer(bench.bootstrap_servers, {"compression.type": compression})
    in_memory, records, size = 0.0, 0, 0
    for partition in range(state.partitions):
        mine = range(partition, keys, state.partitions)
        entries = [(name(key) + rest, value) for key in mine for rest, value in templates[key % _TEMPLATES]]
        in_memory += _restored(pipeline, entries)
        records += len(entries)
        size += sum(len(key) + len(value) for key, value in entries)
        _write(producer, state.name, partition, entries)
    producer.flush(120.0)
    _commit_nothing_read(bench.bootstrap_servers, f"{pipeline.name}-features-{STAGE}", pipeline, state.partitions)
    return in_memory, records, size


def take_over(bench: Bench, keys: int, compression: str) -> dict[str, Any]:
    """Seconds from assignment to the first poll of an instance that has copied the state of the one that died.

    One partition, so that the copying instance owns nothing before. Raises TidemillError if a service ends.
    """
    file, pipeline = write_fraud_pipeline("takeover", bench.folder / "pipelines", partitions=1)
    topics = stage_topics(pipeline, [STAGE])
    admin = Admin(bench.bootstrap_servers)
    admin.create_topics(topics)
    state = next(topic for topic in topics if topic.name == pipeline.topic(f"{STAGE}-state"))
    say(f"takeover: making {keys:,} keys of {ROWS} rows")
    _, records, _ = _make_state(bench, pipeline, state, keys, compression)
    environment = service_environment(bench.bootstrap_servers, compression)
    commands = [
        stage_command(str(file), STAGE, environment | more, bench.folder / "data" / f"takeover-{number}", f"-{number}")
        for number, more in enumerate(({}, {"TIDEMILL_INSTANCE": "1", "TIDEMILL_STANDBY": "true"}))
    ]
    supervisor = Supervisor(bench.folder / "logs" / "takeover", NEVER)
    try:
        for command in commands:
            supervisor.start([command])
            await_ready(supervisor, command.name, _START_WITHIN_S)
        pid = supervisor.pid(commands[1].name)
        assert pid is not None
        _await_rest(pid)
        supervisor.kill(commands[0].name)
        log = supervisor.log_file(commands[1].name)
        deadline = clock.monotonic() + _START_WITHIN_S
        while not _taken_over(log) and supervisor.running(commands[1].name) and clock.monotonic() < deadline:
            clock.pause(_LOOK_S)
    finally:
        supervisor.stop(grace_s=15.0)
        admin.delete_topics([topic.name for topic in topics])
    taken = _taken_over(log)
    return {
        "keys": keys,
        "changelog_records": records,
        "seconds_from_assignment": taken[-1][1] if taken else None,
        "all_right": [count for count, _ in taken] == [records],
    }


def _await_rest(pid: int) -> None:
    """Until the process has nothing left to copy: a second in which it takes next to no CPU."""
    before = -1.0
    while (now := cpu_seconds(pid)) - before > _RESTING_CPU_S:
        before = now
        clock.pause(1.0)


def _templates(pipeline: Pipeline) -> list[list[tuple[bytes, bytes]]]:
    """(what follows the key's name, value) of every changelog entry of a few keys, as the stage itself writes them.

    An entry's value does not hold its key, so these serve for any number of keys.
    """
    events = np.random.default_rng(1).integers(100, 50_000, (_TEMPLATES, ROWS))
    numbers = np.repeat(np.arange(_TEMPLATES), ROWS)
    times = np.tile(_START_MS + np.arange(ROWS) * _STEP_MS, _TEMPLATES) + numbers
    order = np.argsort(times, kind="stable")
    nothing = np.zeros(len(order), np.int64)
    payments = Payments(times[order], numbers[order], numbers[order], events.ravel()[order], nothing, times[order])
    stage = new_stage(pipeline, 0)
    stage.add([Record("", 0, 0, at, key, value) for key, value, at in payments.events(0, len(payments))], 0.0)
    written = stage.flush(0.0).state
    names = [name(number) for number in range(_TEMPLATES)]
    return [
        [(entry.key[len(key) :], entry.value) for entry in written if entry.key.startswith(key) and entry.value]
        for key in names
    ]


def _restored(pipeline: Pipeline, entries: Entries) -> float:
    """CPU seconds in which a new stage takes them over."""
    stage = new_stage(pipeline, 0)
    began = time.process_time()
    stage.restore(0, entries)
    return time.process_time() - began


def _write(producer: PlainProducer, topic: str, partition: int, entries: Entries) -> None:
    for number, (key, value) in enumerate(entries):
        producer.send(OutRecord(topic, key, value, _START_MS, partition))
        if number % 10_000 == 0:
            producer.poll()


def _taken_over(log_file: Path) -> list[tuple[int, float]]:
    """(entries, seconds) of each take-over of partitions, as the service tells it."""
    lines = (
        orjson.loads(line) for line in log_file.read_text("utf-8").splitlines() if '"partitions taken over"' in line
    )
    return [(int(line["keys"]), float(line["seconds"])) for line in lines]


def _commit_nothing_read(bootstrap_servers: str, group: str, pipeline: Pipeline, partitions: int) -> None:
    """Offset 0 everywhere: a group without offsets beside state that exists would be refused, and rightly."""
    offsets = [TopicPartition(pipeline.topic(role), number, 0) for role, number in _inputs(partitions)]
    consumer = Consumer({"bootstrap.servers": bootstrap_servers, "group.id": group, "enable.auto.commit": False})
    try:
        consumer.commit(offsets=offsets, asynchronous=False)
    finally:
        consumer.close()


def _inputs(partitions: int) -> Iterator[tuple[str, int]]:
    return ((role, number) for role in ("events", "labels") for number in range(partitions))
