"""One stage of the pipeline file, compiled to the tables that the kernels read."""

import zlib
from dataclasses import dataclass

import numpy as np
import orjson

from tidemill.domain.derivedrules import evaluation_order
from tidemill.domain.durations import DAY_MS
from tidemill.domain.expressions import Expression
from tidemill.domain.expressions import names as expression_names
from tidemill.domain.pipeline import FeatureSpec, Pipeline
from tidemill.features.core.kernels import (
    LABEL,
    NUMBERS,
    OP_COUNT,
    OP_LABEL_RATE,
    OP_MEAN,
    OP_SUM,
    PREFIX,
    SPEC_WIDTH,
    WEIGHT,
    Int64s,
)

_OPERATIONS = {"count": OP_COUNT, "sum": OP_SUM, "mean": OP_MEAN, "label_rate": OP_LABEL_RATE}


@dataclass(frozen=True)
class StageDefinition:
    """What one stage computes. Columns of its matrix stand in the order of the file, as `names`."""

    index: int
    entity: str
    names: tuple[str, ...]
    aggregates: tuple[int, ...]
    """Matrix columns that the windows fill, in the order of `spec`."""
    values: tuple[tuple[int, str], ...]
    """(matrix column, event field) of features that are a field as it is."""
    calendar: tuple[tuple[int, str], ...]
    """(matrix column, `weekend` or `night`)."""
    numbers: tuple[str, ...]
    """Event fields that windows aggregate; field i is value column NUMBERS + i."""
    scales: tuple[int, ...]
    edges: Int64s
    spec: Int64s
    lateness: int
    retention: int
    expiry_grid: int
    """Idle keys are forgotten when the partition's newest event time crosses a multiple of this."""
    derived: tuple[tuple[int, Expression], ...] = ()
    """(matrix column, expression), each behind those it reads."""
    derived_fields: tuple[str, ...] = ()
    """Event fields that expressions read."""
    earlier: tuple[str, ...] = ()
    """Names of the vector that earlier stages made, in its order; empty if no expression reads one of them."""

    @property
    def columns(self) -> int:
        return NUMBERS + len(self.numbers)

    @property
    def fields(self) -> tuple[str, ...]:
        """The numeric event fields this stage reads, each once; the first ones are `numbers`."""
        return tuple(dict.fromkeys((*self.numbers, *(field for _, field in self.values), *self.derived_fields)))

    @property
    def fingerprint(self) -> int:
        """32 bits over what the rows of a changelog mean; rows of another fingerprint cannot be continued."""
        meaning = [PREFIX, self.entity, self.numbers, self.scales, self.retention, self.lateness]
        return zlib.crc32(orjson.dumps(meaning))


def compile_stage(pipeline: Pipeline, index: int) -> StageDefinition:
    """Compile stage `index`. Assumes a validated pipeline (fields that exist, windows where an aggregate needs one).

    A row is kept for the longest look-back plus the lateness of events, and at least until its label may come.
    Lateness is judged in the first stage. A later stage sees a key's events out of order whenever two primary keys
    are, so it takes whatever is no older than a label may be.
    """
    features = pipeline.features
    stage = features.stages[index]
    late = features.allowed_lateness if index == 0 else max(features.allowed_lateness, features.label_lateness)
    windowed = [(at, feature) for at, feature in enumerate(stage.features) if feature.aggregate is not None]
    numbers = tuple(dict.fromkeys(feature.field for _, feature in windowed if feature.field is not None))
    scales = tuple(pipeline.event.numbers[name].scale for name in numbers)
    offsets = sorted({offset for _, feature in windowed for offset in _edges(feature)})
    spec = np.zeros((len(windowed), SPEC_WIDTH), np.int64)
    for row, (_, feature) in enumerate(windowed):
        near, far = _edges(feature)
        column, scale = WEIGHT, 1
        if feature.field is not None:
            position = numbers.index(feature.field)
            column, scale = NUMBERS + position, scales[position]
        elif feature.aggregate == "label_rate":
            column = LABEL
        assert feature.aggregate is not None
        spec[row] = (_OPERATIONS[feature.aggregate], offsets.index(near), offsets.index(far), column, scale)
    names = tuple(feature.name for feature in stage.features)
    derived = evaluation_order(stage)
    before = tuple(feature.name for one in features.stages[:index] for feature in one.features)
    read = {(feature, name.name) for feature, tree in derived for name in expression_names(tree)}
    made_before = {name for _, name in read}.intersection(before)
    # A feature of the name goes before a field, but for its own expression.
    of_event = {name for feature, name in read if name not in before and (name == feature or name not in names)}
    longest = max(offsets, default=0)
    retention = max(longest, features.label_lateness) + late
    return StageDefinition(
        index=index,
        entity=stage.entity,
        names=names,
        aggregates=tuple(at for at, _ in windowed),
        values=tuple((at, feature.value) for at, feature in enumerate(stage.features) if feature.value is not None),
        calendar=tuple((at, f.calendar) for at, f in enumerate(stage.features) if f.calendar is not None),
        numbers=numbers,
        scales=scales,
        edges=np.array(offsets, np.int64),
        spec=spec,
        lateness=late,
        retention=retention,
        expiry_grid=max(60_000, min(DAY_MS, retention // 4)),
        derived=tuple((names.index(name), tree) for name, tree in derived),
        derived_fields=tuple(field for field in pipeline.event.numbers if field in of_event),
        earlier=before if made_before else (),
    )


def _edges(feature: FeatureSpec) -> tuple[int, int]:
    """(near, far) offsets of (t − delay − window, t − delay]."""
    return feature.delay, feature.delay + (feature.window or 0)
