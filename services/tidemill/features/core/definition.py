"""One stage of the pipeline file, compiled to the tables that the kernels read."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import orjson

from tidemill.domain.derivedrules import evaluation_order
from tidemill.domain.durations import DAY_MS
from tidemill.domain.expressions import Expression
from tidemill.domain.expressions import names as expression_names
from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.filters import parse_filter
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.statebounds import Merging, feature_retention_of, lateness_of, lead_of, merging_of, retention_of
from tidemill.domain.windows import (
    CountWindow,
    DecayWindow,
    HoppingWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    Window,
)
from tidemill.features.core import kernels, merging, scan
from tidemill.features.core.bounds import Caps, bounds_table
from tidemill.features.core.columns import (
    Column,
    Conditions,
    Kind,
    StreamColumn,
    conditions_of,
    fields_of,
    ordered,
    text_condition,
)
from tidemill.features.core.rings import FIXED, LABEL, NUMBERS, PREFIX, WEIGHT, Int64s
from tidemill.features.core.summarydefinition import compile_summaries

_SUMMED = {
    "count": kernels.OP_COUNT,
    "sum": kernels.OP_SUM,
    "mean": kernels.OP_MEAN,
    "label_rate": kernels.OP_LABEL_RATE,
    "share": kernels.OP_SHARE,
}
_SCANNED = {
    "min": scan.OP_MIN,
    "max": scan.OP_MAX,
    "first": scan.OP_FIRST,
    "last": scan.OP_LAST,
    "distinct": scan.OP_DISTINCT,
    "quantile": scan.OP_QUANTILE,
    "since_last": scan.OP_SINCE_LAST,
}
_DECAYED = {"count": scan.OP_DECAYED_COUNT, "sum": scan.OP_DECAYED_SUM, "mean": scan.OP_DECAYED_MEAN}

_MILLION = 1_000_000
_WORD_BYTES = 8


@dataclass(frozen=True)
class Tables:
    """What the kernels read; the layouts are in `kernels`."""

    edges: Int64s
    walks: Int64s
    spec: Int64s
    scans: Int64s
    gates: Int64s

    @property
    def rowwise(self) -> bool:
        """Whether anything looks at rows one by one (`scan`)."""
        return len(self.walks) + len(self.scans) > 0


@dataclass(frozen=True)
class OneHot:
    """Matrix columns from `column` on: 1 where the text `field` is `values[i]`, then with `other` where it is none."""

    column: int
    field: str
    values: tuple[str, ...]
    other: bool


@dataclass(frozen=True)
class StageDefinition:
    """What one stage computes. Columns of its matrix stand in the order of the file, as `names`."""

    index: int
    entity: str
    names: tuple[str, ...]
    aggregates: tuple[int, ...]
    """Matrix columns that the windows fill, in the order of the engine's output."""
    values: tuple[tuple[int, str], ...]
    """(matrix column, event field) of features that are a field as it is."""
    calendar: tuple[tuple[int, str], ...]
    """(matrix column, `weekend` or `night`)."""
    kept: tuple[Column, ...]
    """What a row holds; column i of it is value column NUMBERS + i."""
    numbers: tuple[str, ...]
    """Number fields that `kept` is made from, and `scales` theirs."""
    scales: tuple[int, ...]
    texts: tuple[str, ...]
    """Text fields that `kept`, `summarized` and `one_hots` are made from."""
    tables: Tables
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
    summarized: tuple[Column, ...] = ()
    """What an event brings to the summaries."""
    streams: tuple[str, ...] = ()
    """Second streams that the stage joins: `kept` begins with a column for each that counts its records."""
    stream_scales: tuple[tuple[str, str, int], ...] = ()
    """(stream, number field, scale) of what `kept` holds of them."""
    lead: int = 0
    """A stream's record moves its key's time as an event so much older would."""
    feature_retention: int = 0
    """How long rows would stay if there were no summaries, which change no meaning of a row; 0: as long."""
    one_hots: tuple[OneHot, ...] = ()
    merging: Merging | None = None
    caps: Caps | None = None

    @property
    def columns(self) -> int:
        return NUMBERS + len(self.kept)

    @property
    def kept_as_read(self) -> bool:
        """Whether the columns kept are the number fields as they are, in their order."""
        return self.kept == tuple(Column("value", name, ()) for name in self.numbers)

    @property
    def fields(self) -> tuple[str, ...]:
        """The numeric event fields this stage reads, each once; the first ones are `numbers`."""
        read = (*self.numbers, *(field for _, field in self.values), *self.derived_fields)
        return tuple(dict.fromkeys((*read, *fields_of(self.summarized, texts=False))))

    @property
    def row_bytes(self) -> int:
        """An event is a row, and its label, once known, another."""
        return _WORD_BYTES * (PREFIX + self.columns)

    @property
    def line_bytes(self) -> int:
        """What a key costs beside its rows."""
        words = FIXED + self.columns + len(self.tables.edges)
        return _WORD_BYTES * (words + (merging.MERGED_WORDS if self.merging else 0))

    @property
    def bounds(self) -> Int64s | None:
        """What the kernels read of `merging` and `caps`."""
        return bounds_table(self.merging, self.caps, self.row_bytes, self.line_bytes)

    @property
    def fingerprint(self) -> int:
        """32 bits over what the rows of a changelog mean; rows of another fingerprint cannot be continued."""
        meaning = [PREFIX, self.entity, list(map(repr, self.kept)), self.numbers, self.scales]
        meaning += [self.feature_retention or self.retention, self.lateness]
        if self.streams:
            meaning += [self.stream_scales, self.lead]
        if self.merging is not None:
            meaning += [self.merging.bucket, self.merging.settled_after]
        return zlib.crc32(orjson.dumps(meaning))


