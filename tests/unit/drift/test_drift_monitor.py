"""The monitor on seeded streams: silent while nothing changes, and an alarm for each kind of change."""

from typing import Any

import msgspec
import numpy as np
import pytest

from tidemill.drift.core.monitor import Monitor, Snapshot
from tidemill.drift.core.records import Generation, Statistics, decode_outcome, decode_prediction, encode_drift
from tidemill.drift.river_detectors import Adwin
from tidemill.errors import RecordError
from unit.drift.streams import (
    AMOUNT,
    DAY_MS,
    GAP_MS,
    NAMES,
    NIGHT,
    START_MS,
    Matrix,
    alarms,
    champion_of,
    fraud_pipeline,
    monitor_of,
    outcomes_of,
    predictions_of,
    vectors,
    watch,
)

PIPELINE = fraud_pipeline(min_average_precision=None)
TRAINING = vectors(20_000, seed=1_000)
CHAMPION = champion_of(TRAINING)


def live(change: str, rows: int = 4_000, seed: int = 1) -> Matrix:
    """Rows as in training but for one change."""
    matrix = vectors(rows, seed)
    rng = np.random.default_rng(seed)
    if change == "scale":
        matrix[:, AMOUNT] *= 2
    elif change == "spread of a count":
        matrix[:, NAMES.index("customer_count_7d")] = rng.poisson(9, rows)
    elif change == "zeros vanish":
        matrix[:, NAMES.index("terminal_fraud_rate_7d")] = rng.random(rows)
    elif change == "nulls":
        matrix[rng.random(rows) < 0.4, NAMES.index("terminal_fraud_rate_1d")] = np.nan
    return matrix


def test_a_stream_like_the_training_data_raises_no_alarm_in_any_of_twenty_runs() -> None:
    raised = [
        alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions_of(vectors(10_000, seed)))) for seed in range(20)
    ]
    assert raised == [[]] * 20


@pytest.mark.parametrize(
    ("change", "detector"),
    [
        ("scale", "feature:amount"),
        ("spread of a count", "feature:customer_count_7d"),
        ("zeros vanish", "feature:terminal_fraud_rate_7d"),
        ("nulls", "missing:terminal_fraud_rate_1d"),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_each_kind_of_shift_raises_its_alarm_and_no_other_within_600_rows(
    change: str, detector: str, seed: int
) -> None:
    (alarm,) = alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions_of(live(change, seed=seed))))
    assert (alarm.detector, alarm.policy, alarm.generation, alarm.model_version) == (detector, "drift", 1, 1)
    assert alarm.id == f"fraud-mlp/1/g1/{detector}/1"
    assert alarm.rows <= 600
    assert alarm.effect >= PIPELINE.drift.min_effect
    assert detector in alarm.reason


def test_a_shift_in_mid_stream_is_found_soon_after_it() -> None:
    matrix = np.concatenate([vectors(20_000, 2), live("scale", 4_000, 3)])
    (alarm,) = alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix)))
    assert START_MS + 20_000 * GAP_MS <= alarm.at <= START_MS + 20_600 * GAP_MS


def test_heavy_tails_raise_false_alarms_raw_but_not_as_ranks() -> None:
    delta = PIPELINE.drift.delta / 13
    raw = 0
    for seed in range(10):
        tail = np.random.default_rng(seed).pareto(1.1, 10_000) * 20
        raw += Adwin(delta).feed(tail.tolist(), 0) >= 0
        matrix = vectors(10_000, seed)
        matrix[:, AMOUNT] = tail
        training = TRAINING.copy()
        training[:, AMOUNT] = np.random.default_rng(seed + 100).pareto(1.1, len(training)) * 20
        assert alarms(watch(monitor_of(PIPELINE, champion_of(training)), predictions_of(matrix))) == []
    assert raw >= 8


def test_a_column_constant_in_training_alarms_when_it_starts_to_vary_and_not_before() -> None:
    training = TRAINING.copy()
    training[:, AMOUNT] = 7.0
    champion = champion_of(training)
    same, other = vectors(3_000, 5), vectors(3_000, 6)
    same[:, AMOUNT] = 7.0
    other[:, AMOUNT] = np.where(np.arange(3_000) % 4 == 0, 8.0, 7.0)
    assert alarms(watch(monitor_of(PIPELINE, champion), predictions_of(same))) == []
    (alarm,) = alarms(watch(monitor_of(PIPELINE, champion), predictions_of(other)))
    assert (alarm.detector, alarm.reference) == ("feature:amount", 0.0)


