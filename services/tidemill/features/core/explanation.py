"""What each feature of a pipeline means, costs and remembers, in words: derived from what the kernels are given.

A new kind of feature is described in one of three places: `_CALENDAR`, `_interval` (how a window is written) and
`_AGGREGATES` (what is computed over it, when it is null, what it costs).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tidemill.domain.durations import format_duration_ms
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.statebounds import Merging, bucket_of, merging_of, of_sums
from tidemill.domain.windows import (
    CountWindow,
    DecayWindow,
    HoppingWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    Window,
)
from tidemill.features.core import rings
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.summaryexplanation import SummaryExplanation, explain_summaries

Cost = Literal["field", "calendar", "expression", "prefix sums", "ends", "walk"]

COSTS: Mapping[Cost, str] = {
    "field": "copied from the event",
    "calendar": "arithmetic on the event's own time",
    "expression": "arithmetic on other columns of the same event",
    "prefix sums": "O(1): the difference of two prefix sums at two cursors, however many rows the window holds",
    "ends": "the rows at one end of the window, until enough are found",
    "walk": "O(rows of the window): every row is looked at again for each event",
}
"""Classes of work an event costs, cheapest first."""

NEVER_NULL = "never null"


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
    """What a stage holds for each key: `example_bytes` is exact for `example_rows` rows, `formula` for any number.
    `bounds` says what is merged and where a partition is full; empty where nothing is bounded."""

    entity: str
    lateness: str
    retention: str
    row_bytes: int
    line_bytes: int
    formula: str
    example_rows: int
    example_bytes: int
    bounds: tuple[str, ...]
    features: tuple[FeatureExplanation, ...]
    summaries: tuple[SummaryExplanation, ...] = ()


@dataclass(frozen=True, slots=True)
class PipelineExplanation:
    """All stages in the order in which records pass them; `feature_set` is the hash that vectors carry."""

    pipeline: str
    version: int
    feature_set: str
    stages: tuple[StageExplanation, ...]


class _Aggregate(NamedTuple):
    """`definition` may name {field}, {scale}, {label}, {k}, {q}, {equals} and {events}, which are those it takes."""

    definition: str
    null: str
    cost: Cost


_CALENDAR: Mapping[str, str] = {
    "weekend": "1 if the event's time is on a Saturday or Sunday, UTC; else 0",
    "night": "1 if the event's time is from 00:00 to before 07:00, UTC; else 0",
}

_NULL = "null over no event"
_ROUNDED = "{field}, each rounded to 1/{scale},"
_AGGREGATES: Mapping[str, _Aggregate] = {
    "count": _Aggregate("number of {events}", f"{NEVER_NULL}: 0 over no event", "prefix sums"),
    "sum": _Aggregate(f"sum of {_ROUNDED} over the {{events}}", f"{NEVER_NULL}: 0 over no event", "prefix sums"),
    "mean": _Aggregate(f"sum of {_ROUNDED} divided by the number of {{events}}", _NULL, "prefix sums"),
    "std": _Aggregate(
        f"population standard deviation of {_ROUNDED} over the {{events}}, exact but for one rounding",
        _NULL,
        "prefix sums",
    ),
    "min": _Aggregate(f"smallest {_ROUNDED} of the {{events}}", _NULL, "walk"),
    "max": _Aggregate(f"largest {_ROUNDED} of the {{events}}", _NULL, "walk"),
    "first": _Aggregate(f"{_ROUNDED} of the oldest of the {{events}}", _NULL, "ends"),
    "last": _Aggregate(
        f"{_ROUNDED} of the newest {{k}} of the {{events}}, the newest first", "null where there are fewer", "ends"
    ),
    "quantile": _Aggregate(
        f"the value of {_ROUNDED} at rank ⌊{{q}}·(n − 1)⌋ of the {{events}}, within 1 % by a log-bucketed sketch",
        _NULL,
        "walk",
    ),
    "distinct": _Aggregate(
        "number of different values of {field} in the {events}: exact up to 4,096, then HyperLogLog "
        "with a standard error of 1.6 %",
        _NULL,
        "walk",
    ),
    "since_last": _Aggregate(
        "seconds from the newest of the {events} but the event itself, to the event", "null without one", "ends"
    ),
    "ratio_to_mean": _Aggregate(
        f"the event's own {{field}} divided by the mean of {_ROUNDED} over the {{events}}",
        f"{_NULL}, and where the mean is 0",
        "prefix sums",
    ),
    "share": _Aggregate("share of the {events} whose {field} is {equals!r}", _NULL, "prefix sums"),
    "label_rate": _Aggregate(
        "share of the {events} whose {label} is known to be 1; one without a label counts as 0",
        f"{NEVER_NULL}: 0 over no event",
        "prefix sums",
    ),
}


def _interval(window: Window, delay: int) -> str:
    """How the window of an event at t is written; u is t less the delay."""
    span = format_duration_ms
    u = f"t − {span(delay)}" if delay else "t"
    match window:
        case SlidingWindow():
            return f"(t − {span(delay + window.size)}, {u}]"
        case TumblingWindow():
            return f"[the last multiple of {span(window.size)} at or before {u}, {u}]"
        case HoppingWindow():
            before = f" − {span(window.size - window.hop)}" if window.size > window.hop else ""
            return f"[the last multiple of {span(window.hop)} at or before {u}{before}, {u}]"
        case SessionWindow():
            return f"back from {u} to the first silence over {span(window.gap)}, {span(window.within)} at most"
        case CountWindow():
            return f"the last {window.last} at or before {u}, {span(window.within)} old at most"
        case DecayWindow():
            return f"(t − {span(delay + window.reach)}, {u}], weighted by 2^(−age / {span(window.half_life)})"


def explain(pipeline: Pipeline, example_rows: int) -> PipelineExplanation:
    """Assumes a validated pipeline. `example_rows` ≥ 1 rows a key is what the example of each stage is for."""
    stages = []
    for index, stage in enumerate(pipeline.features.stages):
        compiled = compile_stage(pipeline, index)
        row, line = compiled.row_bytes, compiled.line_bytes
        stages.append(
            StageExplanation(
                entity=stage.entity,
                lateness=format_duration_ms(compiled.lateness),
                retention=format_duration_ms(compiled.retention),
                row_bytes=row,
                line_bytes=line,
                formula=f"{line} + {row} × rows rounded up to a power of two, at least {rings.SMALLEST_RING}",
                example_rows=example_rows,
                example_bytes=line + row * _ring(example_rows),
                bounds=tuple(_bounds(pipeline, index)),
                features=tuple(explain_feature(pipeline, stage.entity, feature) for feature in stage.features),
                summaries=explain_summaries(pipeline, index),
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
    if feature.one_hot is not None:
        named = zip(feature.columns, feature.values or (), strict=False)
        shown = [f"1 in {name} if it is {text!r}" for name, text in named]
        shown += [f"1 in {feature.columns[-1]} if it is none of them"] if feature.other else []
        definition = f"the event's {feature.one_hot}: {', '.join(shown)}; else 0"
        return FeatureExplanation(feature.name, entity, definition, "", NEVER_NULL, "field")
    if feature.expression is not None:
        null = "null where an input is null, or beyond a function's domain (x ÷ 0, log of 0 or less)"
        return FeatureExplanation(feature.name, entity, feature.expression.strip(), "", null, "expression")
    assert feature.aggregate is not None and feature.shape is not None
    aggregate = _AGGREGATES[feature.aggregate]
    interval = _interval(feature.shape, feature.delay)
    number = pipeline.fields_of(feature.stream).numbers.get(feature.field or "")
    text, null, kind = aggregate.definition, aggregate.null, "events"
    if feature.stream is not None:
        kind = f"records of {feature.stream}"
        text, null = text.replace(" but the event itself", ""), null.replace("no event", "no record")
    definition = text.format(
        events=f"{kind} of the {entity} in {interval}" + (f" where {feature.where}" if feature.where else ""),
        field=feature.field,
        scale=number.scale if number is not None else 1,
        label=pipeline.label.field,
        k=feature.k or 1,
        q=feature.q,
        equals=feature.equals,
    )
    merging = merging_of(pipeline.features, [stage.entity for stage in pipeline.features.stages].index(entity))
    if merging is not None and _may_be_merged(feature, merging):
        cell = format_duration_ms(merging.bucket)
        definition += f"; where rows are merged, exact but for the cells of {cell} at its edges"
    walks = isinstance(feature.shape, SessionWindow | CountWindow | DecayWindow)
    cost: Cost = "walk" if walks else aggregate.cost
    return FeatureExplanation(feature.name, entity, definition, interval, null, cost)


def _may_be_merged(feature: FeatureSpec, merging: Merging) -> bool:
    return of_sums(feature) if merging.max_rows else bucket_of(feature) is not None


def _bounds(pipeline: Pipeline, index: int) -> Iterator[str]:
    """One sentence each."""
    merging, limits = merging_of(pipeline.features, index), pipeline.features.state_limits
    if merging is not None:
        of = f" of a key with more than {merging.max_rows:,} rows" if merging.max_rows else ""
        yield (
            f"Rows{of} older than {format_duration_ms(merging.settled_after)} behind the key's newest are merged, one "
            f"row a cell of {format_duration_ms(merging.bucket)}; a cell has the time of its newest event."
        )
    if limits is not None:
        caps = [f"{most:,} {what}" for most, what in ((limits.max_keys, "keys"), (limits.max_bytes, "bytes")) if most]
        full = {"stop": "the service stops", "evict": "the keys whose newest event is oldest are forgotten"}
        yield f"A partition holds up to {' and '.join(caps)}; when it is full, {full[limits.when_full]}."


def _ring(rows: int) -> int:
    return max(rings.SMALLEST_RING, int(1 << (rows - 1).bit_length()))
