"""Versions after versions on a real Kafka: one goes on after all before it, and none of those starts again.

The input is written in transactions, as ingest does, and expires once it was read.
"""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import orjson
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from support.brokers import KafkaUnderTest, commit, join, read_all
from support.polling import eventually
from support.stageprocesses import stage_process
from tidemill.cli.__main__ import main
from tidemill.errors import ConfigurationError
from tidemill.runtime.kafka import Admin, check_not_replaced, group_offsets
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord
from tidemill.runtime.topics import apply, plan

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

WITHIN_S = 60.0
STAGE = "customer"
BEGAN_MS = 1_700_006_400_000
ONE_STAGE = Path(__file__).parents[3] / "loadtest" / "featurebench" / "pipeline.yaml"


class Versions:
    """Files of one pipeline's versions, its input and what they answered."""

    def __init__(self, kafka: str, unique: str, folder: Path) -> None:
        self._kafka, self._unique, self._folder = kafka, unique, folder
        self._sent = 0
        self.first = self.file(1)
        pipeline = load_pipeline(self.first)
        self.input, self._output = pipeline.topic("events"), pipeline.topic("features")
        self._writer = KafkaUnderTest(kafka).client(f"{unique}-writer")
        join(self._writer, self.input)
        eventually(lambda: self._writer.poll(1, 0.05) is not None and self._writer.owned(), every_s=0.0)

    def file(self, version: int, replaces: int | None = None) -> str:
        text = ONE_STAGE.read_text()
        wanted = f"  version: {version}\n" + (f"  replaces: {replaces}\n" if replaces else "")
        for old, new in {
            "\nname: bench\n": f"\nname: {self._unique}\n",
            "partitions: 4": "partitions: 1",
            "\nfeatures:\n": f"\nfeatures:\n{wanted}",
            "size: 10s": f"size: {10 * version}s",
        }.items():
            assert old in text
            text = text.replace(old, new)
        file = self._folder / f"v{version}.yaml"
        file.write_text(text)
        apply(Admin(self._kafka), plan(load_pipeline(str(file))))
        return str(file)

    def group(self, version: int) -> str:
        return f"{self._unique}-features-{STAGE}" + (f"-v{version}" if version > 1 else "")

    def send(self, count: int) -> None:
        """In one transaction, whose marker stands behind the last record."""
        numbers = range(self._sent, self._sent + count)
        commit(self._writer, [self._event(number) for number in numbers], {})
        self._sent += count

    def answered(self) -> Counter[str]:
        return Counter(orjson.loads(record.value or b"")["id"] for record in read_all(self._kafka, self._output))

    def await_answers(self) -> None:
        eventually(lambda: len(self.answered()) == self._sent, within_s=WITHIN_S, every_s=0.1)

    def offset(self, version: int) -> int | None:
        return group_offsets(self._kafka, {}, self.group(version), [(self.input, 0)]).get((self.input, 0))

    def refusal(self, file: str) -> tuple[int, str]:
        """Exit code and log of a stage that does not start."""
        environment = {
            **os.environ,
            "TIDEMILL_STAGE": STAGE,
            "TIDEMILL_PIPELINE": file,
            "TIDEMILL_BOOTSTRAP_SERVERS": self._kafka,
            "TIDEMILL_DATA_DIR": str(self._folder / "refused"),
        }
        command = [sys.executable, "-m", "tidemill.features"]
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=WITHIN_S, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    def close(self) -> None:
        self._writer.close()

    def _event(self, number: int) -> OutRecord:
        time = BEGAN_MS + number * 1_000
        event = {"v": 1, "id": f"e{number}", "event_time": time, "customer": "c", "amount": 1.0}
        return OutRecord(self.input, b"c", orjson.dumps(event), time)


def test_a_version_goes_on_after_all_before_it_and_none_of_those_starts_again(
    kafka: str, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = Versions(kafka, unique, tmp_path)
    second, third = versions.file(2, replaces=1), versions.file(3, replaces=2)
    code, said = versions.refusal(versions.file(5, replaces=4))
    assert (code, "a version that never ran" in said) == (2, True), said

    versions.send(20)
    with stage_process(kafka, versions.first, STAGE, tmp_path):
        versions.await_answers()
    assert versions.offset(1) == 21, "20 records and the marker behind them"
    expire(kafka, versions.input)
    with pytest.raises(SystemExit) as left:
        main(["features", "prepare", second, "--workers", "1", "--bootstrap-servers", kafka])
    assert not left.value.code, capsys.readouterr().err
    versions.send(20)
    with stage_process(kafka, versions.first, STAGE, tmp_path):
        versions.await_answers()
    assert (versions.offset(1), versions.offset(2)) == (42, 21), "what the third replaces never came to where it starts"

    with stage_process(kafka, third, STAGE, tmp_path):
        versions.send(1)
        versions.await_answers()
    assert set(versions.answered().values()) == {1}
    for file in (versions.first, second):
        code, said = versions.refusal(file)
        assert (code, f"was replaced by {versions.group(3)}" in said) == (2, True), said

    place = [(versions.input, 0)]
    with pytest.raises(ConfigurationError, match="replaced by"):
        check_not_replaced(kafka, {}, versions.group(1), place)
    reset(kafka, versions.group(1), versions.input, 42)
    check_not_replaced(kafka, {}, versions.group(1), place)
    assert versions.offset(1) == 42
    versions.close()


def expire(kafka: str, topic: str) -> None:
    """Everything that the topic's first partition holds."""
    admin = AdminClient({"bootstrap.servers": kafka})
    for deleted in admin.delete_records([TopicPartition(topic, 0, -1)]).values():
        deleted.result(timeout=WITHIN_S)


def reset(kafka: str, group: str, topic: str, offset: int) -> None:
    """As kafka-consumer-groups.sh --reset-offsets does."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()
