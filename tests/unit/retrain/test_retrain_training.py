"""From outcomes to an artefact: which rows count, what is kept, that a redo makes the same bytes, that ONNX agrees."""

from pathlib import Path

import numpy as np
import onnx
import pyarrow.parquet as pq
import pytest
import torch

from tidemill.domain.durations import DAY_MS
from tidemill.domain.model import QUANTILES, digest
from tidemill.errors import ConfigurationError, RecordError
from tidemill.retrain.export import Exported, Session, export, parity_error
from tidemill.retrain.messages import CompareJob, StoredModel, TrainJob, TrainReport
from tidemill.retrain.outcomes import OutcomeSource
from tidemill.retrain.shadowing import run_comparison
from tidemill.retrain.training import Workshop, load_trainer
from tidemill.runtime.service import Record
from tidemill.scenarios.fraud.trainer import FraudTrainer
from unit.retrain.outcomeworld import OutcomeLog, outcome
from unit.retrain.retrainworld import START, day, pipeline

torch.set_num_threads(1)

FRAUD = pipeline()
ROWS_A_DAY = 300
JOB = TrainJob(version=4, train_from=day(0), train_to=day(4), holdout_to=day(6), seed=11)
PARAMETERS = {"epochs": 8, "hidden_1": 16, "hidden_2": 8, "learning_rate": 0.01, "batch_size": 128}


@pytest.fixture(scope="module")
def log() -> OutcomeLog:
    filled = OutcomeLog(FRAUD)
    step = DAY_MS // ROWS_A_DAY
    filled.append(*(outcome(FRAUD, number, START + number * step) for number in range(8 * ROWS_A_DAY)))
    return filled


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("retrain")


@pytest.fixture(scope="module")
def trained(log: OutcomeLog, folder: Path) -> TrainReport:
    """One training for all tests that only look at what it made."""
    return Workshop(FRAUD, source(log), FraudTrainer(), folder).train(JOB)


@pytest.fixture(scope="module")
def module_and_graph(log: OutcomeLog) -> tuple[torch.nn.Module, Exported]:
    features, labels = learnable(log)
    module = FraudTrainer().fit(features, labels, seed=1, parameters=PARAMETERS)
    return module, export(module, features[:4], "score")


def source(log: OutcomeLog) -> OutcomeSource:
    return OutcomeSource(FRAUD, log.open)


def learnable(log: OutcomeLog) -> tuple[np.ndarray, np.ndarray]:
    rows, _ = source(log).read(day(0), day(4))
    return rows.features.astype(np.float32), rows.label.astype(np.float32)


def test_rows_are_those_of_the_time_range_whatever_partition_they_are_in(log: OutcomeLog) -> None:
    rows, offsets = source(log).read(day(1), day(3))
    assert len(rows) == 2 * ROWS_A_DAY
    assert (rows.event_time >= day(1)).all() and (rows.event_time < day(3)).all()
    assert (np.diff(rows.event_time) >= 0).all()
    # a day more on either side: outcomes are only nearly in order
    assert offsets == {"fraud-outcomes/0": (0, 600), "fraud-outcomes/1": (0, 600)}


def test_censored_outcomes_and_other_feature_sets_are_left_out() -> None:
    log = OutcomeLog(FRAUD)
    log.append(
        outcome(FRAUD, 1, day(0)),
        outcome(FRAUD, 2, day(0.1), label=None, label_status="censored"),
        outcome(FRAUD, 3, day(0.2), fs="000000000000"),
        outcome(FRAUD, 4, day(0.3)),
    )
    rows, _ = source(log).read(day(0), day(1))
    assert rows.id.tolist() == ["p-000001", "p-000004"]


def test_the_oldest_outcome_tells_where_the_stream_begins(log: OutcomeLog) -> None:
    assert source(log).oldest_event_time() == START
    assert source(OutcomeLog(FRAUD)).oldest_event_time() is None


def test_a_training_keeps_its_rows_under_their_own_digest(trained: TrainReport, folder: Path) -> None:
    path = folder / "datasets" / f"{trained.dataset_sha256}.parquet"
    assert digest(path.read_bytes()) == trained.dataset_sha256
    kept = pq.read_table(path)
    assert kept.num_rows == 6 * ROWS_A_DAY
    names = kept.column_names
    assert names[:3] == ["id", "event_time", "feature_amount"]
    assert names[-3:] == ["label", "live_score", "live_model_version"]
    columns = kept.to_pydict()
    assert columns["live_model_version"][:2] == [None, None]
    assert columns["feature_terminal_fraud_rate_1d"][0] is None


