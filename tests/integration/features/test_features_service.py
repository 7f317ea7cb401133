"""Keyed stages as a process on a real Kafka: killed in mid-stream, they repeat and lose nothing."""

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
def running(bootstrap_servers: str, pipeline: Path, folder: Path, stage: str) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process; it is killed on exit if it still runs."""
    environment = {
        **os.environ,
        "TIDEMILL_STAGE": stage,
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


@pytest.mark.parametrize(("stages", "written"), [(["customer"], "by-terminal"), (["customer", "terminal"], "features")])
def test_a_killed_process_continues_where_its_last_transactions_ended(
    kafka: str, unique: str, tmp_path: Path, stages: list[str], written: str
) -> None:
    file = tmp_path / "pipeline.yaml"
    text, _ = pipeline_text("fraud")
    file.write_text(text.replace("name: fraud\n", f"name: {unique}\n").replace("fraud-raw", f"{unique}-raw"))
    pipeline = load_pipeline(str(file))
    broker = KafkaUnderTest(kafka)
    specs = [service_spec(pipeline, stage) for stage in stages]
    inputs = (topic.name for spec in specs for topic in spec.inputs)
    for name in {*inputs, specs[0].dlq_topic, f"{unique}-{written}"}:
        broker.create_topic(name, PARTITIONS)
    for stage in stages:
        broker.create_topic(f"{unique}-{stage}-state", PARTITIONS, compacted=True)
    stream = payments_and_labels(unique, PARTITIONS, count=6_000, days=45, seed=2)
    half = len(stream) // 2
    out, stage = f"{unique}-{written}", ",".join(stages)

    broker.append(*stream[:half])
    with running(kafka, file, tmp_path, stage) as process:
        eventually(lambda: len(read_all(kafka, out)) > half // 3, within_s=WITHIN_S)
        process.send_signal(signal.SIGKILL)
        process.wait()
    broker.append(*stream[half:])
    expected = outputs_of(stream, len(stages))
    with running(kafka, file, tmp_path, stage) as process:
        eventually(lambda: len(read_all(kafka, out)) >= len(expected), within_s=WITHIN_S)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert sorted(value for record in read_all(kafka, out) if (value := record.value)) == sorted(expected)


def outputs_of(stream: list[OutRecord], stages: int) -> list[bytes]:
    """What `stages` stages that never died write, in whatever order."""
    for index in range(stages):
        stage = keyed_stage(load_pipeline("fraud"), index)
        stage.add([Record(at.topic, 0, 0, at.timestamp, at.key, at.value) for at in stream], 0.0)
        stream = stage.flush(0.0).records
    return [at.value or b"" for at in stream]