class _Compiler:
    """Collects edges, columns and lines while it goes through the features of one stage."""

    def __init__(self, scales: Mapping[str | None, Mapping[str, int]], streams: Sequence[str]) -> None:
        """`scales` by field, of events (None) and of each stream; `streams` are those joined."""
        self._scales = scales
        self._streams = tuple(streams)
        self._plain: set[int] = set()
        self._grids: dict[tuple[int, ...], None] = {}
        self._walks: dict[tuple[int, ...], None] = {}
        self.kept: dict[Column, None] = dict.fromkeys(StreamColumn("taken", None, (), name) for name in streams)
        self._lines: list[tuple[FeatureSpec, Window, int]] = []
        self.width = 0

    def add(self, feature: FeatureSpec) -> None:
        window, delay = feature.shape, feature.delay
        assert window is not None and feature.aggregate is not None
        far = self._far(feature, window)
        self._plain |= {delay, far[0]} if far[1:] == (0, 0) else {delay}
        if len(far) == scan.WALK_WIDTH:
            self._walks[far] = None
        elif far[1]:
            self._grids[far] = None
        self._lines.append((feature, window, self.width))
        self.width += len(feature.columns)

    def tables(self) -> Tables:
        """Call once, after every `add`."""
        plain = sorted(self._plain)
        edges: list[tuple[int, ...]] = [*((offset, 0, 0) for offset in plain), *self._grids]
        walks = [(kind, plain.index(delay), *how) for kind, delay, *how in self._walks]
        numbered = {edge: at for at, edge in enumerate([*edges, *self._walks])}
        spec: list[tuple[int, ...]] = []
        scans: list[tuple[int, ...]] = []
        for feature, window, out in self._lines:
            near = plain.index(feature.delay)
            far = numbered[self._far(feature, window)]
            operation, column, scale, taken, other = self._line(feature, window)
            line = (operation, near, far, column, scale, taken, other, out)
            (scans if operation >= scan.OP_MIN else spec).append(line)
        gates = [-1] * (NUMBERS + len(self.kept))
        for column, kept in enumerate(self.kept, start=NUMBERS):
            if kept.kind == "label":
                gates[column] = self._column(Column("taken", None, kept.where))
        return Tables(
            edges=_table(edges, scan.EDGE_WIDTH),
            walks=_table(walks, scan.WALK_WIDTH),
            spec=_table(spec, scan.SPEC_WIDTH),
            scans=_table(scans, scan.SPEC_WIDTH),
            gates=np.array(gates, np.int64),
        )

    def _line(self, feature: FeatureSpec, window: Window) -> tuple[int, int, int, int, int]:
        """(operation, value column, scale, column of rows taken, one other number)."""
        aggregate, field = str(feature.aggregate), feature.field
        scales, of = self._scales[feature.stream], feature.stream
        where = conditions_of(parse_filter(feature.where) if feature.where else None, scales)
        taken = self._kept("taken", None, where, of) if where or of else WEIGHT
        scale = scales.get(field or "", 1)
        if isinstance(window, DecayWindow):
            column = self._kept("value", field, where, of) if field else taken
            return _DECAYED[aggregate], column, scale, taken, window.half_life
        if aggregate in ("sum", "mean"):
            return _SUMMED[aggregate], self._kept("value", field, where, of), scale, taken, 0
        if aggregate == "std":
            column = self._kept("value", field, where, of)
            squares = self._kept("square_low", field, where, of)
            assert self._kept("square_high", field, where, of) == squares + 1
            return scan.OP_STD, column, scale, taken, squares
        if aggregate == "ratio_to_mean":
            own = self._column(Column("value", field, ()))
            return scan.OP_RATIO_TO_MEAN, self._column(Column("value", field, where)), scale, taken, own
        if aggregate == "share":
            both = ordered((*where, text_condition(field or "", "==", feature.equals or "")))
            return kernels.OP_SHARE, self._column(Column("taken", None, both)), 1, taken, 0
        if aggregate == "label_rate":
            return kernels.OP_LABEL_RATE, self._column(Column("label", None, where)) if where else LABEL, 1, taken, 0
        if aggregate == "distinct":
            return scan.OP_DISTINCT, self._kept("text", field, (), of), 1, taken, 0
        if aggregate in ("count", "since_last"):
            return (_SUMMED | _SCANNED)[aggregate], WEIGHT, 1, taken, 0
        other = feature.k or 1 if aggregate == "last" else round((feature.q or 0.0) * _MILLION)
        return _SCANNED[aggregate], self._kept("value", field, (), of), scale, taken, other

    def _kept(self, kind: Kind, field: str | None, where: Conditions, of: str | None) -> int:
        return self._column(Column(kind, field, where) if of is None else StreamColumn(kind, field, where, of))

    def _column(self, column: Column) -> int:
        self.kept.setdefault(column, None)
        return NUMBERS + list(self.kept).index(column)

    def _far(self, feature: FeatureSpec, window: Window) -> tuple[int, ...]:
        """The edge that the window begins at: a line of `edges`, or of `walks` with the delay for the edge of u."""
        delay = feature.delay
        counts = -1 if feature.stream is None else NUMBERS + self._streams.index(feature.stream)
        match window:
            case TumblingWindow():
                return (delay, window.size, 1)
            case HoppingWindow():
                return (delay, window.hop, window.size - window.hop + 1)
            case SessionWindow():
                return (scan.SESSION, delay, window.gap, window.within, counts)
            case CountWindow():
                return (scan.LAST_EVENTS, delay, window.last, window.within, counts)
            case SlidingWindow() | DecayWindow():
                return (delay + window.reach, 0, 0)


