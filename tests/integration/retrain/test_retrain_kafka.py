"""The retrain process on a real Kafka: from outcomes to a promoted model, through a kill in mid-training."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from confluent_kafka import Producer

from support.brokers import read_all
from support.polling import eventually
from tidemill.domain.durations import DAY_MS
from tidemill.domain.model import Activation, Manifest, decode, join_chunks, parse_chunk_key
from tidemill.domain.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, read_key
from tidemill.retrain.core.records import Decision, decode_decision
from tidemill.runtime.kafka import Admin, PlainProducer
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import apply, plan
from tidemill_schemas import load_json
from unit.retrain.outcomeworld import outcome
from unit.retrain.retrainworld import START, day

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

WITHIN_S = 240.0
ROWS_A_DAY = 150


class Ground:
    """A pipeline of its own with a short training window, its topics, and the retrain processes started on it."""

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        self.servers = bootstrap_servers
        self.folder = folder
        name = f"t{uuid.uuid4().hex[:10]}"
        text, _ = pipeline_text("fraud")
        text = re.sub(r"(?m)^name: fraud$", f"name: {name}", text).replace("fraud-raw-", f"{name}-raw-")
        for old, new in (
            ("train_window: 7d", "train_window: 3d"),
            ("cooldown: 4d", "cooldown: 1d"),
            ("min_positives: 50, holdout: 2d", "min_positives: 20, holdout: 1d"),
            ("epochs: 20, hidden_1: 64, hidden_2: 32, learning_rate: 0.002", "epochs: 40, learning_rate: 0.005"),
        ):
            assert old in text
            text = text.replace(old, new)
        self.file = folder / "pipeline.yaml"
        self.file.write_text(text, encoding="utf-8")
        self.pipeline = parse_pipeline(text)
        apply(Admin(bootstrap_servers), plan(self.pipeline))
        self.processes: list[subprocess.Popen[bytes]] = []
        self._next = 0

    def start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "TIDEMILL_BOOTSTRAP_SERVERS": self.servers,
            "TIDEMILL_PIPELINE": str(self.file),
            "TIDEMILL_SIGNING_KEY_FILE": str(self.folder / PRIVATE_KEY_FILE),
            "TIDEMILL_DATA_DIR": str(self.folder / "data"),
            "TIDEMILL_ENDPOINT_FILE": str(self.endpoint),
            "TIDEMILL_TICK_S": "0.2",
        }
        self.endpoint.unlink(missing_ok=True)
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "tidemill.retrain"], env=environment, stderr=log)
        self.processes.append(process)
        return process

    @property
    def endpoint(self) -> Path:
        return self.folder / "retrain.endpoint.json"

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        url = json.loads(self.endpoint.read_text())["url"]
        request = urllib.request.Request(url + path, data=body)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()

    def live_through(self, first_day: int, last_day: int, **members: Any) -> None:
        """Outcomes of the days [first, last), then the statistics that say so."""
        producer = PlainProducer(self.servers)
        maturity = self.pipeline.outcomes.maturity
        topic = self.pipeline.topic("outcomes")
        for number in range(first_day * ROWS_A_DAY, last_day * ROWS_A_DAY):
            event_time = START + number * (DAY_MS // ROWS_A_DAY)
            record = outcome(self.pipeline, number, event_time, **members)
            if record["shadow"] is not None:
                record["shadow"] = {**record["shadow"], "score": 0.1 + 0.8 * record["label"]}
            producer.send(OutRecord(topic, record["customer"].encode(), orjson.dumps(record), event_time + maturity))
        producer.flush()
        at = day(last_day)
        statistics = {
            "v": 1, "id": f"statistics/{last_day}", "kind": "statistics", "at": at + maturity, "watermark": at,
            "outcomes": last_day * ROWS_A_DAY, "positives": last_day * 15, "model_version": None, "alarms": 0,
            "window": {"from": at, "to": at, "rows": 0, "positives": 0, "average_precision": None},
        }  # fmt: skip
        producer.send(OutRecord(self.pipeline.topic("drift"), b"statistics", orjson.dumps(statistics), at))
        producer.flush()
        producer.close()

    def abort_alarm(self) -> None:
        """An alarm about the first model that reaches the drift topic in a transaction, which is then aborted."""
        alarm = load_json("examples/drift/v1/valid/alarm.json")
        topic = self.pipeline.topic("drift")
        producer = Producer({"bootstrap.servers": self.servers, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(30)
        producer.begin_transaction()
        value = orjson.dumps({**alarm, "id": "alarm/aborted", "at": day(18), "model_version": 1})
        producer.produce(topic, value, b"alarm", timestamp=day(18))
        assert producer.flush(30) == 0
        producer.abort_transaction(30)
        uncommitted = read_all(self.servers, topic, committed=False)
        found = [record for record in uncommitted if b"alarm/aborted" in (record.value or b"")]
        assert len(found) == 1, "it must be on the log for the test to mean anything"

    def read(self, role: str) -> list[Record]:
        return read_all(self.servers, self.pipeline.topic(role))

    def decisions(self) -> list[Decision]:
        return [decode_decision(record.value or b"") for record in self.read("decisions")]

    def until(self, decision_id: str) -> Decision:
        """Wait for a decision; fails with the log if the process ended or it takes too long."""

        def there() -> Decision | None:
            assert self.processes[-1].poll() is None, (self.folder / "log").read_text()
            return next((decision for decision in self.decisions() if decision.id == decision_id), None)

        found = eventually(there, within_s=WITHIN_S, every_s=0.3)
        assert found is not None
        return found

    def published(self) -> tuple[dict[int, Manifest], list[Activation]]:
        """Everything on the models topic that verifies; anything else raises."""
        public = read_key(self.folder / PUBLIC_KEY_FILE)
        records = [decode(record.value or b"", public) for record in self.read("models")]
        manifests = {record.version: record for record in records if isinstance(record, Manifest)}
        return manifests, [record for record in records if isinstance(record, Activation)]


@pytest.fixture
def ground(kafka: str, tmp_path: Path) -> Iterator[Ground]:
    made = Ground(kafka, tmp_path)
    yield made
    for process in made.processes:
        if process.poll() is None:
            process.kill()
        process.wait(30)


def test_a_model_is_trained_shadowed_promoted_and_succeeded_through_a_kill(ground: Ground) -> None:
    first = ground.start()
    ground.live_through(0, 4)
    candidate = ground.until("candidate/1")
    assert [gate["passed"] for gate in candidate.details["gates"]] == [True] * 5

    manifests, activations = ground.published()
    manifest = manifests[1]
    assert (activations[-1].champion, activations[-1].challenger) == (None, 1)
    chunks = {parse_chunk_key(record.key or b"")[2]: record.value or b"" for record in ground.read("model-chunks")}
    artefact = join_chunks(manifest, chunks)
    assert artefact == (ground.folder / "data" / "models" / "fraud-mlp-1.onnx").read_bytes()
    assert (manifest.training.from_ms, manifest.training.to_ms) == (day(0), day(3))
    assert manifest.training.rows == 3 * ROWS_A_DAY
    assert (ground.folder / "data" / "datasets" / f"{manifest.training.dataset_sha256}.parquet").exists()

    ground.live_through(4, 18, shadow={"model_version": 1, "score": 0.0})
    promoted = ground.until("promoted/1")
    assert promoted.details["comparison"]["lower_bound"] > 0
    assert ground.published()[1][-1].champion == 1

    ground.abort_alarm()
    ground.live_through(18, 19)
    eventually(lambda: json.loads(ground.ask("/retrain")[1])["watermark"] == day(19), within_s=WITHIN_S)
    assert json.loads(ground.ask("/retrain")[1])["pending_alarms"] == [], "the alarm was never committed"

    status, body = ground.ask("/retrain", b'{"reason":"a test","id":"request/1"}')
    assert (status, json.loads(body)["id"]) == (202, "retrain/2")
    first.send_signal(signal.SIGKILL)  # while version 2 is being trained
    first.wait(30)
    second = ground.start()
    ground.until("candidate/2")
    ids = [decision.id for decision in ground.decisions()]
    assert ids == ["retrain/1", "candidate/1", "promoted/1", "retrain/2", "candidate/2"]
    assert [step.epoch for step in ground.published()[1]] == [1, 2, 3]

    status, metrics = ground.ask("/metrics")
    assert status == 200 and b"tidemill_retrain_champion_version" in metrics
    assert json.loads(ground.ask("/readyz")[1])["ready"]
    assert json.loads(ground.ask("/retrain")[1])["phase"] == "shadow"
    second.send_signal(signal.SIGTERM)
    assert second.wait(60) == 0
