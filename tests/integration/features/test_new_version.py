"""A changed feature list on a real Kafka: prepared beside the version that runs, then in its place, at the very event
at which that one stopped."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from support.brokers import KafkaUnderTest, read_all
from support.livechain import live_vectors
from support.paymentstream import payments_and_labels
from support.polling import eventually
from support.stageprocesses import stage_process
from tidemill.cli.__main__ import main
from tidemill.domain.featureset import feature_set_hash
from tidemill.runtime.kafka import Admin, group_offsets
from tidemill.runtime.pipelinefile import load_pipeline, pipeline_text
from tidemill.runtime.service import OutRecord
from tidemill.runtime.topics import apply, plan

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

PARTITIONS = 2
WITHIN_S = 60.0
SLICE = 80
"""Records of about twenty hours of the stream."""


def pipelines(unique: str, folder: Path) -> tuple[Path, Path]:
    text, _ = pipeline_text("fraud")
    text = (
        text.replace("partitions: 4\n", f"partitions: {PARTITIONS}\n")
        .replace("name: fraud\n", f"name: {unique}\n")
        .replace("fraud-raw", f"{unique}-raw")
    )
    first, second = folder / "v1.yaml", folder / "v2.yaml"
    first.write_text(text)
    weekly = "        - {name: customer_count_7d, aggregate: count, window: 7d}\n"
    longer = "        - {name: customer_count_40d, aggregate: count, window: 40d}\n"
    assert weekly in text
    assert "features:\n  version: 1\n" in text
    changed = text.replace(weekly, longer).replace(
        "features:\n  version: 1\n", "features:\n  version: 2\n  replaces: 1\n"
    )
    second.write_text(changed)
    return first, second


def prepare(kafka: str, file: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        main(["features", "prepare", str(file), "--workers", "1", "--json", "--bootstrap-servers", kafka])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out or err


def killed_in_its_commit(kafka: str, file: Path) -> int:
    """`features prepare` that ends when all is written and nothing committed: its transaction stays open for as long as
    a broker allows, and with it the offsets of the new version's groups are unknown."""
    script = (
        "import os, signal, sys\n"
        "from tidemill.runtime.kafka.producer import TransactionalProducer\n"
        "TransactionalProducer.commit = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from tidemill.cli.__main__ import main\n"
        "main(['features', 'prepare', sys.argv[1], '--workers', '1', '--bootstrap-servers', sys.argv[2]])\n"
    )
    return subprocess.run([sys.executable, "-c", script, str(file), kafka], check=False, timeout=WITHIN_S).returncode


def test_a_new_version_answers_from_the_event_on_at_which_the_old_one_stopped(
    kafka: str, unique: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_file, new_file = pipelines(unique, tmp_path)
    old, new = load_pipeline(str(old_file)), load_pipeline(str(new_file))
    for pipeline in (old, new):
        apply(Admin(kafka), plan(pipeline))
    broker = KafkaUnderTest(kafka)
    stream = payments_and_labels(unique, PARTITIONS, count=1_500, days=30, seed=9)
    expected = {
        name: vectors_of(live_vectors(pipeline, stream, PARTITIONS)) for name, pipeline in (("v1", old), ("v2", new))
    }
    third = len(stream) // 3

    def served() -> list[dict[str, Any]]:
        return [orjson.loads(record.value or b"") for record in read_all(kafka, old.topic("features"))]

    def feed(records: list[OutRecord]) -> None:
        """Slice by slice, each shorter than the terminal's windows are delayed: how the partitions are interleaved
        within one then changes no feature."""
        for begin in range(0, len(records), SLICE):
            part = records[begin : begin + SLICE]
            broker.append(*part)
            appended.update(orjson.loads(record.value or b"")["id"] for record in part if "events" in record.topic)
            eventually(lambda: len(served()) == len(appended & expected["v2"].keys()), within_s=WITHIN_S, every_s=0.05)

    appended: set[str] = set()
    code, said = prepare(kafka, new_file, capsys)
    assert (code, "never ran" in said) == (2, True), said
    v1, v2 = (kafka, str(old_file)), (kafka, str(new_file))
    with stage_process(*v1, "terminal", tmp_path), stage_process(*v1, "customer", tmp_path):
        feed(stream[:third])
        assert killed_in_its_commit(kafka, new_file) == -signal.SIGKILL
        code, said = prepare(kafka, new_file, capsys)
        assert code == 0, said
        assert json.loads(said)["records_read"]["customer"] == third
        feed(stream[third : 2 * third])
    by_old = {row["id"] for row in served()}
    with stage_process(*v2, "customer", tmp_path), stage_process(*v2, "terminal", tmp_path):
        feed(stream[2 * third :])
    rows = served()
    assert len({row["id"] for row in rows}) == len(rows) == len(expected["v2"]), "each event is answered once"
    assert 0 < len(by_old) < len(rows)
    for row in rows:
        version, pipeline = ("v1", old) if row["id"] in by_old else ("v2", new)
        assert (row["fs"], row["features"]) == (feature_set_hash(pipeline), expected[version][row["id"]])
    code, said = prepare(kafka, new_file, capsys)
    assert (code, "has begun already" in said) == (2, True)
    inputs = [(old.topic(role), number) for role in ("events", "labels") for number in range(PARTITIONS)]
    ends = group_offsets(kafka, {}, f"{unique}-features-customer", inputs)
    assert sum(ends.values()) == 2 * third, "the old version was not asked again"


def vectors_of(values: list[bytes]) -> dict[str, list[float | None]]:
    return {row["id"]: row["features"] for row in map(orjson.loads, values)}
