"""What drift writes and shows is what was declared; and manifests."""

from collections.abc import Sequence
from pathlib import Path

import jsonschema_rs
import pytest

from tidemill.domain.model import Golden, Manifest, Training, encode, manifest_key
from tidemill.domain.signing import PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, generate_key_files, read_key
from tidemill.drift import manifests
from tidemill.drift.manifests import PublishedModels
from tidemill.drift.metrics import DECLARED
from tidemill.drift.process import partitions, service_spec
from tidemill.drift.river_detectors import Adwin
from tidemill.drift.shell import DriftService
from tidemill.errors import StateCorrupt
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import Record
from tidemill_schemas import load_schema
from unit.drift.streams import (
    AMOUNT,
    NAMES,
    MemoryLoop,
    champion_of,
    chunks,
    fraud_pipeline,
    merged,
    nulls,
    outcome_record,
    prediction_record,
    vectors,
)

CHAMPION = champion_of(vectors(3_000, seed=500))


def test_every_record_it_writes_fits_the_schema_and_every_declared_metric_is_shown() -> None:
    pipeline = fraud_pipeline(statistics_every="1h", min_average_precision=0.9, min_positives=5)
    metrics = Metrics({"pipeline": "fraud", "service": "drift"}, DECLARED)
    loop = MemoryLoop(lambda: DriftService(pipeline, Adwin, lambda _: CHAMPION, 1, metrics), 1)
    matrix = vectors(1_500, 1)
    matrix[:, AMOUNT] *= 3
    matrix[500:, AMOUNT + 3] = float("nan")
    predictions = [
        prediction_record(row, 0, row, vector, 1 if row > 100 else None) for row, vector in enumerate(nulls(matrix))
    ]
    records = merged([*predictions, *(outcome_record(p, p.offset, int(p.offset % 9 == 0), 1_000) for p in predictions)])
    loop.start(records)
    for chunk in chunks(records, [500] * 6):
        loop.transact(chunk)
    loop.rest()
    drift = loop.drift()
    assert {r["kind"] for r in drift} == {"alarm", "statistics", "generation"}
    assert {r["detector"] for r in drift if r["kind"] == "alarm"} >= {
        "feature:amount",
        "floor",
        f"missing:{NAMES[AMOUNT + 3]}",
    }
    validator = jsonschema_rs.validator_for(load_schema("drift"))
    assert [error.message for record in drift for error in validator.iter_errors(record)] == []
    shown = {sample.name for family in metrics.registry.collect() for sample in family.samples}
    assert {metric.name for metric in DECLARED} <= shown


def test_metric_names_carry_the_service_and_a_unit() -> None:
    for metric in DECLARED:
        assert metric.name.startswith("tidemill_drift_")
        assert metric.name.endswith({"counter": "_total"}.get(metric.kind, ("_ratio", "_number", "_seconds")))
        assert metric.help
        assert metric.action


def test_the_loop_is_told_both_inputs_undelayed_the_state_topic_and_to_replay() -> None:
    pipeline = fraud_pipeline()
    metrics = Metrics({"pipeline": "fraud", "service": "drift"}, DECLARED)
    service = DriftService(pipeline, Adwin, lambda _: CHAMPION, 4, metrics)
    spec = service_spec(pipeline, service)
    assert [tuple(topic) for topic in spec.inputs] == [("fraud-predictions", 0), ("fraud-outcomes", 0)]
    assert (spec.state_topic, spec.group, spec.replay) == ("fraud-drift-state", "fraud-drift", service)
    assert partitions(pipeline) == 4
    assert service.needs() == {(topic, n) for topic in ("fraud-predictions", "fraud-outcomes") for n in range(4)}


class ScriptedLog:
    """A models topic that gives up its records poll by poll."""

    def __init__(self, polls: Sequence[Sequence[Record]]) -> None:
        self._polls = list(polls)
        self.closed = False

    def poll(self, max_records: int = 1_000, timeout_s: float = 0.1) -> Sequence[Record]:
        return self._polls.pop(0) if self._polls else []

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    generate_key_files(tmp_path)
    return tmp_path


def published(keys: Path, version: int, private: bytes | None = None) -> Record:
    manifest = Manifest(
        name="fraud-mlp", version=version, sha256="0" * 64, size=1, chunks=1, opset=18, inputs=(), outputs=(),
        feature_set=CHAMPION.feature_set, features=NAMES, metrics={}, gates=(), reference=CHAMPION.reference,
        training=Training(0, 1, 1, 1, "0" * 64, {}, 7, "initial", "t"), golden=Golden((), (), 1e-4), created_at=0,
    )  # fmt: skip
    value = encode(manifest, private or read_key(keys / PRIVATE_KEY_FILE))
    return Record("fraud-models", 0, version, 1, manifest_key("fraud-mlp", version), value)


def test_a_manifest_is_read_when_its_version_is_first_asked_for_and_read_on_for_later_ones(keys: Path) -> None:
    log = ScriptedLog([[published(keys, 1)], [], [published(keys, 2)]])
    opened: list[ScriptedLog] = []

    def open_log() -> ScriptedLog:
        opened.append(log)
        return log

    models = PublishedModels("fraud-mlp", keys / PUBLIC_KEY_FILE, open_log)
    assert opened == []
    assert models.champion(1)._replace(version=0) == CHAMPION._replace(version=0)
    assert models.champion(2).version == 2
    models.close()
    assert opened == [log]
    assert log.closed


def test_a_manifest_that_another_key_signed_is_not_believed(keys: Path) -> None:
    models = PublishedModels(
        "fraud-mlp", keys / PUBLIC_KEY_FILE, lambda: ScriptedLog([[published(keys, 1, bytes(32))]])
    )
    with pytest.raises(StateCorrupt, match="version 1 cannot be trusted: signature"):
        models.champion(1)


def test_a_version_without_a_manifest_is_an_error_that_names_it(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "WAIT_S", -1.0)
    models = PublishedModels("fraud-mlp", keys / PUBLIC_KEY_FILE, lambda: ScriptedLog([]))
    with pytest.raises(StateCorrupt, match="version 9 of fraud-mlp"):
        models.champion(9)
