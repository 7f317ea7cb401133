"""Ingest against a real broker: what goes in by Kafka and HTTP, and what every committed byte of it looks like."""

import asyncio
import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.ingest.append import KafkaAppender
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.core.ports import NotAcknowledgedError
from tidemill.runtime.kafka import Admin, PlainProducer, TopicReader
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import apply, plan
from unit.ingest.samples import CHARGEBACK, EVENT_BYTES, LABEL_BYTES, PAYMENT

pytestmark = pytest.mark.kafka
WITHIN_S = 60.0
SENT_AT = 1_522_540_831_500
BAD: dict[str, bytes | None] = {
    "not_json": b'{"v":1,"payment_id":',
    "non_finite": orjson.dumps(PAYMENT)[:-6] + b"NaN}",
    "not_an_object": b"[1,2]",
    "unknown_version": orjson.dumps(PAYMENT | {"v": 7}),
    "missing_id": orjson.dumps(PAYMENT | {"payment_id": "  "}),
    "missing_field": orjson.dumps(PAYMENT | {"terminal": None}),
    "wrong_type": orjson.dumps(PAYMENT | {"amount": True}),
    "out_of_range": orjson.dumps(PAYMENT | {"amount": -1}),
    "oversize": b"\x00\xff" * 10_000,
    "future": orjson.dumps(PAYMENT | {"paid_at_ms": 200_000_000_000_000}),
    "schema": orjson.dumps(PAYMENT | {"card": "c" * 201}),
}


