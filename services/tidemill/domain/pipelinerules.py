"""What must hold between the parts of a pipeline file: the mistakes that no single field can show.

Every rule is a generator of `Mistake`s over a well-formed `Pipeline`, so that one run lists all of them. The rules of
sources are in `sourcerules`, those of features in `featurerules`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import NumberField, Pipeline

RESERVED_FIELDS = frozenset(
    (
        "v",
        "id",
        "event_time",
        "known_at",
        "fs",
        "features",
        "status",
        "model",
        "model_version",
        "outputs",
        "decision",
        "bucket",
        "provider",
        "label",
        "label_status",
        "shadow",
    )
)
"""Names that the records of the chain use themselves; an entity, a number or a label may not take one."""

RESERVED_STAGES = frozenset({"outcomes", "inference", "drift", "retrain", "ingest"})
"""Names of other stages: an entity called so would share its state topic and its consumer group."""

EXACT_LIMIT = 2**53
"""Integers below this are exact as float64, so a window's sum divided by its count is rounded once only."""

PLAUSIBLE_ROWS = 1_000_000
"""Rows that one key may hold in its longest window before the fixed-point sums could pass `EXACT_LIMIT`."""

Path = tuple[str | int, ...]


class Mistake(NamedTuple):
    """`path` leads to the part of the file to change: keys as written there, and positions in lists."""

    path: Path
    message: str


