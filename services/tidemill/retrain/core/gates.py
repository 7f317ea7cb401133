"""What a trained model must show before it may shadow the live one. Each gate's value and limit is recorded."""

from dataclasses import dataclass

from tidemill.domain.model import GateResult
from tidemill.domain.pipeline import GateSpec
from tidemill.retrain.core.records import Policy

AFTER_DRIFT: frozenset[Policy] = frozenset({"drift", "performance"})
"""Causes that show the live model to be out of place: a successor may then be as good, within a margin."""

SHADOW_MARGIN_AFTER_DRIFT = -0.01


@dataclass(frozen=True, slots=True)
class Measurements:
    """What training measured; None where it could not be measured (an earlier gate stopped it, or no positives)."""

    train_positives: int
    finite: bool | None = None
    parity_error: float | None = None
    latency_ms: float | None = None
    holdout_gain: float | None = None
    """Average precision on the holdout minus that of the scores that were live there."""


def judge(measured: Measurements, spec: GateSpec, policy: Policy) -> tuple[GateResult, ...]:
    """All gates in order; a value that is missing fails its gate. The candidate may go on when all passed."""
    least_gain = spec.min_gain_after_drift if policy in AFTER_DRIFT else spec.min_gain
    parity, latency, gain = measured.parity_error, measured.latency_ms, measured.holdout_gain
    return (
        GateResult(
            "enough_positives",
            measured.train_positives >= spec.min_positives,
            measured.train_positives,
            spec.min_positives,
        ),
        GateResult("finite", measured.finite is True, None, None),
        GateResult("parity", parity is not None and parity <= spec.parity_tolerance, parity, spec.parity_tolerance),
        GateResult(
            "latency_ms",
            latency is not None and latency <= spec.max_latency_ms_per_batch,
            latency,
            spec.max_latency_ms_per_batch,
        ),
        GateResult("holdout_gain", gain is not None and gain > least_gain, gain, least_gain),
    )


def failures(gates: tuple[GateResult, ...]) -> list[str]:
    """One phrase for each gate that failed."""
    return [
        f"{gate.name} is {_shown(gate.value)}, the limit is {_shown(gate.limit)}" for gate in gates if not gate.passed
    ]


def shadow_limit(policy: Policy) -> float:
    """What the lower bound of the daily difference must exceed."""
    return SHADOW_MARGIN_AFTER_DRIFT if policy in AFTER_DRIFT else 0.0


def _shown(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
