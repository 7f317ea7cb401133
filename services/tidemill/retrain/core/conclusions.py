"""What a finished job means: the decision that ends a training, a shadow phase or a questioned promotion. Pure."""

from typing import Any

from tidemill.retrain.core.policy import rollback_checked_id
from tidemill.retrain.core.records import Decision, DecisionKind
from tidemill.retrain.core.situation import Situation


def conclude(
    situation: Situation, retrain: Decision, kind: DecisionKind, reason: str, details: dict[str, Any]
) -> Decision:
    """The next step in the life of the version that `retrain` started; its id is `{kind}/{version}`."""
    return Decision(
        id=f"{kind}/{retrain.model_version}",
        kind=kind,
        at=situation.at,
        policy=retrain.policy,
        trigger=retrain.trigger,
        reason=reason,
        model_version=retrain.model_version,
        details=details,
    )


def judge_shadow(situation: Situation, retrain: Decision, comparison: dict[str, Any] | None) -> Decision:
    """`promoted` if the lower bound of the daily difference exceeds its limit, else `rejected`."""
    version, champion = retrain.model_version, situation.champion
    incumbent = "the rule" if champion is None else f"version {champion}"
    details: dict[str, Any] = {"comparison": comparison, "champion_before": champion}
    if comparison is None:
        reason = f"version {version} got too few shadow scores to be judged: does inference run and know its key?"
        return conclude(situation, retrain, "rejected", reason, details)
    lower, limit = comparison["lower_bound"], comparison["limit"]
    shown = "too few days with a positive to say" if lower is None else f"lower bound {lower:.4f}, limit {limit:g}"
    ours, theirs = comparison["challenger"]["average_precision"], comparison["incumbent"]["average_precision"]
    figures = "" if ours is None or theirs is None else f" (average precision {ours:.3f} against {theirs:.3f})"
    if comparison["better"]:
        return conclude(
            situation, retrain, "promoted", f"version {version} beats {incumbent}{figures}: {shown}", details
        )
    reason = f"version {version} does not beat {incumbent}{figures}: {shown}"
    return conclude(situation, retrain, "rejected", reason, details)


def judge_promotion(
    situation: Situation, promotion: Decision, comparison: dict[str, Any] | None, failure: str
) -> Decision:
    """`rollback` if the version before was better on the days since the promotion, else a skip that closes the case.

    `failure` says why there is no comparison.
    """
    before, version = promotion.details["champion_before"], promotion.model_version
    back = comparison is not None and comparison["better"]
    if comparison is None:
        reason = f"version {version} stays: it cannot be compared with version {before}: {failure}"
    elif back:
        reason = f"version {before} serves again: it beats version {version} on the days since its promotion"
    else:
        reason = f"version {version} stays: version {before} is not clearly better on the same days"
    return Decision(
        id=f"rollback/{version}" if back else rollback_checked_id(promotion),
        kind="rollback" if back else "skip",
        at=situation.at,
        policy="performance",
        trigger=promotion.id,
        reason=reason,
        model_version=before if back else version,
        details={"comparison": comparison, "replaced": version},
    )