def repeated(values: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Position and value of every value that an earlier position already has."""
    seen: set[str] = set()
    for position, value in enumerate(values):
        if value in seen:
            yield position, value
        seen.add(value)


def listed(names: Iterable[str]) -> str:
    """`a, b, c` for a message, or `none`."""
    return ", ".join(names) or "none"


def structure_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong between the parts of `pipeline` but for its sources and features."""
    yield from _event(pipeline)
    yield from _topics(pipeline)
    yield from _outcomes(pipeline)
    yield from _model(pipeline)
    yield from _decision(pipeline)
    yield from _drift(pipeline)
    yield from _retrain(pipeline)


def _event(pipeline: Pipeline) -> Iterator[Mistake]:
    event, label = pipeline.event, pipeline.label
    for position, name in repeated(event.entities):
        yield Mistake(("event", "entities", position), f"the entity {name!r} is named twice")
    for position, name in enumerate(event.entities):
        if name in RESERVED_FIELDS:
            yield Mistake(("event", "entities", position), f"{name!r} is a field of every record; choose another name")
        if name in RESERVED_STAGES:
            yield Mistake(("event", "entities", position), f"{name!r} is the name of a stage; choose another name")
    for name, number in event.numbers.items():
        path: Path = ("event", "numbers", name)
        if name in RESERVED_FIELDS:
            yield Mistake(path, f"{name!r} is a field of every record; choose another name")
        if name in event.entities:
            yield Mistake(path, f"{name!r} is an entity already")
        yield from number_mistakes(number, path)
    for position, name in repeated(event.categories):
        yield Mistake(("event", "categories", position), f"the category {name!r} is named twice")
    for position, name in enumerate(event.categories):
        if name in RESERVED_FIELDS:
            message = f"{name!r} is a field of every record; choose another name"
            yield Mistake(("event", "categories", position), message)
        if name in event.entities or name in event.numbers:
            kind = "an entity, which features may read," if name in event.entities else "a number"
            yield Mistake(("event", "categories", position), f"{name!r} is {kind} already")
    if label.field in RESERVED_FIELDS:
        yield Mistake(("label", "field"), f"{label.field!r} is a field of every record; choose another name")
    if label.field in event.texts or label.field in event.numbers:
        yield Mistake(("label", "field"), f"{label.field!r} is a field of the event; a record with it is a label")


def number_mistakes(number: NumberField, path: Path) -> Iterator[Mistake]:
    """Bounds that leave no value, or let sums grow beyond what is exact."""
    if number.min > number.max:
        yield Mistake(path, f"min {number.min:g} is above max {number.max:g}")
    largest = max(abs(number.min), abs(number.max)) * number.scale
    if largest * PLAUSIBLE_ROWS >= EXACT_LIMIT:
        yield Mistake(
            path,
            f"a window of {PLAUSIBLE_ROWS:,} rows of up to {largest:g} units (largest value × scale) passes 2^53, "
            "beyond which sums are not exact; lower scale, or the bound",
        )


def _topics(pipeline: Pipeline) -> Iterator[Mistake]:
    retention = pipeline.topics.retention_ms
    needed = pipeline.look_back_ms
    if retention is not None and 0 <= retention < needed:
        yield Mistake(
            ("topics", "retention_ms"),
            f"records are needed until {needed} ms after their event (maturity with label_lateness or train_window); "
            f"retention_ms must be -1 or at least that, not {retention}",
        )


def _outcomes(pipeline: Pipeline) -> Iterator[Mistake]:
    if pipeline.outcomes.maturity == 0:
        yield Mistake(("outcomes", "maturity"), "maturity must be above 0: no label is known with its event")
    known = (pipeline.decision.positive, pipeline.decision.negative)
    for position, decision in enumerate(pipeline.outcomes.blocking_decisions):
        if decision not in known:
            yield Mistake(
                ("outcomes", "blocking_decisions", position),
                f"unknown decision {decision!r}; the pipeline decides {listed(known)}",
            )


def _model(pipeline: Pipeline) -> Iterator[Mistake]:
    batching = pipeline.model.batching
    path: Path = ("model", "batching", "buckets")
    if list(batching.buckets) != sorted(set(batching.buckets)) or min(batching.buckets, default=0) < 1:
        yield Mistake(path, f"buckets must be ascending sizes from 1, each once, not {list(batching.buckets)}")
    elif batching.buckets[-1] < batching.max_size:
        yield Mistake(
            path,
            f"a batch of max_size ({batching.max_size}) fits no bucket; the last must be at least that, "
            f"not {batching.buckets[-1]}",
        )


def _decision(pipeline: Pipeline) -> Iterator[Mistake]:
    decision = pipeline.decision
    if decision.positive == decision.negative:
        yield Mistake(("decision", "negative"), f"positive and negative are both {decision.positive!r}")
    fallback = decision.fallback
    number = pipeline.event.numbers.get(fallback.field)
    if number is None:
        yield Mistake(
            ("decision", "fallback", "field"),
            f"unknown field {fallback.field!r}; event.numbers has {listed(pipeline.event.numbers)}",
        )
    elif not number.min <= fallback.above < number.max:
        yield Mistake(
            ("decision", "fallback", "above"),
            f"{fallback.field} lies in {number.min:g} to {number.max:g}, so a rule at {fallback.above:g} "
            "would decide the same for every event",
        )


def _drift(pipeline: Pipeline) -> Iterator[Mistake]:
    for position, name in enumerate(pipeline.drift.ignore):
        if name not in pipeline.feature_names:
            yield Mistake(("drift", "ignore", position), f"unknown feature {name!r}")
    for field in ("statistics_every", "floor_window"):
        if getattr(pipeline.drift, field) == 0:
            yield Mistake(("drift", field), f"{field} must be above 0")


def _retrain(pipeline: Pipeline) -> Iterator[Mistake]:
    retrain = pipeline.retrain
    for position, trigger in repeated(retrain.triggers):
        yield Mistake(("retrain", "triggers", position), f"the trigger {trigger!r} is named twice")
    if "schedule" in retrain.triggers and not retrain.schedule:
        yield Mistake(("retrain", "triggers"), "the trigger schedule needs retrain.schedule, such as 7d")
    if retrain.schedule and "schedule" not in retrain.triggers:
        yield Mistake(("retrain", "schedule"), "add schedule to retrain.triggers, or leave this out")
    if not 0 < retrain.gates.holdout < retrain.train_window:
        yield Mistake(
            ("retrain", "gates", "holdout"),
            f"the holdout is cut from the training window: it must be above 0 and below train_window "
            f"({retrain.train_window} ms), not {retrain.gates.holdout}",
        )
    if retrain.shadow.matured < 2 * DAY_MS:
        yield Mistake(
            ("retrain", "shadow", "matured"), "champion and challenger are compared by days; it must be at least 2d"
        )
