"""What each feature of a pipeline means, costs and remembers, in words: derived from what the kernels are given.

A new kind of feature is described in one of three tables: `_CALENDAR`, `_WINDOWS` (how a window is written as an
interval) and `_AGGREGATES` (what is computed over it, when it is null, what it costs).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tidemill.domain.durations import format_duration_ms
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import FeatureSpec, Pipeline
from tidemill.features.core import kernels
from tidemill.features.core.definition import StageDefinition, compile_stage

Cost = Literal["field", "calendar", "expression", "prefix sums", "walk"]

COSTS: Mapping[Cost, str] = {
    "field": "copied from the event",
    "calendar": "arithmetic on the event's own time",
    "expression": "arithmetic on other columns of the same event",
    "prefix sums": "O(1): the difference of two prefix sums at two cursors, however many rows the window holds",
    "walk": "O(rows of the window): every row is looked at again for each event",
}
"""Classes of work an event costs, cheapest first."""

NEVER_NULL = "never null"
_WORD_BYTES = 8


@dataclass(frozen=True, slots=True)
class FeatureExplanation:
    """One column of the vector. `interval` is in event time, t being the event's own; empty without a window."""

    name: str
    stage: str
    definition: str
    interval: str
    null: str
    cost: Cost


@dataclass(frozen=True, slots=True)
class StageExplanation:
    """What a stage holds for each key: `memory_bytes` is exact for `example_rows` rows, `formula` for any number."""

    entity: str
    lateness: str
    retention: str
    row_bytes: int
    line_bytes: int
    formula: str
    example_rows: int
    example_bytes: int
    features: tuple[FeatureExplanation, ...]


@dataclass(frozen=True, slots=True)
class PipelineExplanation:
    """All stages in the order in which records pass them; `feature_set` is the hash that vectors carry."""

    pipeline: str
    version: int
    feature_set: str
    stages: tuple[StageExplanation, ...]


class _Aggregate(NamedTuple):
    """`definition` may name {entity}, {field}, {scale}, {label} and {interval}."""

    definition: str
    null: str
    cost: Cost


_CALENDAR: Mapping[str, str] = {
    "weekend": "1 if the event's time is on a Saturday or Sunday, UTC; else 0",
    "night": "1 if the event's time is from 00:00 to before 07:00, UTC; else 0",
}

_AGGREGATES: Mapping[str, _Aggregate] = {
    "count": _Aggregate(
        "number of events of the {entity} in {interval}", f"{NEVER_NULL}: 0 over no event", "prefix sums"
    ),
    "sum": _Aggregate(
        "sum of {field}, each rounded to 1/{scale}, over the events of the {entity} in {interval}",
        f"{NEVER_NULL}: 0 over no event",
        "prefix sums",
    ),
    "mean": _Aggregate(
        "sum of {field}, each rounded to 1/{scale}, divided by the number of events of the {entity} in {interval}",
        "null over no event",
        "prefix sums",
    ),
    "label_rate": _Aggregate(
        "share of the events of the {entity} in {interval} whose {label} is known to be 1; one without a label counts "
        "as 0",
        f"{NEVER_NULL}: 0 over no event",
        "prefix sums",
    ),
}


def _sliding(feature: FeatureSpec) -> str:
    near, far = feature.delay, feature.delay + (feature.window or 0)
    end = f"t − {format_duration_ms(near)}" if near else "t"
    return f"(t − {format_duration_ms(far)}, {end}]"


_WINDOWS: Mapping[str, Callable[[FeatureSpec], str]] = {"sliding": _sliding}


def explain(pipeline: Pipeline, example_rows: int) -> PipelineExplanation:
    """Assumes a validated pipeline. `example_rows` ≥ 1 rows a key is what the example of each stage is for."""
    stages = []
    for index, stage in enumerate(pipeline.features.stages):
        compiled = compile_stage(pipeline, index)
        row, line = row_bytes(compiled), line_bytes(compiled)
        stages.append(
            StageExplanation(
                entity=stage.entity,
                lateness=format_duration_ms(compiled.lateness),
                retention=format_duration_ms(compiled.retention),
                row_bytes=row,
                line_bytes=line,
                formula=f"{line} + {row} × rows rounded up to a power of two, at least {kernels.SMALLEST_RING}",
                example_rows=example_rows,
                example_bytes=line + row * _ring(example_rows),
                features=tuple(explain_feature(pipeline, stage.entity, feature) for feature in stage.features),
            )
        )
    return PipelineExplanation(pipeline.name, pipeline.features.version, feature_set_hash(pipeline), tuple(stages))


def explain_feature(pipeline: Pipeline, entity: str, feature: FeatureSpec) -> FeatureExplanation:
    """One feature of the stage of `entity`."""
    if feature.calendar is not None:
        return FeatureExplanation(feature.name, entity, _CALENDAR[feature.calendar], "", NEVER_NULL, "calendar")
    if feature.value is not None:
        definition = f"the event's {feature.value} as it came"
        return FeatureExplanation(feature.name, entity, definition, "", NEVER_NULL, "field")
    if feature.expression is not None:
        null = "null where an input is null, or beyond a function's domain (x ÷ 0, log of 0 or less)"
        return FeatureExplanation(feature.name, entity, feature.expression.strip(), "", null, "expression")
    aggregate = _AGGREGATES[feature.aggregate or ""]
    interval = _WINDOWS["sliding"](feature)
    number = pipeline.event.numbers.get(feature.field or "")
    definition = aggregate.definition.format(
        entity=entity,
        field=feature.field,
        scale=number.scale if number is not None else 1,
        label=pipeline.label.field,
        interval=interval,
    )
    return FeatureExplanation(feature.name, entity, definition, interval, aggregate.null, aggregate.cost)


def row_bytes(stage: StageDefinition) -> int:
    """An event is a row, and its label, once known, another."""
    return _WORD_BYTES * (kernels.PREFIX + stage.columns)


def line_bytes(stage: StageDefinition) -> int:
    """What a key costs beside its rows."""
    return _WORD_BYTES * (kernels.FIXED + stage.columns + len(stage.edges))


def _ring(rows: int) -> int:
    return max(kernels.SMALLEST_RING, int(1 << (rows - 1).bit_length()))
