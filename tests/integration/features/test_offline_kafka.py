"""The stages live on a real Kafka; then the same features from history, to the last bit, and the state beside them."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from prometheus_client import generate_latest

from support.brokers import KafkaUnderTest, read_all
from support.livechain import live_vectors
from support.paymentstream import START, payments_and_labels
from support.polling import eventually
from support.stageprocesses import stage_process
from tidemill.cli.__main__ import main
from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.features.metrics import VERIFICATION
from tidemill.features.offline.backfill import Request
from tidemill.features.offline.topicinput import Connection
from tidemill.features.offline.verification import Sample, Verdict
from tidemill.features.offline.watch import keep_verifying
from tidemill.runtime.health import Health
from tidemill.runtime.kafka import group_offsets
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.pipelinefile import load_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(600)]

PARTITIONS = 2
WITHIN_S = 180.0
MIDDLE = START + 25 * DAY_MS


@dataclass(frozen=True)
class System:
    """A broker on which both stages have worked off a stream, and still run."""

    kafka: str
    file: str
    pipeline: Pipeline
    stream: list[OutRecord]

    def served(self) -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in read_all(self.kafka, self.pipeline.topic("features"))]


@pytest.fixture
def system(kafka: str, unique: str, tmp_path: Path) -> Iterator[System]:
    file = tmp_path / "pipeline.yaml"
    text, _ = pipeline_text("fraud")
    file.write_text(text.replace("name: fraud\n", f"name: {unique}\n").replace("fraud-raw", f"{unique}-raw"))
    pipeline = load_pipeline(str(file))
    broker = KafkaUnderTest(kafka)
    for role in ("events", "labels", "by-terminal", "features", "dlq"):
        broker.create_topic(pipeline.topic(role), PARTITIONS)
    for role in ("customer-state", "terminal-state"):
        broker.create_topic(pipeline.topic(role), PARTITIONS, compacted=True)
    stream = payments_and_labels(unique, PARTITIONS, count=4_000, days=50, seed=4)
    broker.append(*stream)
    made = System(kafka, str(file), pipeline, stream)
    expected = len(live_vectors(load_pipeline("fraud"), [_of_fraud(at) for at in stream], PARTITIONS))
    files = (kafka, str(file))
    with stage_process(*files, "customer", tmp_path):
        # The second stage finds all its partitions filled, so that what it writes is in order even on a busy machine;
        # `verify --since` counts on less than a day of disorder.
        eventually(lambda: read_by_first_stage(made) == len(stream), within_s=WITHIN_S, every_s=0.5)
        with stage_process(*files, "terminal", tmp_path):
            eventually(lambda: len(made.served()) >= expected, within_s=WITHIN_S, every_s=0.5)
            yield made


def read_by_first_stage(system: System) -> int:
    inputs = [(system.pipeline.topic(role), number) for role in ("events", "labels") for number in range(PARTITIONS)]
    return sum(group_offsets(system.kafka, {}, f"{system.pipeline.name}-features-customer", inputs).values())


def _of_fraud(record: OutRecord) -> OutRecord:
    return record._replace(topic="fraud-" + record.topic.rpartition("-")[2])


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(system: System, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            main([*arguments, "--bootstrap-servers", system.kafka])
        return (int(left.value.code or 0), *capsys.readouterr())

    return command


def watched(system: System, folder: Path) -> tuple[list[Verdict], Health]:
    """What verification as a process finds: everything first, then a vector of an early event time that is served only
    after that, then nothing new."""
    stop, looks = Event(), list[Verdict]()

    def told(verdict: Verdict) -> None:
        looks.append(verdict)
        if len(looks) == 1:
            early = min(system.served(), key=lambda row: row["event_time"])
            topic = system.pipeline.topic("features")
            KafkaUnderTest(system.kafka).append(OutRecord(topic, b"c", orjson.dumps(early), early["event_time"]))
        if len(looks) == 3:
            stop.set()

    metrics = Metrics({"pipeline": system.pipeline.name, "service": "verification"}, VERIFICATION)
    health = Health("verification", metrics)
    sample = Sample(system.pipeline.topic("features"), 9_999)
    request = Request(system.pipeline, temp_dir=folder)
    differing = keep_verifying(request, sample, Connection(system.kafka), 0.0, health, lambda *_: None, told, stop)
    assert differing == sum(look.differing for look in looks)
    assert health.ready
    return looks, health


def expire(system: System, before: int, run: Run, folder: Path) -> None:
    """Delete what lies in front of this stream time, as a topic's retention does."""
    out = ("--out", str(folder / "lost.parquet"), "--workers", "1", "--json")
    _, said, _ = run("features", "backfill", system.file, "--to", str(before), *out)
    names = {role: system.pipeline.topic(role) for role in ("events", "labels")}
    ends = {name.partition("/")[::2]: offset for name, offset in json.loads(said)["position"].items()}
    lost = [TopicPartition(names[role], int(number), offset) for (role, number), offset in ends.items() if offset]
    assert len(lost) >= PARTITIONS
    admin = AdminClient({"bootstrap.servers": system.kafka})
    for deleted in admin.delete_records(lost).values():
        deleted.result(30)


def vectors(pipeline: Pipeline, *files: Path) -> list[tuple[str, list[float | None]]]:
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    return sorted((row["id"], [row[name] for name in pipeline.feature_names]) for row in rows)


