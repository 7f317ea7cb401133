"""The customer stage as a process on a real Kafka: killed in mid-stream, it repeats and loses nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.brokers import KafkaUnderTest, read_all
from support.featurestages import keyed_stage
from support.paymentstream import payments_and_labels
from support.polling import eventually
from tidemill.features.process import service_spec
from tidemill.runtime.pipelinefile import load_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord, Record

pytestmark = pytest.mark.kafka

PARTITIONS = 2
WITHIN_S = 120.0


@contextmanager
def running(bootstrap_servers: str, pipeline: Path, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process; it is killed on exit if it still runs."""
    environment = {
        **os.environ,
        "TIDEMILL_STAGE": "customer",
        "TIDEMILL_PIPELINE": str(pipeline),
        "TIDEMILL_BOOTSTRAP_SERVERS": bootstrap_servers,
        "TIDEMILL_DATA_DIR": str(folder / "data"),
        "TIDEMILL_MAX_POLL_RECORDS": "300",
    }
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tidemill.features"], env=environment, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_killed_stage_continues_where_its_last_transaction_ended(kafka: str, unique: str, tmp_path: Path) -> None:
    file = tmp_path / "pipeline.yaml"
    text, _ = pipeline_text("fraud")
    file.write_text(text.replace("name: fraud\n", f"name: {unique}\n").replace("fraud-raw", f"{unique}-raw"))
    pipeline = load_pipeline(str(file))
    broker = KafkaUnderTest(kafka)
    spec = service_spec(pipeline, "customer")
    for topic in (*(topic.name for topic in spec.inputs), spec.dlq_topic, f"{unique}-by-terminal"):
        broker.create_topic(topic, PARTITIONS)
    broker.create_topic(f"{unique}-customer-state", PARTITIONS, compacted=True)
    stream = payments_and_labels(unique, PARTITIONS, count=6_000, days=45, seed=2)
    half = len(stream) // 2
    out = f"{unique}-by-terminal"

    broker.append(*stream[:half])
    with running(kafka, file, tmp_path) as process:
        eventually(lambda: len(read_all(kafka, out)) > half // 3, within_s=WITHIN_S)
        process.send_signal(signal.SIGKILL)
        process.wait()
    broker.append(*stream[half:])
    expected = outputs_of(stream)
    with running(kafka, file, tmp_path) as process:
        eventually(lambda: len(read_all(kafka, out)) >= len(expected), within_s=WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert sorted(value for record in read_all(kafka, out) if (value := record.value)) == sorted(expected)


def outputs_of(stream: list[OutRecord]) -> list[bytes]:
    """What one process that never died writes, in whatever order."""
    stage = keyed_stage(load_pipeline("fraud"), 0)
    stage.add([Record(at.topic, 0, 0, at.timestamp, at.key, at.value) for at in stream], 0.0)
    return [at.value or b"" for at in stage.flush(0.0).records]