class Ground:
    """A pipeline of its own on the shared broker, with its topics."""

    def __init__(self, bootstrap_servers: str, name: str, folder: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        text, _ = pipeline_text("fraud")
        text = re.sub(r"(?m)^name: fraud$", f"name: {name}", text).replace("fraud-raw-", f"{name}-raw-")
        self.file = folder / "pipeline.yaml"
        self.file.write_text(text, encoding="utf-8")
        self.pipeline: Pipeline = parse_pipeline(text)
        self.payments, self.chargebacks = (f"{name}-raw-payments", f"{name}-raw-chargebacks")
        apply(Admin(bootstrap_servers), plan(self.pipeline))

    def send(self, *records: OutRecord) -> None:
        producer = PlainProducer(self.bootstrap_servers)
        for record in records:
            producer.send(record)
        producer.flush(WITHIN_S)

    def committed(self, role: str, count: int) -> list[Record]:
        """`count` committed records of a topic; fails if they do not come, or more do."""
        reader = TopicReader(self.bootstrap_servers, [self.pipeline.topic(role)])
        found: list[Record] = []
        give_up = clock.monotonic() + WITHIN_S
        try:
            while len(found) < count or not reader.at_end():
                found += reader.poll(1_000, 0.1)
                assert clock.monotonic() < give_up, f"{len(found)} of {count} records in {role}"
        finally:
            reader.close()
        assert len(found) == count
        return found


@pytest.fixture
def ground(kafka: str, unique: str, tmp_path: Path) -> Ground:
    return Ground(kafka, unique, tmp_path)


class Process:
    """`python -m tidemill.ingest`, as a deployment starts it."""

    def __init__(self, ground: Ground, folder: Path, **settings: str) -> None:
        self._endpoint = folder / "endpoint.json"
        self._endpoint.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        environment |= {
            "TIDEMILL_BOOTSTRAP_SERVERS": ground.bootstrap_servers,
            "TIDEMILL_PIPELINE": str(ground.file),
            "TIDEMILL_DATA_DIR": str(folder / "data"),
            "TIDEMILL_ENDPOINT_FILE": str(self._endpoint),
            **{f"TIDEMILL_{name.upper()}": value for name, value in settings.items()},
        }
        self.log = folder / "ingest.log"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen([sys.executable, "-m", "tidemill.ingest"], env=environment, stderr=log)

    def wait_ready(self) -> "Process":
        give_up = clock.monotonic() + WITHIN_S
        while not (self._endpoint.exists() and self.get("/readyz")[0] == 200):
            assert self._popen.poll() is None, self.log.read_text()
            assert clock.monotonic() < give_up, self.log.read_text()
            clock.pause(0.05)
        return self

    def get(self, path: str) -> tuple[int, bytes]:
        return self._request("GET", path, None, {})

    def post(self, document: object, source: str = "card-payments") -> tuple[int, Any]:
        status, body = self._request(
            "POST", f"/v1/events/{source}", orjson.dumps(document), {"content-type": "application/json"}
        )
        return status, orjson.loads(body)

    def stop(self) -> int:
        self._popen.send_signal(signal.SIGTERM)
        return self._popen.wait(WITHIN_S)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait(WITHIN_S)

    def _request(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        parts = urlsplit(json.loads(self._endpoint.read_bytes())["url"])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WITHIN_S)
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()


@pytest.fixture
def process(ground: Ground, tmp_path: Path) -> Iterator[Process]:
    started = Process(ground, tmp_path)
    try:
        yield started.wait_ready()
    finally:
        started.kill()


def test_source_topics_become_events_labels_and_dead_letters_byte_for_byte(ground: Ground, process: Process) -> None:
    headers = (("trace", b"\x00\x01"),)
    good = OutRecord(ground.payments, b"their-key", orjson.dumps(PAYMENT), SENT_AT, 0, headers)
    truth = OutRecord(ground.chargebacks, None, orjson.dumps(CHARGEBACK), SENT_AT, 2)
    bad = [OutRecord(ground.payments, code.encode(), value, SENT_AT + 1, 1, headers) for code, value in BAD.items()]
    tombstone = OutRecord(ground.payments, b"tombstone", None, SENT_AT + 1, 1)
    ground.send(good, truth, *bad, tombstone)

    (event,) = ground.committed("events", 1)
    assert (event.key, event.value, event.timestamp) == (b"c-00042", EVENT_BYTES, PAYMENT["paid_at_ms"])
    (label,) = ground.committed("labels", 1)
    assert (label.key, label.value, label.timestamp) == (b"c-00042", LABEL_BYTES, CHARGEBACK["known_at_ms"])
    assert label.partition == event.partition

    letters = {record.key: record for record in ground.committed("dlq", len(BAD) + 1)}
    for offset, (code, value) in enumerate([*BAD.items(), ("not_json", None)]):
        key = b"tombstone" if value is None else code.encode()
        letter = letters[key]
        assert (letter.value, letter.timestamp) == (value, SENT_AT + 1)
        told = dict(letter.headers)
        assert told["tidemill.code"] == code.encode()
        assert told["tidemill.service"] == b"ingest"
        assert told["__connect.errors.topic"] == ground.payments.encode()
        assert told["__connect.errors.partition"] == b"1"
        assert told["__connect.errors.offset"] == str(offset).encode()
        assert told["__connect.errors.exception.message"]
        assert value is None or told["trace"] == b"\x00\x01"
    assert process.stop() == 0


def test_what_http_accepts_is_in_the_topic_when_the_answer_comes(ground: Ground, process: Process) -> None:
    many = [PAYMENT | {"payment_id": f"p-{index}"} for index in range(500)]
    assert process.post(many) == (202, {"accepted": 500})
    events = ground.committed("events", 500)
    assert {orjson.loads(event.value or b"")["id"] for event in events} == {f"p-{index}" for index in range(500)}
    assert len({event.partition for event in events}) == 1
    assert process.post(CHARGEBACK, "chargebacks") == (202, {"accepted": 1})
    assert [label.value for label in ground.committed("labels", 1)] == [LABEL_BYTES]
    status, said = process.post([PAYMENT, PAYMENT | {"amount": "x"}])
    assert (status, said["errors"][0]["index"], said["errors"][0]["code"]) == (400, 1, "wrong_type")
    ground.committed("events", 500)
    metrics = process.get("/metrics")[1].decode()
    assert 'tidemill_ingest_http_records_total{pipeline="' in metrics


def test_http_and_kafka_write_the_same_record_to_the_same_partition(ground: Ground, process: Process) -> None:
    assert process.post(PAYMENT)[0] == 202
    ground.send(OutRecord(ground.payments, None, orjson.dumps(PAYMENT), SENT_AT))
    first, second = ground.committed("events", 2)
    assert (first.key, first.value, first.timestamp, first.partition) == (
        second.key,
        second.value,
        second.timestamp,
        second.partition,
    )


def test_killed_in_mid_stream_and_started_again_it_loses_and_repeats_nothing(ground: Ground, tmp_path: Path) -> None:
    count = 20_000
    ground.send(
        *(
            OutRecord(ground.payments, None, orjson.dumps(PAYMENT | {"payment_id": f"p-{i}"}), SENT_AT + i, i % 4)
            for i in range(count)
        )
    )
    first = Process(ground, tmp_path, max_poll_records="200")
    reader = TopicReader(ground.bootstrap_servers, [ground.pipeline.topic("events")])
    give_up = clock.monotonic() + WITHIN_S
    while not reader.poll(10, 0.05):
        assert clock.monotonic() < give_up, first.log.read_text()
    reader.close()
    first.kill()
    second = Process(ground, tmp_path)
    try:
        ids = [orjson.loads(event.value or b"")["id"] for event in ground.committed("events", count)]
        assert len(set(ids)) == count
    finally:
        second.kill()


def test_a_broker_that_is_not_there_is_a_failure_that_says_so(tmp_path: Path) -> None:
    producer = PlainProducer("127.0.0.1:1", {"message.timeout.ms": "1000"})
    appender = KafkaAppender(producer)
    record = Accepted("fraud-events", b"c-1", EVENT_BYTES, SENT_AT)
    with pytest.raises(NotAcknowledgedError, match=r"within 0\.2 s"):
        asyncio.run(appender.append([record], 0.2))
    with pytest.raises(NotAcknowledgedError, match="MSG_TIMED_OUT"):
        asyncio.run(appender.append([record], 30))
    appender.close()


def test_a_wrong_setting_ends_the_process_with_code_2_and_says_which() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    environment["TIDEMILL_PIPELINE"] = "fraud"
    ended = subprocess.run(
        [sys.executable, "-m", "tidemill.ingest"], env=environment, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert b"TIDEMILL_BOOTSTRAP_SERVERS" in ended.stderr
