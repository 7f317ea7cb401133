"""Closing windows on a real Kafka: a quiet key's session closes, and a killed process repeats and loses none."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest

from support.brokers import KafkaUnderTest, read_all
from support.polling import eventually
from tidemill.features.process import service_spec
from tidemill.runtime.pipelinefile import load_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord

pytestmark = pytest.mark.kafka

PARTITIONS = 2
WITHIN_S = 60.0
START = 1_522_584_000_000
SECOND = 1_000
SUMMARIES = """
      summaries:
        - name: visits
          window: {type: session, gap: 4s, within: 1h}
          fields:
            - {name: payments, aggregate: count}
            - {name: spent, aggregate: sum, field: amount}
    - entity: terminal"""


@contextmanager
def running(bootstrap_servers: str, pipeline: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {
        **os.environ,
        "TIDEMILL_STAGE": "customer",
        "TIDEMILL_PIPELINE": str(pipeline),
        "TIDEMILL_BOOTSTRAP_SERVERS": bootstrap_servers,
        "TIDEMILL_DATA_DIR": str(folder / "data"),
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tidemill.features"], env=environment, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_quiet_sessions_close_once_though_the_process_is_killed(kafka: str, unique: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    text = pipeline_text("fraud")[0].replace("name: fraud\n", f"name: {unique}\n").replace("fraud-raw", f"{unique}-raw")
    text = text.replace("allowed_lateness: 1h", "allowed_lateness: 0s\n  idle_timeout: 500ms")
    file.write_text(
        text.replace("partitions: 4", f"partitions: {PARTITIONS}").replace("\n    - entity: terminal", SUMMARIES)
    )
    broker = KafkaUnderTest(kafka)
    spec = service_spec(load_pipeline(str(file)), "customer")
    written = f"{unique}-customer-summaries"
    for name in (*(topic.name for topic in spec.inputs), spec.dlq_topic, f"{unique}-by-terminal", written):
        broker.create_topic(name, PARTITIONS)
    broker.create_topic(f"{unique}-customer-state", PARTITIONS, compacted=True)

    def pay(customer: str, number: int, at: int) -> OutRecord:
        document = {"v": 1, "id": f"{customer}-{number}", "event_time": at, "customer": customer, "terminal": "t1"}
        return OutRecord(f"{unique}-events", customer.encode(), orjson.dumps({**document, "amount": 1.5}), at)

    def summaries() -> list[tuple[str, int, int, float]]:
        found = [orjson.loads(record.value or b"") for record in read_all(kafka, written)]
        return sorted((at["key"], at["revision"], at["values"]["payments"], at["values"]["spent"]) for at in found)

    first = [f"c{number}" for number in range(6)]
    broker.append(*(pay(customer, number, START + number * SECOND) for customer in first for number in range(3)))
    with running(kafka, file, tmp_path) as process:
        eventually(lambda: len(summaries()) == len(first), within_s=WITHIN_S)
        later = START + 3_600 * SECOND  # ahead of all that silence has made
        broker.append(*(pay("late", number, later + number * SECOND) for number in range(2)))
        eventually(lambda: _taken(kafka, f"{unique}-by-terminal") == 20, within_s=WITHIN_S)
        process.send_signal(signal.SIGKILL)
        process.wait()
    broker.append(pay("late", 2, later + 2 * SECOND))
    with running(kafka, file, tmp_path) as process:
        eventually(lambda: len(summaries()) > len(first), within_s=WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert summaries() == [*((customer, 0, 3, 4.5) for customer in first), ("late", 0, 3, 4.5)]


def _taken(bootstrap_servers: str, topic: str) -> int:
    return sum(record.key is not None for record in read_all(bootstrap_servers, topic))
