"""When a training starts and when not, one rule at a time."""

import pytest

from tidemill.domain.durations import DAY_MS
from tidemill.retrain.core.policy import (
    ManualRequest,
    decide,
    evaluation_due_at,
    pending_alarms,
    rollback_due,
    work_due,
)
from tidemill.retrain.core.records import Decision, DecisionKind
from tidemill.retrain.core.situation import Situation
from unit.retrain.retrainworld import START, alarm, day, pipeline, statistics

FRAUD = pipeline()  # trains on 7 days, holds out 2, cools down for 4


def situation(watermark: float, positives: int = 500) -> Situation:
    fresh = Situation(stream_start=START)
    fresh.fold_drift(statistics(watermark, positives), 0)
    return fresh


def concluded(kind: DecisionKind, version: int, at: float, **details: object) -> Decision:
    return Decision(
        id=f"{kind}/{version}",
        kind=kind,
        at=day(at),
        policy="initial",
        trigger="t",
        reason="r",
        model_version=version,
        details={"drift_offset": 0, **details},
    )


def serving(watermark: float, version: int = 1, trained_at: float = 10) -> Situation:
    """A champion whose training started on day `trained_at`, and nothing else going on."""
    found = situation(watermark)
    found.fold_decision(concluded("retrain", version, trained_at))
    found.fold_decision(concluded("candidate", version, trained_at))
    found.fold_decision(concluded("promoted", version, trained_at + 12, champion_before=None))
    return found


def test_nothing_is_decided_before_a_first_outcome() -> None:
    assert decide(Situation(), FRAUD) == []


@pytest.mark.parametrize(("watermark", "positives", "trains"), [(8.9, 500, False), (9, 49, False), (9, 50, True)])
def test_the_first_training_waits_for_its_window_its_holdout_and_enough_positives(
    watermark: float, positives: int, trains: bool
) -> None:
    decisions = decide(situation(watermark, positives), FRAUD)
    assert [decision.kind for decision in decisions] == (["retrain"] if trains else [])


def test_a_retrain_decision_names_the_exact_ranges_version_and_seed() -> None:
    (decision,) = decide(situation(9.5), FRAUD)
    assert decision.id == "retrain/1"
    assert decision.at == day(9.5)
    details = decision.details
    assert (details["train_from"], details["train_to"], details["holdout_to"]) == (day(0.5), day(7.5), day(9.5))
    assert details["seed"] == FRAUD.retrain.seed + 1


def test_deciding_again_after_folding_decides_nothing_new() -> None:
    here = situation(9)
    for decision in decide(here, FRAUD):
        here.fold_decision(decision)
    assert decide(here, FRAUD) == []
    assert here.phase == "training"


def test_after_a_refusal_the_first_model_is_tried_again_once_the_cooldown_is_over() -> None:
    here = situation(12.9)
    here.fold_decision(concluded("retrain", 1, 9))
    here.fold_decision(concluded("refused", 1, 9))
    assert decide(here, FRAUD) == []
    here.fold_drift(statistics(13), 1)
    assert [decision.id for decision in decide(here, FRAUD)] == ["retrain/2"]


def test_an_alarm_on_the_champion_starts_a_training() -> None:
    here = serving(30)
    here.fold_drift(alarm(1), 5)
    (decision,) = decide(here, FRAUD)
    assert (decision.kind, decision.policy, decision.trigger) == ("retrain", "drift", "alarm/1/feature:amount")
    assert decision.details["detectors"] == ["feature:amount"]


@pytest.mark.parametrize("version", [None, 2])
def test_an_alarm_on_another_version_is_void(version: int | None) -> None:
    here = serving(30)
    here.fold_drift(alarm(version), 5)
    assert decide(here, FRAUD) == []


def test_without_a_champion_alarms_do_not_count() -> None:
    here = situation(9)
    here.fold_drift(alarm(None), 5)
    assert [decision.policy for decision in decide(here, FRAUD)] == ["initial"]


def test_an_alarm_in_the_cooldown_is_skipped_once_and_acted_on_afterwards() -> None:
    here = serving(30, trained_at=27)
    here.fold_drift(alarm(1), 5)
    (skip,) = decide(here, FRAUD)
    assert (skip.kind, skip.details["obstacle"]) == ("skip", "cooldown")
    here.fold_decision(skip)
    for number in range(20):
        here.fold_drift(alarm(1, f"feature:x{number}"), 6 + number)
        assert decide(here, FRAUD) == []
    here.fold_drift(statistics(31), 40)
    assert [decision.kind for decision in decide(here, FRAUD)] == ["retrain"]


def test_an_alarm_while_busy_is_skipped_once_and_void_after_a_promotion() -> None:
    here = serving(40)
    here.fold_decision(concluded("retrain", 2, 39))
    here.fold_drift(alarm(1), 5)
    (skip,) = decide(here, FRAUD)
    assert skip.details["obstacle"] == "busy"
    here.fold_decision(skip)
    assert decide(here, FRAUD) == []
    here.fold_decision(concluded("promoted", 2, 40, champion_before=1))
    here.fold_drift(statistics(60), 6)
    assert decide(here, FRAUD) == []


def test_an_alarm_that_came_while_busy_is_acted_on_after_a_rejection() -> None:
    here = serving(40)
    here.fold_decision(concluded("retrain", 2, 39))
    here.fold_drift(alarm(1), 5)
    here.fold_decision(concluded("rejected", 2, 40))
    here.fold_drift(statistics(60), 6)
    assert [decision.id for decision in decide(here, FRAUD)] == ["retrain/3"]


