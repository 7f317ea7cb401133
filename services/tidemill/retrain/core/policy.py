"""When to train, and when not: pure functions of the situation and the pipeline's retrain section.

A cause (an alarm, a due schedule, a request, the lack of any model) either starts a training or meets an obstacle. An
obstacle that a user would ask about is recorded once as a `skip`; the cause stays and is looked at again. Ids are made
of the version or of (policy, obstacle, last training), so deciding twice writes the same decision.
"""

from dataclasses import dataclass
from typing import Literal

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.retrain.core.records import FLOOR_DETECTOR, Decision, Policy
from tidemill.retrain.core.situation import SeenAlarm, Situation

BUDGET_PERIOD_MS = 30 * DAY_MS
TRAININGS_PER_ALARM = 3
"""An alarm whose trainings were all refused or rejected is given up after this many; a new one starts afresh."""
_ALARMS_NAMED = 20


@dataclass(frozen=True, slots=True)
class ManualRequest:
    """Somebody asked for a training; `id` makes a repeated request the same cause."""

    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cause:
    policy: Policy
    trigger: str
    reason: str
    alarms: tuple[SeenAlarm, ...] = ()
    quiet: bool = False
    """Waiting is the normal case, not worth a record."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    name: str
    reason: str


def decide(situation: Situation, pipeline: Pipeline, manual: ManualRequest | None = None) -> list[Decision]:
    """New decisions to record, in order: any number of skips, at most one retrain. Empty once they are folded in."""
    decisions: list[Decision] = []
    for cause in _causes(situation, pipeline, manual):
        obstacle = _obstacle(situation, pipeline, cause)
        if obstacle is None:
            decisions.append(_retrain(situation, pipeline, cause))
            break
        if not cause.quiet:
            decisions.append(_skip(situation, cause, obstacle))
    return [decision for decision in decisions if decision.id not in situation.decisions]


def pending_alarms(situation: Situation) -> list[SeenAlarm]:
    """Alarms on the champion that no training in progress answers and none before has used up, oldest first."""
    answered_to = situation.in_progress.details["drift_offset"] if situation.in_progress else -1

    def trainings_since(seen: SeenAlarm) -> int:
        return sum(training.details["drift_offset"] >= seen.offset for training in situation.trainings)

    return [
        seen
        for seen in situation.alarms_on_champion()
        if seen.offset > answered_to and trainings_since(seen) < TRAININGS_PER_ALARM
    ]


def rollback_due(situation: Situation, pipeline: Pipeline) -> Decision | None:
    """The promotion to question: a floor alarm names the new champion soon after it replaced an older version.

    Asked once a promotion, when as many of its days have matured as a shadow phase has, whatever else goes on.
    """
    promotion, watermark = situation.promotion, situation.watermark
    if promotion is None or watermark is None or promotion.kind != "promoted":
        return None
    if promotion.details.get("champion_before") is None or rollback_checked_id(promotion) in situation.decisions:
        return None
    judged_from = promotion.at + pipeline.outcomes.maturity + pipeline.retrain.shadow.matured
    floor = any(seen.alarm.detector == FLOOR_DETECTOR for seen in situation.alarms_on_champion())
    return promotion if floor and judged_from <= watermark <= judged_from + 2 * pipeline.drift.floor_window else None


def rollback_checked_id(promotion: Decision) -> str:
    return f"skip/performance/rollback/{promotion.model_version}"


def evaluation_due_at(candidate: Decision, pipeline: Pipeline) -> int:
    """The watermark before which a shadow phase cannot be over: scores begin a maturity after what has matured."""
    return candidate.at + pipeline.outcomes.maturity + pipeline.retrain.shadow.matured


def evaluation_given_up_at(candidate: Decision, pipeline: Pipeline) -> int:
    """The watermark at which a candidate without enough shadow scores is rejected: inference never took it up."""
    return candidate.at + pipeline.outcomes.maturity + 4 * pipeline.retrain.shadow.matured


def _causes(situation: Situation, pipeline: Pipeline, manual: ManualRequest | None) -> list[Cause]:
    spec, statistics = pipeline.retrain, situation.statistics
    causes: list[Cause] = []
    if manual is not None:
        causes.append(Cause("manual", manual.id, manual.reason))
    if statistics is None:
        return causes
    if situation.champion is None and "initial" in spec.triggers:
        causes.append(Cause("initial", statistics.id, "no model serves yet", quiet=True))
    pending = pending_alarms(situation)
    performance = tuple(seen for seen in pending if seen.alarm.policy == "performance")
    if performance and "performance" in spec.triggers:
        causes.append(_alarmed("performance", performance, "the champion's scores on matured outcomes got worse"))
    drift = tuple(seen for seen in pending if seen.alarm.policy == "drift")
    detectors = {seen.alarm.detector for seen in drift}
    if len(detectors) >= spec.quorum and drift and "drift" in spec.triggers:
        causes.append(_alarmed("drift", drift, "the stream left the champion's training data"))
    if spec.schedule is not None and "schedule" in spec.triggers and situation.trainings:
        last = situation.trainings[-1].at
        if statistics.watermark >= last + spec.schedule:
            causes.append(Cause("schedule", statistics.id, f"the last training was at {last}", quiet=True))
    return causes


def _alarmed(policy: Policy, alarms: tuple[SeenAlarm, ...], what: str) -> Cause:
    names = ", ".join(sorted({seen.alarm.detector for seen in alarms}))
    return Cause(policy, alarms[0].alarm.id, f"{what} ({names})", alarms)


def _obstacle(situation: Situation, pipeline: Pipeline, cause: Cause) -> Obstacle | None:
    spec, statistics = pipeline.retrain, situation.statistics
    needed = spec.train_window + spec.gates.holdout
    if cause.policy not in spec.triggers:
        return Obstacle("disabled", f"the pipeline file does not list {cause.policy} among its triggers")
    if statistics is None or situation.stream_start is None:
        return Obstacle("too-little-history", "no outcome has matured yet")
    watermark = statistics.watermark
    if situation.in_progress is not None:
        return Obstacle("busy", f"version {situation.in_progress.model_version} is in {situation.phase}")
    if watermark < situation.stream_start + needed:
        return Obstacle("too-little-history", f"{needed} ms of outcomes are needed from {situation.stream_start} on")
    if statistics.positives < spec.gates.min_positives:
        return Obstacle("too-few-positives", f"{statistics.positives} positives, {spec.gates.min_positives} needed")
    if situation.trainings:
        free_at = situation.trainings[-1].at + max(spec.cooldown, 1)
        if watermark < free_at:
            return Obstacle("cooldown", f"the cooldown lasts until the watermark reaches {free_at}")
    spent = sum(training.at > watermark - BUDGET_PERIOD_MS for training in situation.trainings)
    if spent >= spec.budget_per_30d:
        return Obstacle("budget", f"{spent} trainings in the last 30 days, the budget is {spec.budget_per_30d}")
    return None


def _retrain(situation: Situation, pipeline: Pipeline, cause: Cause) -> Decision:
    """The training's exact range, version and seed are part of the decision: a redo after a crash trains the same."""
    spec, version = pipeline.retrain, situation.next_version
    watermark = situation.at
    holdout_from = watermark - spec.gates.holdout
    details = {
        "train_from": holdout_from - spec.train_window,
        "train_to": holdout_from,
        "holdout_to": watermark,
        "seed": spec.seed + version,
        "champion": situation.champion,
        **_alarm_details(situation, cause),
    }
    if spec.dry_run:
        return Decision(
            id=f"skip/{cause.policy}/dry-run/{len(situation.trainings)}",
            kind="skip",
            at=watermark,
            policy=cause.policy,
            trigger=cause.trigger,
            reason=f"dry run: version {version} would be trained because {cause.reason}",
            model_version=None,
            details={**details, "obstacle": "dry-run", "dry_run": True},
        )
    return Decision(
        id=f"retrain/{version}",
        kind="retrain",
        at=watermark,
        policy=cause.policy,
        trigger=cause.trigger,
        reason=f"train version {version}: {cause.reason}",
        model_version=version,
        details=details,
    )


