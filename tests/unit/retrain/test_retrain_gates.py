"""Gates and comparisons: each limit from both sides, and two equal models that are seldom told apart."""

from dataclasses import replace

import numpy as np
import pytest

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import GateSpec, ShadowSpec
from tidemill.retrain.core.comparison import PairedScores, compare
from tidemill.retrain.core.gates import Measurements, failures, judge, shadow_limit
from tidemill.retrain.core.records import Policy

GOOD = Measurements(train_positives=50, finite=True, parity_error=1e-4, latency_ms=50.0, holdout_gain=0.01)
SPEC = GateSpec()


def test_a_candidate_at_every_limit_passes_and_each_gate_is_recorded() -> None:
    gates = judge(GOOD, SPEC, "initial")
    assert [gate.name for gate in gates] == ["enough_positives", "finite", "parity", "latency_ms", "holdout_gain"]
    assert failures(gates) == []


@pytest.mark.parametrize(
    ("measured", "gate"),
    [
        (replace(GOOD, train_positives=49), "enough_positives"),
        (replace(GOOD, finite=False), "finite"),
        (replace(GOOD, parity_error=1.1e-4), "parity"),
        (replace(GOOD, parity_error=None), "parity"),
        (replace(GOOD, latency_ms=50.1), "latency_ms"),
        (replace(GOOD, holdout_gain=0.0), "holdout_gain"),
        (replace(GOOD, holdout_gain=None), "holdout_gain"),
    ],
)
def test_each_gate_fails_alone(measured: Measurements, gate: str) -> None:
    gates = judge(measured, SPEC, "initial")
    assert [result.name for result in gates if not result.passed] == [gate]
    assert len(failures(gates)) == 1


@pytest.mark.parametrize(("policy", "passes"), [("drift", True), ("performance", True), ("schedule", False)])
def test_after_a_drift_a_successor_need_not_be_better(policy: Policy, passes: bool) -> None:
    assert all(gate.passed for gate in judge(replace(GOOD, holdout_gain=-0.009), SPEC, policy)) == passes
    assert shadow_limit(policy) == (-0.01 if passes else 0.0)


def scored(random: np.random.Generator, days: int, a_day: int, skill: float, better: float) -> PairedScores:
    """Two noisy views of one truth; the challenger's has `better` more signal."""
    count = days * a_day
    label = (random.random(count) < 0.03).astype(np.float64)
    event_time = np.sort(random.integers(0, days * DAY_MS, count))

    def view(signal: float) -> np.ndarray:
        return 1 / (1 + np.exp(-(label * signal + random.normal(0, 1, count))))

    return PairedScores(event_time, label, view(skill + better), view(skill))


def test_two_equally_good_models_are_promoted_in_at_most_a_twentieth_of_trials() -> None:
    random = np.random.default_rng(11)
    spec = ShadowSpec(resamples=400)
    trials = 400
    promoted = sum(
        compare(scored(random, 5, 600, 2.0, 0.0), spec, limit=0.0, seed=trial)["better"] for trial in range(trials)
    )
    assert promoted / trials <= 0.05


def test_a_clearly_better_challenger_is_seen_in_five_days() -> None:
    verdict = compare(scored(np.random.default_rng(5), 5, 2_000, 1.5, 1.0), ShadowSpec(), limit=0.0, seed=1)
    assert verdict["better"]
    assert len(verdict["daily_difference"]) == 5
    assert verdict["lower_bound"] > 0.05
    assert verdict["challenger"]["average_precision"] > verdict["incumbent"]["average_precision"]


def test_four_days_prove_nothing_at_this_confidence() -> None:
    verdict = compare(scored(np.random.default_rng(5), 4, 2_000, 1.5, 1.0), ShadowSpec(), limit=0.0, seed=1)
    assert verdict["lower_bound"] is None
    assert not verdict["better"]
