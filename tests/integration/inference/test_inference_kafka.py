"""Inference as a process on a real broker: models published in mid-stream, bad ones, and a SIGKILL."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from support.inference_harness import feature_record
from support.inference_models import (
    PRIVATE_KEY,
    activation,
    chunk_records,
    constant,
    external_weights,
    manifest,
    raises_above,
    write_public_key,
)
from tidemill import clock
from tidemill.domain.model import Manifest, activation_key, encode, manifest_key
from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.kafka import Admin, PlainProducer, TopicReader
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import apply, plan

pytestmark = pytest.mark.kafka
WITHIN_S = 60.0


class Ground:
    """A pipeline of its own on the shared broker, with its topics."""

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.folder = folder
        name = f"t{uuid.uuid4().hex[:10]}"
        text, _ = pipeline_text("fraud")
        text = re.sub(r"(?m)^name: fraud$", f"name: {name}", text).replace("fraud-raw-", f"{name}-raw-")
        self.file = folder / "pipeline.yaml"
        self.file.write_text(text, encoding="utf-8")
        self.pipeline: Pipeline = parse_pipeline(text)
        self.public_key = write_public_key(folder)
        self._producer = PlainProducer(bootstrap_servers)
        self._sent = 0
        apply(Admin(bootstrap_servers), plan(self.pipeline))

    def send_features(self, count: int) -> None:
        topic = self.pipeline.topic("features")
        for offset in range(self._sent, self._sent + count):
            record = feature_record(offset, [offset % 5, *[0.5] * 14])
            self._producer.send(OutRecord(topic, record.key, record.value, record.timestamp))
        self._sent += count
        self._producer.flush(WITHIN_S)

    def publish(self, version: int, data: bytes, **changes: Any) -> Manifest:
        made = manifest(self.pipeline, version, data, **changes)
        for key, value in chunk_records(made, data):
            self._producer.send(OutRecord(self.pipeline.topic("model-chunks"), key, value, 0))
        self._producer.flush(WITHIN_S)
        self._send_model(manifest_key(made.name, version), encode(made, PRIVATE_KEY))
        return made

    def activate(self, epoch: int, champion: int | None, challenger: int | None = None) -> None:
        made = activation(self.pipeline, epoch, champion, challenger)
        self._send_model(activation_key(made.name), encode(made, PRIVATE_KEY))

    def read(self, role: str, count: int = 0) -> list[Record]:
        """All committed records of a topic, once there are `count` or more."""
        reader = TopicReader(self.bootstrap_servers, [self.pipeline.topic(role)])
        found: list[Record] = []
        give_up = clock.monotonic() + WITHIN_S
        try:
            while len(found) < count or not reader.at_end():
                found += reader.poll(1_000, 0.1)
                assert clock.monotonic() < give_up, f"{len(found)} of {count} records in {role}"
        finally:
            reader.close()
        return found

    def _send_model(self, key: bytes, value: bytes) -> None:
        self._producer.send(OutRecord(self.pipeline.topic("models"), key, value, 0))
        self._producer.flush(WITHIN_S)


class Process:
    """`python -m tidemill.inference`, as a deployment starts it."""

    def __init__(self, ground: Ground) -> None:
        self._endpoint = ground.folder / "endpoint.json"
        self._endpoint.unlink(missing_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
        environment |= {
            "TIDEMILL_BOOTSTRAP_SERVERS": ground.bootstrap_servers,
            "TIDEMILL_PIPELINE": str(ground.file),
            "TIDEMILL_DATA_DIR": str(ground.folder / "data"),
            "TIDEMILL_ENDPOINT_FILE": str(self._endpoint),
            "TIDEMILL_PUBLIC_KEY_FILE": str(ground.public_key),
        }
        self.log = ground.folder / "inference.log"
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen([sys.executable, "-m", "tidemill.inference"], env=environment, stderr=log)

    def wait(self, condition: Callable[[], bool]) -> None:
        give_up = clock.monotonic() + WITHIN_S
        while not condition():
            assert self._popen.poll() is None, self.log.read_text()
            assert clock.monotonic() < give_up, self.log.read_text()
            clock.pause(0.05)

    def wait_ready(self) -> "Process":
        self.wait(lambda: self._endpoint.exists() and self.get("/readyz")[0] == 200)
        return self

    def models(self) -> dict[str, Any]:
        return {one["version"]: one for one in self.get("/v2/models")[1]}

    def get(self, path: str) -> tuple[int, Any]:
        return self.call("GET", path)

    def call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        parts = urlsplit(json.loads(self._endpoint.read_bytes())["url"])
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WITHIN_S)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, orjson.loads(response.read())
        finally:
            connection.close()

    def stop(self) -> int:
        self._popen.send_signal(signal.SIGTERM)
        return self._popen.wait(WITHIN_S)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait(WITHIN_S)


@pytest.fixture
def ground(kafka: str, tmp_path: Path) -> Ground:
    return Ground(kafka, tmp_path)


@pytest.fixture
def start(ground: Ground) -> Iterator[Callable[[], Process]]:
    started: list[Process] = []

    def run() -> Process:
        process = Process(ground)
        started.append(process)
        return process.wait_ready()

    yield run
    for process in started:
        process.kill()


def recorded_versions(ground: Ground) -> dict[int, list[tuple[int, int | None]]]:
    """Partition → (from_offset, champion) in order, from the changelog."""
    switches: dict[int, list[tuple[int, int | None]]] = {}
    for record in ground.read("inference-state"):
        active = orjson.loads(record.value or b"")
        assert record.key == b"active"
        switches.setdefault(record.partition, []).append((active["from_offset"], active["champion"]))
    return switches


def assert_each_scored_once_by_what_is_recorded(ground: Ground, count: int) -> list[dict[str, Any]]:
    features = ground.read("features", count)
    predictions = ground.read("predictions", count)
    by_id = {orjson.loads(record.value or b"")["id"]: record for record in predictions}
    assert len(predictions) == len(by_id) == len(features) == count, "one prediction for each feature record"
    switches = recorded_versions(ground)
    made = []
    for feature in features:
        prediction = orjson.loads(by_id[orjson.loads(feature.value or b"")["id"]].value or b"")
        history = switches.get(feature.partition, [])
        assert history == sorted(history, key=lambda switch: switch[0]), "a partition switches forward only"
        champion = next((version for start, version in reversed(history) if start <= feature.offset), None)
        assert prediction["model_version"] == champion
        expected = champion / 10 if champion else 0.0
        assert prediction["outputs"]["score"] == pytest.approx(expected)
        made.append(prediction)
    return made


def test_a_model_published_in_mid_stream_takes_over_once_and_a_sigkill_loses_and_repeats_nothing(
    ground: Ground, start: Callable[[], Process]
) -> None:
    process = start()
    ground.send_features(400)
    ground.read("predictions", 400)
    ground.publish(1, constant(0.1))
    ground.activate(1, 1)
    process.wait(lambda: process.get("/v2/health/ready")[0] == 200)
    ground.send_features(3_000)
    ground.read("predictions", 401)
    process.kill()
    ground.publish(2, constant(0.2))
    ground.activate(2, 2, 1)
    ground.send_features(600)
    process = start()
    ground.send_features(400)
    predictions = assert_each_scored_once_by_what_is_recorded(ground, 4_400)
    assert {one["model_version"] for one in predictions} == {None, 1, 2}
    shadows = [orjson.loads(record.value or b"")["id"] for record in ground.read("shadow")]
    assert sorted(shadows) == sorted(one["id"] for one in predictions if one["model_version"] == 2)
    assert process.stop() == 0


def test_bad_artefacts_are_refused_and_serving_goes_on(ground: Ground, start: Callable[[], Process]) -> None:
    ground.publish(1, constant(0.1))
    ground.activate(1, 1)
    process = start()
    process.wait(lambda: process.get("/v2/health/ready")[0] == 200)
    ground.publish(2, external_weights())
    ground.activate(2, 2)
    ground.publish(3, constant(0.3), sha256="0" * 64)
    ground.activate(3, 3)
    process.wait(lambda: process.models().get("3", {}).get("reason", "").startswith("digest: "))
    assert process.models()["2"]["reason"].startswith("external_data: ")
    ground.send_features(200)
    assert_each_scored_once_by_what_is_recorded(ground, 200)
    row = {"name": "features", "shape": [1, 15], "datatype": "FP32", "data": [0.0] * 15}
    status, answer = process.call("POST", "/v2/models/fraud-mlp/infer", orjson.dumps({"inputs": [row]}))
    assert (status, answer["model_version"]) == (200, "1")
    ground.publish(4, constant(0.4))
    ground.activate(4, 4)
    process.wait(lambda: process.models().get("4", {}).get("role") == "champion")
    ground.send_features(200)
    assert {one["model_version"] for one in assert_each_scored_once_by_what_is_recorded(ground, 400)} == {1, 4}
    assert process.stop() == 0


def test_a_record_that_the_model_cannot_score_is_a_dead_letter_with_its_bytes(
    ground: Ground, start: Callable[[], Process]
) -> None:
    ground.publish(1, raises_above(3))
    ground.activate(1, 1)
    start()
    ground.send_features(50)
    dead = ground.read("dlq", 10)
    assert len(ground.read("predictions", 40)) == 40
    features = {record.value: record for record in ground.read("features")}
    for letter in dead:
        original = features[letter.value]
        headers = dict(letter.headers)
        assert (letter.key, headers["tidemill.code"]) == (original.key, b"model_error")
        assert orjson.loads(letter.value or b"")["features"][0] == 4