def test_a_feature_that_is_often_null_in_training_may_be_as_often_null_live() -> None:
    training, usual, fewer = TRAINING.copy(), vectors(5_000, 7), vectors(5_000, 8)
    training[np.random.default_rng(1).random(len(training)) < 0.3, AMOUNT] = np.nan
    usual[np.random.default_rng(2).random(5_000) < 0.3, AMOUNT] = np.nan
    champion = champion_of(training)
    assert alarms(watch(monitor_of(PIPELINE, champion), predictions_of(usual))) == []
    (alarm,) = alarms(watch(monitor_of(PIPELINE, champion), predictions_of(fewer)))
    assert alarm.detector == "missing:amount"
    assert alarm.current < 0.2


def test_a_feature_that_was_always_null_in_training_is_watched_for_its_nulls_alone() -> None:
    training = TRAINING.copy()
    training[:, AMOUNT] = np.nan
    (alarm,) = alarms(watch(monitor_of(PIPELINE, champion_of(training)), predictions_of(vectors(2_000, 9))))
    assert alarm.detector == "missing:amount"


def test_calendar_features_are_left_out() -> None:
    matrix = vectors(5_000, 10)
    matrix[:, NIGHT] = np.arange(5_000) // 500 % 2
    assert alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix))) == []


def test_a_daily_rhythm_below_the_effect_floor_raises_no_alarm() -> None:
    matrix = vectors(40_000, 11)
    matrix[:, AMOUNT] *= np.exp(0.2 * np.sin(np.arange(40_000) * GAP_MS / DAY_MS * 2 * np.pi))
    assert alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix))) == []


def test_vectors_of_another_feature_set_are_not_compared() -> None:
    predictions = [decode_prediction(_changed(prediction, fs="other")) for prediction in predictions_of(live("scale"))]
    assert alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions)) == []


def test_features_feed_the_detectors_whoever_scored_them_but_scores_only_the_champions() -> None:
    usual = np.random.default_rng(12).beta(0.1, 9.9, 20_000).tolist()
    jump = np.random.default_rng(13).beta(2, 8, 4_000).tolist()
    matrix = vectors(24_000, 14)
    by_rule = watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix, usual + jump, version=None))
    by_champion = watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix, usual + jump, version=1))
    assert alarms(by_rule) == []
    assert [alarm.detector for alarm in alarms(by_champion)] == ["score"]
    assert alarms(watch(monitor_of(PIPELINE, CHAMPION), predictions_of(live("scale"), version=None))) != []


def test_a_rising_loss_on_matured_outcomes_is_a_performance_alarm_and_a_falling_one_is_none() -> None:
    rng = np.random.default_rng(15)
    labels = (rng.random(40_000) < 0.02).astype(int)
    good = np.where(labels == 1, 0.8, 0.01)
    bad = np.where(labels == 1, 0.3, 0.2)
    worse = outcomes_of([*good[:20_000], *bad[20_000:]], labels.tolist())
    better = outcomes_of([*bad[:20_000], *good[20_000:]], labels.tolist())
    (alarm,) = alarms(watch(monitor_of(PIPELINE, CHAMPION), outcomes=worse))
    assert (alarm.detector, alarm.policy) == ("loss", "performance")
    assert alarm.at == pytest.approx(START_MS + 20_000 * GAP_MS + PIPELINE.outcomes.maturity, abs=1_000 * GAP_MS)
    assert alarms(watch(monitor_of(PIPELINE, CHAMPION), outcomes=better)) == []


