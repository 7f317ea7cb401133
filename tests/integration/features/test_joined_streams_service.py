"""Second streams on a real Kafka: from a raw record through ingest into a joined feature, and the same from history."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest

from support.brokers import KafkaUnderTest, read_all
from support.joinedpipeline import JOINED_TEXT, NOON
from support.polling import eventually
from tidemill.cli.__main__ import main
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import OutRecord

pytestmark = pytest.mark.kafka

PARTITIONS = 2
WITHIN_S = 120.0
MINUTE = 60_000


@contextmanager
def running(bootstrap_servers: str, module: str, file: Path, folder: Path) -> Iterator[None]:
    environment = {
        **os.environ,
        "TIDEMILL_STAGE": "customer,terminal",
        "TIDEMILL_PIPELINE": str(file),
        "TIDEMILL_BOOTSTRAP_SERVERS": bootstrap_servers,
        "TIDEMILL_DATA_DIR": str(folder / "data"),
    }
    with (folder / f"{module}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", module], env=environment, stderr=log)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def raw(prefix: str) -> list[OutRecord]:
    """What producers send: limits and logins of customers, then their payments, timestamps as Kafka has them."""
    limits = [("l1", 0, "c1", 500.0), ("l2", 30, "c1", 800.0), ("l3", 10, "c2", 50.5), ("wrong", 11, "c2", -1.0)]
    logins = [("1", 5, "c1", "t1"), ("2", 20, "c2", "t1"), ("3", 25, "c1", "t2")]
    payments = [("p1", 10, "c1", "t1"), ("p2", 40, "c1", "t1"), ("p3", 40, "c2", "t1"), ("p4", 41, "c3", "t2")]
    found = [
        (
            f"{prefix}-raw-limits",
            at,
            card,
            {"change": id_, "at": (NOON + at * MINUTE) // 1_000, "card": card} | {"limit": to},
        )
        for id_, at, card, to in limits
    ]
    found += [
        (
            f"{prefix}-raw-logins",
            at,
            card,
            {"id": id_, "at_ms": NOON + at * MINUTE, "customer": card, "terminal": place},
        )
        for id_, at, card, place in logins
    ]
    found += [
        (
            f"{prefix}-raw-payments",
            at,
            card,
            {"payment_id": id_, "paid_at_ms": NOON + at * MINUTE, "card": card, "terminal": place, "amount": 25.0},
        )
        for id_, at, card, place in payments
    ]
    return [
        OutRecord(topic, card.encode(), orjson.dumps({"v": 1, **value}), NOON + at * MINUTE)
        for topic, at, card, value in found
    ]


def test_a_raw_record_of_a_stream_becomes_a_feature_of_the_events_behind_it(
    kafka: str, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "pipeline.yaml"
    text = JOINED_TEXT.replace("name: fraud\n", f"name: {unique}\n").replace("fraud-raw", f"{unique}-raw")
    file.write_text(text.replace("partitions: 4", f"partitions: {PARTITIONS}"))
    pipeline = load_pipeline(str(file))
    broker = KafkaUnderTest(kafka)
    for role in (*pipeline.first_topics(), "by-terminal", "features", "dlq"):
        broker.create_topic(pipeline.topic(role), PARTITIONS)
    for source in pipeline.ingest.sources:
        broker.create_topic(source.topic or "", PARTITIONS)
    for role in ("customer-state", "terminal-state"):
        broker.create_topic(pipeline.topic(role), PARTITIONS, compacted=True)
    sent = raw(unique)
    broker.append(*sent)

    def served() -> dict[str, dict[str, float | None]]:
        rows = [orjson.loads(record.value or b"") for record in read_all(kafka, pipeline.topic("features"))]
        return {row["id"]: dict(zip(pipeline.feature_names, row["features"], strict=True)) for row in rows}

    def cleaned() -> int:
        return sum(len(read_all(kafka, topic)) for topic in pipeline.first_topics().values())

    with running(kafka, "tidemill.ingest", file, tmp_path):
        eventually(lambda: cleaned() == len(sent) - 1, within_s=WITHIN_S)
    with running(kafka, "tidemill.features", file, tmp_path):
        eventually(lambda: len(served()) == 4, within_s=WITHIN_S)
    found = served()
    assert {id_: vector["card_limit"] for id_, vector in found.items()} == {
        "p1": 500.0,
        "p2": 800.0,
        "p3": 50.5,
        "p4": None,
    }
    assert {id_: vector["logins_1h"] for id_, vector in found.items()} == {"p1": 1.0, "p2": 2.0, "p3": 1.0, "p4": 0.0}
    assert {id_: vector["terminal_logins_1h"] for id_, vector in found.items()} == {
        "p1": 1.0,
        "p2": 2.0,
        "p3": 2.0,
        "p4": 1.0,
    }
    (dead,) = read_all(kafka, pipeline.topic("dlq"))
    assert b"wrong" in (dead.value or b"")

    code, report = run(capsys, "verify", str(file), "--topic", "features", "--bootstrap-servers", kafka)
    assert (code, report["sampled"], report["mismatches"]) == (0, 4, [])
    out = tmp_path / "out.parquet"
    code, report = run(capsys, "backfill", str(file), "--out", str(out), "--bootstrap-servers", kafka)
    rows = {row["id"]: {name: row[name] for name in pipeline.feature_names} for row in pq.read_table(out).to_pylist()}
    assert (code, rows) == (0, found)
    assert report["position"].keys() == {
        f"{role}/{number}" for role in pipeline.first_topics() for number in range(PARTITIONS)
    }


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(SystemExit) as left:
        main(["features", *arguments, "--workers", "1", "--json"])
    return int(left.value.code or 0), json.loads(capsys.readouterr().out)