def test_the_same_job_makes_the_same_bytes_and_beats_a_rule_that_knows_nothing(
    log: OutcomeLog, trained: TrainReport, tmp_path: Path
) -> None:
    first, second = trained, Workshop(FRAUD, source(log), FraudTrainer(), tmp_path).train(JOB)
    assert first.artefact is not None and second.artefact is not None
    assert first.artefact.sha256 == second.artefact.sha256
    assert first.dataset_sha256 == second.dataset_sha256
    assert first.artefact.golden == second.artefact.golden
    assert (first.rows, first.metrics["holdout"]["rows"]) == (4 * ROWS_A_DAY, 2 * ROWS_A_DAY)
    assert first.measured.finite is True
    assert first.measured.parity_error is not None and first.measured.parity_error < 1e-5
    assert first.measured.holdout_gain is not None and first.measured.holdout_gain > 0.3
    assert len(first.metrics["slices"]) == 3


def test_a_manifest_gets_what_drift_and_inference_need(trained: TrainReport) -> None:
    artefact = trained.artefact
    assert artefact is not None
    assert [len(levels) for levels in artefact.reference.quantiles.values()] == [QUANTILES] * 15
    for levels in artefact.reference.quantiles.values():
        assert list(levels) == sorted(levels)
    assert len(artefact.reference.sample) == FRAUD.drift.prime_rows
    inputs = np.array(artefact.golden.inputs, np.float32)
    session = Session(Path(artefact.path).read_bytes())
    assert np.allclose(session.score(inputs), artefact.golden.outputs, atol=artefact.golden.tolerance)