def test_an_alarm_is_given_up_after_three_trainings_that_led_to_nothing() -> None:
    here = serving(30)
    here.fold_drift(alarm(1), 5)
    for number in range(3):
        here.fold_drift(statistics(30 + 10 * number), 6 + number)
        (decision,) = decide(here, FRAUD)
        assert decision.kind == "retrain"
        here.fold_decision(decision)
        here.fold_decision(concluded("refused", decision.model_version or 0, 30 + 10 * number))
    here.fold_drift(statistics(90), 20)
    assert pending_alarms(here) == []
    assert decide(here, FRAUD) == []


def test_the_budget_counts_trainings_of_the_last_thirty_days() -> None:
    tight = pipeline(budget_per_30d=2)
    here = serving(100)
    for version, at in ((2, 71), (3, 80)):
        here.fold_decision(concluded("retrain", version, at))
        here.fold_decision(concluded("refused", version, at))
    here.fold_drift(alarm(1), 5)
    (skip,) = decide(here, tight)
    assert skip.details["obstacle"] == "budget"
    here.fold_drift(statistics(101.1), 6)
    assert [decision.kind for decision in decide(here, tight)] == ["retrain"]


def test_drift_needs_a_quorum_of_distinct_detectors() -> None:
    strict = pipeline(quorum=2)
    here = serving(30)
    here.fold_drift(alarm(1, "score", name="a"), 5)
    here.fold_drift(alarm(1, "score", name="b"), 6)
    assert decide(here, strict) == []
    here.fold_drift(alarm(1, "missing:amount", name="c"), 7)
    assert [decision.kind for decision in decide(here, strict)] == ["retrain"]


def test_performance_needs_no_quorum_and_goes_before_drift() -> None:
    here = serving(30)
    here.fold_drift(alarm(1), 5)
    here.fold_drift(alarm(1, "loss", "performance"), 6)
    (decision,) = decide(here, pipeline(quorum=5))
    assert decision.policy == "performance"


def test_a_trigger_that_the_pipeline_leaves_out_never_trains() -> None:
    quiet = pipeline(triggers=["initial"])
    here = serving(30)
    here.fold_drift(alarm(1), 5)
    here.fold_drift(alarm(1, "loss", "performance"), 6)
    assert decide(here, quiet) == []
    (skip,) = decide(here, quiet, ManualRequest("m", "now"))
    assert skip.details["obstacle"] == "disabled"


def test_a_schedule_trains_at_its_pace() -> None:
    paced = pipeline(triggers=["initial", "schedule"], schedule=20 * DAY_MS)
    assert decide(serving(29.9), paced) == []
    assert [decision.policy for decision in decide(serving(30), paced)] == ["schedule"]


def test_a_manual_request_trains_or_is_told_what_is_in_the_way() -> None:
    asked = ManualRequest("request/1", "a new fraud pattern")
    assert [decision.kind for decision in decide(serving(30), FRAUD, asked)] == ["retrain"]
    (skip,) = decide(serving(30, trained_at=29), FRAUD, asked)
    assert "cooldown" in skip.reason
    (early,) = decide(Situation(), FRAUD, asked)
    assert early.details["obstacle"] == "too-little-history"


def test_a_dry_run_records_what_it_would_do_at_the_same_pace_and_trains_nothing() -> None:
    dry = pipeline(dry_run=True)
    here = situation(9)
    for watermark, trains in ((9, True), (10, False), (12.9, False), (13, True)):
        here.fold_drift(statistics(watermark), 1)
        decisions = decide(here, dry)
        assert [decision.kind for decision in decisions] == (["skip"] if trains else [])
        assert all("dry run: version 1 would be trained" in decision.reason for decision in decisions)
        for decision in decisions:
            here.fold_decision(decision)
        assert work_due(here, dry) is None


def test_the_first_record_of_an_id_wins() -> None:
    here = situation(9)
    first = concluded("retrain", 1, 9)
    assert here.fold_decision(first)
    assert not here.fold_decision(concluded("retrain", 1, 20))
    assert here.trainings == [first]


def test_the_shadow_phase_is_evaluated_when_it_can_have_matured() -> None:
    here = situation(20)
    candidate = concluded("candidate", 1, 20)
    here.fold_decision(concluded("retrain", 1, 19))
    assert work_due(here, FRAUD) == "train"
    here.fold_decision(candidate)
    assert evaluation_due_at(candidate, FRAUD) == day(20 + 7 + 5)
    assert work_due(here, FRAUD) is None
    here.fold_drift(statistics(32), 1)
    assert work_due(here, FRAUD) == "evaluate"


def test_a_promotion_is_questioned_once_by_a_floor_alarm_when_its_days_have_matured() -> None:
    here = serving(20)
    here.fold_decision(concluded("promoted", 2, 30, champion_before=1))
    here.fold_drift(alarm(2, "floor", "performance"), 5)
    for watermark, due in ((41.9, False), (42, True), (56, True), (56.1, False)):
        here.fold_drift(statistics(watermark), 6)
        assert (rollback_due(here, FRAUD) is not None) == due


def test_a_first_promotion_has_nothing_to_go_back_to() -> None:
    here = serving(34)
    here.fold_drift(alarm(1, "floor", "performance"), 5)
    assert rollback_due(here, FRAUD) is None