def ranked(rows: int, seed: int, skill: float) -> tuple[list[float], list[int]]:
    """Scores whose positives stand out by `skill`, with their labels, 2 % positive."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.02).astype(int)
    return (1 / (1 + np.exp(-(rng.normal(-4, 1, rows) + skill * labels)))).tolist(), labels.tolist()


def test_ranking_below_the_floor_is_a_performance_alarm_once_enough_positives_have_matured() -> None:
    pipeline = fraud_pipeline(min_average_precision=0.3, min_positives=300)
    scores, labels = ranked(40_000, 16, skill=0.5)
    drift = watch(monitor_of(pipeline, CHAMPION), outcomes=outcomes_of(scores, labels))
    (alarm,) = alarms(drift)
    assert (alarm.detector, alarm.policy, alarm.reference) == ("floor", "performance", 0.3)
    assert alarm.current < 0.3
    assert alarm.effect == pytest.approx(0.3 - alarm.current)
    before = [record for record in drift if isinstance(record, Statistics) and record.at < alarm.at]
    assert before[-1].positives < 300


def test_ranking_above_the_floor_and_ranking_by_others_raise_no_alarm() -> None:
    pipeline = fraud_pipeline(min_average_precision=0.3)
    good, labels = ranked(30_000, 17, skill=4.0)
    poor, _ = ranked(30_000, 18, skill=0.0)
    assert alarms(watch(monitor_of(pipeline, CHAMPION), outcomes=outcomes_of(good, labels))) == []
    assert alarms(watch(monitor_of(pipeline, CHAMPION), outcomes=outcomes_of(poor, labels, version=None))) == []
    assert alarms(watch(monitor_of(pipeline, CHAMPION), outcomes=outcomes_of(poor, labels, version=2))) == []


def test_statistics_come_at_each_boundary_of_the_watermark_with_everything_before_it() -> None:
    scores, labels = ranked(30_000, 19, skill=4.0)
    labels_with_censored = [None if row % 10 == 0 else label for row, label in enumerate(labels)]
    drift = watch(monitor_of(PIPELINE, None), outcomes=outcomes_of(scores, labels_with_censored, version=None))
    statistics = [record for record in drift if isinstance(record, Statistics)]
    assert [record.watermark for record in statistics] == [START_MS + DAY_MS * day for day in (1, 2, 3)]
    for record in statistics:
        rows = [label for row, label in enumerate(labels_with_censored) if START_MS + GAP_MS * row < record.watermark]
        known = [label for label in rows if label is not None]
        assert (record.outcomes, record.positives) == (len(known), sum(known))
        assert (record.window.rows, record.window.positives) == (len(known), sum(known))
        assert record.window.average_precision is not None
        assert record.at == record.watermark + PIPELINE.outcomes.maturity
        assert (record.model_version, record.alarms) == (None, 0)


def test_a_gap_in_the_stream_is_reported_once_at_its_end() -> None:
    outcomes = [*outcomes_of([0.1], [0]), *outcomes_of([0.1, 0.1], [0, 0], gap_ms=10 * DAY_MS + 5)]
    drift = watch(monitor_of(PIPELINE, None), outcomes=outcomes)
    assert [r.watermark for r in drift if isinstance(r, Statistics)] == [START_MS + 10 * DAY_MS]


def test_the_window_of_a_rule_is_measured_before_any_model_is_live() -> None:
    outcomes = outcomes_of([1.0, 1.0, 0.0, 0.0], [1, 0, 0, 0], version=None, gap_ms=DAY_MS // 3)
    (statistics,) = watch(monitor_of(PIPELINE, None), outcomes=outcomes)
    assert isinstance(statistics, Statistics)
    assert statistics.window.average_precision == 0.5


def test_with_drift_switched_off_statistics_flow_and_nothing_is_watched() -> None:
    pipeline = fraud_pipeline(enabled=False, min_average_precision=0.9)
    monitor = monitor_of(pipeline, CHAMPION)
    scores, labels = ranked(30_000, 20, skill=0.0)
    drift = watch(monitor, predictions_of(live("scale", 30_000)), outcomes_of(scores, labels))
    assert alarms(drift) == []
    assert sum(isinstance(record, Statistics) for record in drift) == 3
    assert list(monitor.means()) == []


def test_a_new_generation_watches_anew_and_its_alarms_have_ids_of_their_own() -> None:
    monitor = monitor_of(PIPELINE, CHAMPION)
    first = alarms(watch(monitor, predictions_of(live("scale"))))
    generation = monitor.begin(CHAMPION, START_MS, "2000000 predictions were seen")
    second = alarms(watch(monitor, predictions_of(live("scale"))))
    assert isinstance(generation, Generation)
    assert (generation.generation, generation.watched) == (2, 13 + 13 + 2)
    assert [alarm.id for alarm in first + second] == [f"fraud-mlp/1/g{g}/feature:amount/1" for g in (1, 2)]


def test_a_champion_is_not_judged_by_its_predecessors_outcomes() -> None:
    pipeline = fraud_pipeline(min_average_precision=0.3)
    monitor = monitor_of(pipeline, CHAMPION)
    poor, labels = ranked(9_000, 21, skill=0.0)
    watch(monitor, outcomes=outcomes_of(poor, labels))
    monitor.begin(champion_of(TRAINING, version=2), START_MS, "version 2 serves from here on")
    after = [decode_outcome(_changed(o, event_time=o.event_time + DAY_MS)) for o in outcomes_of(poor, labels)]
    drift = watch(monitor, outcomes=after)
    assert alarms(drift) == []
    assert all(record.window.rows > 0 for record in drift if isinstance(record, Statistics))


def test_a_snapshot_starts_a_monitor_that_goes_on_the_same() -> None:
    scores, labels = ranked(40_000, 22, skill=0.6)
    outcomes = outcomes_of(scores, labels)
    pipeline = fraud_pipeline(min_average_precision=0.3)
    monitor = monitor_of(pipeline, CHAMPION)
    watch(monitor, outcomes=outcomes[:15_000])
    monitor.begin(CHAMPION, START_MS, "enough")
    again = Monitor(pipeline, Adwin, monitor.snapshot(), CHAMPION)
    assert watch(monitor, outcomes=outcomes[15_000:]) == watch(again, outcomes=outcomes[15_000:])


def test_a_changed_statistics_interval_starts_the_window_anew_and_keeps_the_counts() -> None:
    scores, labels = ranked(15_000, 23, skill=3)
    monitor = monitor_of(PIPELINE, None)
    watch(monitor, outcomes=outcomes_of(scores, labels, version=None))
    snapshot = monitor.snapshot()
    changed = Monitor(fraud_pipeline(statistics_every="6h"), Adwin, snapshot, None)
    late = outcomes_of([0.1, 0.1], [0, 0], version=None, gap_ms=3 * DAY_MS)
    (statistics,) = watch(changed, outcomes=late)
    assert isinstance(statistics, Statistics)
    assert statistics.outcomes == 15_001
    assert statistics.window.rows <= 1


@pytest.mark.parametrize("step", [1, 13, 400])
def test_how_records_are_cut_into_stretches_changes_nothing(step: int) -> None:
    matrix = np.concatenate([vectors(700, 24), live("scale", 700, 25)])
    scores, labels = ranked(1_400, 26, skill=1.0)
    outcomes = outcomes_of(scores, labels, gap_ms=GAP_MS * 20)
    once = watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix), outcomes, step=1_400)
    cut = watch(monitor_of(PIPELINE, CHAMPION), predictions_of(matrix), outcomes, step=step)
    assert sorted(encode_drift(r) for r in cut if not isinstance(r, Statistics)) == sorted(
        encode_drift(r) for r in once if not isinstance(r, Statistics)
    )
    assert [r.watermark for r in cut if isinstance(r, Statistics)] == [
        r.watermark for r in once if isinstance(r, Statistics)
    ]


@pytest.mark.parametrize("value", [None, b"", b"[]", b"not json", b'{"v":1}', b'{"v":2,"event_time":1}'])
def test_a_record_that_is_no_prediction_or_outcome_is_a_bad_record(value: bytes | None) -> None:
    for decode in (decode_prediction, decode_outcome):
        with pytest.raises(RecordError) as caught:
            decode(value)
        assert caught.value.code == "bad_record"


def test_a_snapshot_is_empty_for_a_stream_never_read() -> None:
    assert Monitor(PIPELINE, Adwin, Snapshot(), None).snapshot().generation == 0


def _changed(record: Any, **members: Any) -> bytes:
    return msgspec.json.encode({**msgspec.structs.asdict(record), **members})