@pytest.mark.parametrize("label", [0, 1])
def test_rows_of_one_class_are_reported_not_trained(tmp_path: Path, label: int) -> None:
    log = OutcomeLog(FRAUD)
    log.append(*(outcome(FRAUD, number, START + number * DAY_MS // 20, label=label) for number in range(120)))
    report = Workshop(FRAUD, source(log), FraudTrainer(), tmp_path).train(JOB)
    assert report.artefact is None
    assert report.measured.train_positives == 80 * label


def test_an_empty_range_is_reported_not_trained(tmp_path: Path) -> None:
    report = Workshop(FRAUD, source(OutcomeLog(FRAUD)), FraudTrainer(), tmp_path).train(JOB)
    assert (report.rows, report.artefact) == (0, None)


def test_training_twice_with_one_seed_gives_one_model_and_another_seed_another(log: OutcomeLog) -> None:
    features, labels = learnable(log)

    def scores(seed: int) -> np.ndarray:
        module = FraudTrainer().fit(features, labels, seed=seed, parameters=PARAMETERS)
        with torch.inference_mode():
            return module(torch.from_numpy(features[:50])).numpy()

    assert (scores(1) == scores(1)).all()
    assert (scores(1) != scores(2)).any()


def test_undefined_constant_and_wild_features_give_scores_between_0_and_1(log: OutcomeLog) -> None:
    features, labels = learnable(log)
    features = features.copy()
    features[:, 3] = np.nan
    features[:, 4] = 7.0
    module = FraudTrainer().fit(features, labels, seed=1, parameters=PARAMETERS)
    wild = np.array([[np.nan] * 15, [3e38] * 15, [-3e38] * 15, [np.inf] * 15], np.float32)
    with torch.inference_mode():
        scores = module(torch.from_numpy(wild)).numpy()
    assert ((scores >= 0) & (scores <= 1)).all()


def test_onnx_answers_as_pytorch_does_at_any_batch_size(
    log: OutcomeLog, module_and_graph: tuple[torch.nn.Module, Exported]
) -> None:
    features, _ = learnable(log)
    module, exported = module_and_graph
    session = Session(exported.data)
    for size in (1, 2, 3, 256):
        assert parity_error(module, session, features[:size]) < 1e-5
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in (*exported.inputs, *exported.outputs)] == [
        ("features", "float32", (-1, 15)),
        ("score", "float32", (-1,)),
    ]


def test_the_graph_is_self_contained_and_names_no_file_of_this_machine(
    module_and_graph: tuple[torch.nn.Module, Exported],
) -> None:
    _, exported = module_and_graph
    model = onnx.load_model_from_string(exported.data)
    assert exported.opset == next(entry.version for entry in model.opset_import if not entry.domain)
    assert {node.domain for node in model.graph.node} == {""}
    assert b".py" not in exported.data


def test_an_example_of_one_row_is_refused(module_and_graph: tuple[torch.nn.Module, Exported]) -> None:
    with pytest.raises(ValueError, match="fix the batch size"):
        export(module_and_graph[0], np.zeros((1, 15), np.float32), "score")


def test_a_trainer_that_cannot_be_loaded_is_a_mistake_in_the_pipeline_file() -> None:
    assert isinstance(load_trainer(FRAUD.model.trainer), FraudTrainer)
    for wrong in ("tidemill.nowhere:Trainer", "tidemill.scenarios.fraud.trainer:Nobody"):
        with pytest.raises(ConfigurationError, match="cannot be loaded"):
            load_trainer(wrong)


def shadowed() -> OutcomeLog:
    """Six days live on version 1, the last five and a half of them shadowed by a version 2 that knows the truth."""
    log = OutcomeLog(FRAUD)
    step = DAY_MS // 100
    for number in range(600):
        record = outcome(FRAUD, number, START + number * step, model_version=1, outputs={"score": number % 10 / 10})
        if number >= 50:
            record["shadow"] = {"model_version": 2, "score": 0.2 + 0.5 * record["label"]}
        log.append(record)
    return log


def comparison_job(**members: object) -> CompareJob:
    plain = {"challenger": 2, "incumbent": 1, "from_ms": day(0), "to_ms": day(6), "span_ms": 5 * DAY_MS}
    return CompareJob(**{**plain, "limit": 0.0, "seed": 3, **members})


def test_a_shadow_phase_is_compared_over_exactly_its_time() -> None:
    log = shadowed()
    report = run_comparison(comparison_job(), FRAUD, source(log), log.open)
    assert report.comparison is not None
    assert report.comparison["from"] == day(0.5)
    assert report.comparison["to"] <= day(5.5)
    assert report.comparison["rows"] == 500
    assert len(report.comparison["daily_difference"]) == 5
    assert report.comparison["better"]
    assert report.comparison["challenger"]["average_precision"] == 1.0


def test_a_shadow_phase_that_is_not_over_says_when_it_will_be() -> None:
    log = shadowed()
    report = run_comparison(comparison_job(to_ms=day(5)), FRAUD, source(log), log.open)
    assert (report.comparison, report.complete_at) == (None, day(5.5))


@pytest.mark.parametrize("members", [{"challenger": 3}, {"incumbent": None}, {"from_ms": day(6), "to_ms": day(7)}])
def test_rows_of_another_pair_do_not_count(members: dict[str, object]) -> None:
    log = shadowed()
    report = run_comparison(comparison_job(**members), FRAUD, source(log), log.open)
    assert (report.comparison, report.complete_at) == (None, None)


def test_an_earlier_version_is_fetched_from_its_chunks_and_asked_again(trained: TrainReport) -> None:
    artefact = trained.artefact
    assert artefact is not None
    data = Path(artefact.path).read_bytes()
    live = shadowed()
    half = len(data) // 2
    for index, piece in enumerate((data[:half], data[half:])):
        key = f"fraud-mlp/4/{index}".encode()
        live.records.append(Record("fraud-model-chunks", 0, index, 0, key, piece))
    stored = StoredModel(4, artefact.sha256, artefact.size, 2)
    job = comparison_job(challenger=4, span_ms=None, rescore=stored)
    report = run_comparison(job, FRAUD, source(live), live.open)
    assert report.comparison is not None
    assert report.comparison["rows"] == 600
    assert report.comparison["better"]
    with pytest.raises(RecordError, match="SHA-256"):
        run_comparison(
            comparison_job(challenger=4, span_ms=None, rescore=StoredModel(4, "0" * 64, artefact.size, 2)),
            FRAUD,
            source(live),
            live.open,
        )
    with pytest.raises(RecordError, match="2 of 3 chunks"):
        run_comparison(
            comparison_job(challenger=4, span_ms=None, rescore=StoredModel(4, artefact.sha256, artefact.size, 3)),
            FRAUD,
            source(live),
            live.open,
        )