def _skip(situation: Situation, cause: Cause, obstacle: Obstacle) -> Decision:
    # A request is a cause of its own; alarms share one skip until the next training, or a storm would flood the topic.
    about = cause.trigger if cause.policy == "manual" else f"{situation.champion or 0}/{len(situation.trainings)}"
    return Decision(
        id=f"skip/{cause.policy}/{obstacle.name}/{about}",
        kind="skip",
        at=situation.at,
        policy=cause.policy,
        trigger=cause.trigger,
        reason=f"no training although {cause.reason}: {obstacle.reason}",
        model_version=situation.champion,
        details={"obstacle": obstacle.name, **_alarm_details(situation, cause)},
    )


def _alarm_details(situation: Situation, cause: Cause) -> dict[str, object]:
    return {
        "drift_offset": situation.drift_offset,
        "alarms": len(cause.alarms),
        "detectors": sorted({seen.alarm.detector for seen in cause.alarms})[:_ALARMS_NAMED],
    }


Work = Literal["train", "evaluate", "question"]


def work_due(situation: Situation, pipeline: Pipeline) -> Work | None:
    """What the training process should do now: question the last promotion, train the version in progress, or
    evaluate the candidate in shadow."""
    if rollback_due(situation, pipeline):
        return "question"
    if situation.in_progress is None:
        return None
    if situation.candidate is None:
        return "train"
    return "evaluate" if situation.at >= evaluation_due_at(situation.candidate, pipeline) else None
