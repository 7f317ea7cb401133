"""The drift process on a real Kafka: killed in mid-stream it writes a record once; half the partitions are refused."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tidemill import clock
from tidemill.domain.model import Golden, Manifest, Reference, Training, encode, manifest_key
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, generate_key_files, read_key
from tidemill.drift.core.features import Champion
from tidemill.runtime.kafka import Admin, PlainProducer, TopicReader
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import apply, plan
from unit.drift.streams import (
    AMOUNT,
    NAMES,
    OUTCOMES,
    champion_of,
    merged,
    nulls,
    outcome_record,
    prediction_record,
    vectors,
)

pytestmark = pytest.mark.kafka

WITHIN_S = 60.0
PARTITIONS = 4
ROWS = 6_000
SWITCH, SHIFT = 1_000, 4_000


class Ground:
    """A pipeline of its own on the shared broker, with its topics and keys, and the processes started on it."""

    def __init__(self, bootstrap_servers: str, folder: Path) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.folder = folder
        name = f"t{uuid.uuid4().hex[:10]}"
        text, _ = pipeline_text("fraud")
        text = re.sub(r"(?m)^name: fraud$", f"name: {name}", text).replace("fraud-raw-", f"{name}-raw-")
        text = text.replace(
            "  sample_share: 0.25\n", "  sample_share: 0.5\n  statistics_every: 2h\n  floor_window: 6h\n"
        )
        self.file = folder / "pipeline.yaml"
        self.file.write_text(text, encoding="utf-8")
        self.pipeline: Pipeline = parse_pipeline(text)
        self.processes: list[subprocess.Popen[bytes]] = []
        apply(Admin(bootstrap_servers), plan(self.pipeline))
        generate_key_files(folder)

    def publish(self, champion: Champion) -> None:
        value = encode(manifest_of(self.pipeline.model.name, champion), read_key(self.folder / PRIVATE_KEY_FILE))
        key = manifest_key(self.pipeline.model.name, champion.version)
        self.send([OutRecord(self.pipeline.topic("models"), key, value, 1)])

    def send(self, records: list[OutRecord]) -> None:
        producer = PlainProducer(self.bootstrap_servers)
        for record in records:
            producer.send(record)
        producer.flush(WITHIN_S)

    def stream(self, records: list[Record]) -> None:
        self.send(
            [
                OutRecord(
                    self.pipeline.topic("outcomes" if r.topic == OUTCOMES else "predictions"),
                    r.key,
                    r.value,
                    r.timestamp,
                    r.partition,
                )
                for r in records
            ]
        )

    def start(self, instance: int = 0) -> "Process":
        endpoint = self.folder / f"endpoint-{instance}-{len(self.processes)}.json"
        environment = {
            **os.environ,
            "TIDEMILL_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "TIDEMILL_PIPELINE": str(self.file),
            "TIDEMILL_PUBLIC_KEY_FILE": str(self.folder / PUBLIC_KEY_FILE),
            "TIDEMILL_INSTANCE": str(instance),
            "TIDEMILL_ENDPOINT_FILE": str(endpoint),
        }
        log = self.folder / f"{endpoint.stem}.log"
        with log.open("wb") as stderr:
            process = subprocess.Popen([sys.executable, "-m", "tidemill.drift"], env=environment, stderr=stderr)
        self.processes.append(process)
        return Process(process, endpoint, log)

    def drift(self) -> list[dict[str, Any]]:
        """Every committed record of the drift topic."""
        reader = TopicReader(self.bootstrap_servers, [self.pipeline.topic("drift")])
        found: list[Record] = []
        give_up = clock.monotonic() + WITHIN_S
        try:
            while not reader.at_end():
                assert clock.monotonic() < give_up
                found += reader.poll(1_000, 0.1)
        finally:
            reader.close()
        return [orjson.loads(record.value or b"") for record in found]

    def reached(self, time: int) -> Callable[[], bool]:
        """Asks whether statistics up to this event time have been written."""
        return lambda: any(record["kind"] == "statistics" and record["watermark"] >= time for record in self.drift())


class Process:
    """A running drift process and what it says of itself."""

    def __init__(self, process: subprocess.Popen[bytes], endpoint: Path, log: Path) -> None:
        self.process = process
        self.log = log
        self._endpoint = endpoint

    def readiness(self) -> dict[str, Any]:
        if not self._endpoint.exists():
            return {"ready": False, "reason": "not listening yet"}
        url = json.loads(self._endpoint.read_text())["url"]
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
                body: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            body = json.load(error)
        except urllib.error.URLError as error:
            body = {"ready": False, "reason": str(error.reason)}
        return body

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@pytest.fixture
def ground(kafka: str, tmp_path: Path) -> Iterator[Ground]:
    ground = Ground(kafka, tmp_path)
    yield ground
    for process in ground.processes:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def manifest_of(model: str, champion: Champion) -> Manifest:
    reference: Reference = champion.reference
    return Manifest(
        name=model,
        version=champion.version,
        sha256="0" * 64,
        size=1,
        chunks=1,
        opset=18,
        inputs=(),
        outputs=(),
        feature_set=champion.feature_set,
        features=NAMES,
        training=Training(0, 1, 1, 1, "0" * 64, {}, 7, "initial", "test"),
        metrics={},
        gates=(),
        reference=reference,
        golden=Golden((), (), 1e-4),
        created_at=0,
    )


def records(maturity: int) -> list[Record]:
    """The rule, then version 1, then a shift of the amount; outcomes of the first 5,000 as if mature at once."""
    matrix = vectors(ROWS, 5)
    matrix[SHIFT:, AMOUNT] *= 3
    offsets = [0] * PARTITIONS
    made: list[Record] = []
    for row, vector in enumerate(nulls(matrix)):
        partition = row * 7 % 11 % PARTITIONS
        prediction = prediction_record(offsets[partition], partition, row, vector, None if row < SWITCH else 1)
        made += [prediction, outcome_record(prediction, offsets[partition], int(row % 50 == 0), maturity)]
        offsets[partition] += 1
    return merged(made)


def until(condition: Callable[[], bool], what: str, *processes: Process) -> None:
    """Poll within a deadline; a process that ended fails at once, with the end of its log."""
    give_up = clock.monotonic() + WITHIN_S
    while not condition():
        for process in processes:
            assert process.process.poll() is None, process.log.read_text()[-3_000:]
        assert clock.monotonic() < give_up, f"{what} within {WITHIN_S} s; " + "".join(
            process.log.read_text()[-3_000:] for process in processes
        )
        clock.pause(0.05)


def test_killed_twice_in_mid_stream_it_writes_every_drift_record_once(ground: Ground) -> None:
    ground.publish(champion_of(vectors(8_000, seed=500)))
    stream = records(maturity=60_000)
    third = len(stream) // 3
    process = ground.start()
    for part in range(3):
        ground.stream(stream[part * third : (part + 1) * third])
        until(ground.reached(stream[(part + 1) * third - 1].timestamp - 3 * 3_600_000), f"part {part}", process)
        if part < 2:
            process.kill()
            process = ground.start()
    until(lambda: any(r["kind"] == "alarm" for r in ground.drift()), "an alarm", process)
    until(lambda: bool(process.readiness()["ready"]), "readiness", process)
    assert process.stop() == 0, process.log.read_text()
    drift = ground.drift()
    ids = [record["id"] for record in drift]
    assert len(ids) == len(set(ids))
    assert [record["id"] for record in drift if record["kind"] == "generation"] == ["fraud-mlp/1/g1/generation/1"]
    alarms = {record["detector"]: record for record in drift if record["kind"] == "alarm"}
    assert alarms.keys() == {"feature:amount", "floor"}  # every score is the same, so the ranking is poor too
    assert alarms["feature:amount"]["at"] >= stream[2 * SHIFT - 1].timestamp - 60_000
    watermarks = [record["watermark"] for record in drift if record["kind"] == "statistics"]
    assert watermarks == list(range(watermarks[0], watermarks[-1] + 1, 2 * 3_600_000))


def test_a_manifest_with_a_wrong_signature_stops_it_with_the_reason(ground: Ground) -> None:
    champion = champion_of(vectors(8_000, seed=500))
    wrong = encode(manifest_of(ground.pipeline.model.name, champion), bytes(32))
    key = manifest_key(ground.pipeline.model.name, 1)
    ground.send([OutRecord(ground.pipeline.topic("models"), key, wrong, 1)])
    process = ground.start()
    ground.stream(records(maturity=60_000)[: 4 * SWITCH])
    assert process.process.wait(WITHIN_S) == 6
    assert "cannot be trusted" in process.log.read_text()


def test_two_instances_are_not_ready_and_say_why(ground: Ground) -> None:
    first = ground.start(instance=0)
    until(lambda: bool(first.readiness()["ready"]), "readiness", first)
    second = ground.start(instance=1)
    until(lambda: "one active instance" in first.readiness()["reason"], "a refusal", first, second)
    until(lambda: "one active instance" in second.readiness()["reason"], "a refusal", first, second)
    assert second.stop() == 0
    assert first.stop() == 0