def test_history_gives_what_was_served_and_state_shows_what_is_held(system: System, run: Run, tmp_path: Path) -> None:
    served = sorted((row["id"], row["features"]) for row in system.served())
    whole, before, behind = (tmp_path / f"{name}.parquet" for name in ("whole", "before", "behind"))

    code, out, err = run("features", "backfill", system.file, "--out", str(whole), "--workers", "2", "--json")
    report = json.loads(out)
    assert code == 0, err
    assert vectors(system.pipeline, whole) == served
    assert report["stages"]["customer"]["records"] == len(system.stream)

    code, _, _ = run("features", "backfill", system.file, "--to", str(MIDDLE), "--out", str(before), "--workers", "1")
    position = json.loads(pq.ParquetFile(before).metadata.metadata[b"tidemill.position"])
    assert code == 0
    assert set(position) == {f"{role}/{number}" for role in ("events", "labels") for number in range(PARTITIONS)}
    bound = ",".join(f"{name}={offset}" for name, offset in sorted(position.items()))
    for start in (bound, str(MIDDLE)):
        code, _, _ = run("features", "backfill", system.file, "--from", start, "--out", str(behind), "--workers", "1")
        assert code == 0
        assert vectors(system.pipeline, before, behind) == served
    code, out, _ = run("features", "backfill", system.file, "--to", bound, "--out", str(behind), "--workers", "2")
    assert (code, f"the stream takes over at {bound}" in out) == (0, True)
    assert vectors(system.pipeline, behind) == vectors(system.pipeline, before)

    code, _, err = run("features", "backfill", system.file, "--from", "events/0=1", "--out", str(behind))
    assert (code, "lacks events/1, labels/0, labels/1" in err) == (2, True)
    far = bound.replace(f"events/0={position['events/0']}", "events/0=99999999")
    code, _, err = run("features", "backfill", system.file, "--to", far, "--out", str(behind))
    assert (code, "events/0=99999999 lies outside the log" in err) == (2, True)

    verifying = ("features", "verify", system.file, "--topic", "features", "--sample", "300", "--json")
    code, out, _ = run(*verifying)
    assert (code, json.loads(out)["sampled"], json.loads(out)["mismatches"]) == (0, 300, [])
    code, out, _ = run(*verifying, "--since", str(MIDDLE))
    assert (code, json.loads(out)["served"]) == (0, sum(row["event_time"] >= MIDDLE for row in system.served()))
    never = {**system.served()[-1], "id": "never"}
    tampered = system.served()[-2]
    tampered["features"][4] += 1e-9
    times = {row["id"]: row["event_time"] for row in (never, tampered)}
    records = [
        OutRecord(system.pipeline.topic("features"), b"c", orjson.dumps(row), row["event_time"])
        for row in (never, tampered)
    ]
    KafkaUnderTest(system.kafka).append(*records)
    code, out, _ = run("features", "verify", system.file, "--topic", "features", "--sample", "9999", "--json")
    found = {(at["id"], at["feature"]) for at in json.loads(out)["mismatches"]}
    assert (code, found) == (1, {("never", None), (tampered["id"], "customer_mean_amount_1d")})
    looks, health = watched(system, tmp_path)
    assert [(look.sampled, look.differing) for look in looks] == [(len(served) + 2, 2), (1, 0), (0, 0)]
    text = generate_latest(health.registry).decode()
    assert re.search(r"tidemill_features_differing_total\{.*\} 2\.0", text)
    code, _, err = run("features", "verify", system.file, "--topic", "features", "--since", "2030-01-01")
    assert (code, "no vector of feature set" in err) == (1, True)

    expire(system, START + 5 * DAY_MS, run, tmp_path)
    one_file = ("--out", str(whole), "--workers", "1", "--json")
    code, out, err = run("features", "backfill", system.file, *one_file)
    report = json.loads(out)
    assert (code, "warning: the topics have lost records" in err) == (0, True), err
    since = report["whole_from"]
    assert START + 5 * DAY_MS < since < START + 50 * DAY_MS
    assert pq.ParquetFile(whole).metadata.metadata[b"tidemill.whole_from"] == str(since).encode()
    live = dict(served)
    rows = pq.read_table(whole).to_pylist()
    names = system.pipeline.feature_names
    wrong = [row["event_time"] for row in rows if [row[name] for name in names] != live.get(row["id"])]
    assert any(row["event_time"] >= since for row in rows)
    assert 0 < max(wrong) < since
    code, out, err = run("features", "backfill", system.file, "--from", str(since), *one_file)
    assert (code, "warning" in err) == (0, False)
    every = ("--topic", "features", "--sample", "9999", "--workers", "1", "--json")
    code, out, _ = run("features", "verify", system.file, *every)
    verdict = json.loads(out)
    again = {(at["id"], at["feature"]) for at in verdict["mismatches"]}
    assert (code, again) == (1, {at for at in found if times[at[0]] >= since})
    assert verdict["unrepeatable"] == sum(row["event_time"] < since for row in system.served())

    code, out, _ = run("state", "ls", system.file, "--stage", "terminal", "--json")
    listed = json.loads(out)
    assert (code, listed["keys"]) == (0, 25)
    key = listed["listed"][0]
    code, out, _ = run("state", "show", system.file, key["key"], "--stage", "terminal", "--json")
    assert (code, len(json.loads(out)["rows"])) == (0, key["rows"])
    code, _, _ = run("state", "export", system.file, "--stage", "terminal", "--to", str(tmp_path / "state.parquet"))
    assert (code, pq.read_table(tmp_path / "state.parquet").num_rows) == (0, listed["rows"])