def _table(lines: Sequence[tuple[int, ...]], width: int) -> Int64s:
    return np.array(lines, np.int64).reshape(len(lines), width)


def compile_stage(pipeline: Pipeline, index: int) -> StageDefinition:
    """Compile stage `index`. Assumes a validated pipeline (fields that exist, windows where an aggregate needs one).

    How long rows are kept, and what is merged, is said in `domain.statebounds`.
    """
    features = pipeline.features
    stage = features.stages[index]
    streams = pipeline.streams_of(index)
    scales = {
        name: {field: number.scale for field, number in pipeline.fields_of(name).numbers.items()}
        for name in (None, *streams)
    }
    compiler = _Compiler(scales, streams)
    names = [name for feature in stage.features for name in feature.columns]
    windowed = [feature for feature in stage.features if feature.aggregate is not None]
    for feature in windowed:
        compiler.add(feature)
    tables = compiler.tables()
    kept = tuple(compiler.kept)
    summarized = compile_summaries(pipeline, index).columns
    numbers = fields_of(kept, texts=False)
    retention = retention_of(pipeline, index)
    limits = features.state_limits
    one_hots = tuple(
        OneHot(names.index(feature.columns[0]), feature.one_hot, feature.values or (), feature.other)
        for feature in stage.features
        if feature.one_hot is not None
    )
    derived = evaluation_order(stage)
    before = tuple(name for one in features.stages[:index] for feature in one.features for name in feature.columns)
    read = {(feature, name.name) for feature, tree in derived for name in expression_names(tree)}
    made_before = {name for _, name in read}.intersection(before)
    # A feature of the name goes before a field, but for its own expression.
    of_event = {name for feature, name in read if name not in before and (name == feature or name not in names)}
    return StageDefinition(
        index=index,
        entity=stage.entity,
        names=tuple(names),
        aggregates=tuple(names.index(name) for feature in windowed for name in feature.columns),
        values=tuple((names.index(f.name), f.value) for f in stage.features if f.value is not None),
        calendar=tuple((names.index(f.name), f.calendar) for f in stage.features if f.calendar is not None),
        kept=kept,
        numbers=numbers,
        scales=tuple(pipeline.event.numbers[name].scale for name in numbers),
        texts=tuple(dict.fromkeys((*fields_of((*kept, *summarized), texts=True), *(one.field for one in one_hots)))),
        tables=tables,
        lateness=lateness_of(features, index),
        retention=retention,
        expiry_grid=max(60_000, min(DAY_MS, retention // 4)),
        derived=tuple((names.index(name), tree) for name, tree in derived),
        derived_fields=tuple(field for field in pipeline.event.numbers if field in of_event),
        earlier=before if made_before else (),
        summarized=summarized,
        streams=streams,
        stream_scales=tuple(
            (name, field, scales[name][field])
            for name in streams
            for field in fields_of(kept, texts=False, stream=name)
        ),
        lead=lead_of(pipeline, index),
        feature_retention=feature_retention_of(pipeline, index),
        one_hots=one_hots,
        merging=merging_of(features, index),
        caps=Caps(limits.max_keys, limits.max_bytes, limits.when_full == "evict") if limits else None,
    )
