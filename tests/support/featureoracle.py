"""What the window engine must answer, computed slowly from lists of Python integers.

Written from the definitions in `domain.windows` and `domain.featurespec`, for a stage whose events have one number,
`amount`, and one text, `channel`. Records of second streams have the same number, and their key as text. It shares with
the engine only how long rows stay and when keys go.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import NamedTuple

from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.filters import parse_filter
from tidemill.domain.windows import (
    CountWindow,
    DecayWindow,
    HoppingWindow,
    SessionWindow,
    SlidingWindow,
    TumblingWindow,
    Window,
)
from tidemill.features.core import kernels
from tidemill.features.core.definition import StageDefinition

NAN = float("nan")


class Row(NamedTuple):
    """One record for one key; without `label` and `stream` it is an event. `amount` is in units of 1/scale."""

    key: bytes
    identity: int
    ts: int
    amount: int
    label: int | None
    channel: str = "web"
    stream: str | None = None


class Near(NamedTuple):
    """An answer that may differ from `value` by `error`."""

    value: float
    error: float


Answer = float | Near


@dataclass
class _Key:
    newest: int
    """Of the events, and of the streams' records less the lead."""
    events: list[Row] = field(default_factory=list)
    """In order of arrival."""
    labels: dict[tuple[int, int], int] = field(default_factory=dict)
    """(ts, identity) → truth"""
    joined: list[Row] = field(default_factory=list)
    """Records of all streams, in order of arrival."""


class Oracle:
    """One partition of one stage. `stage` says how long rows and keys stay, `features` what is asked."""

    def __init__(self, stage: StageDefinition, features: Sequence[FeatureSpec], scale: int) -> None:
        self._stage = stage
        self._features = features
        self._scale = scale
        self._keys: dict[bytes, _Key] = {}
        self._newest: int | None = None

    def apply(self, row: Row) -> tuple[int, list[Answer]]:
        """(status, features); the features are NaN unless the row is an accepted event."""
        nothing: list[Answer] = [NAN for feature in self._features for _ in feature.columns]
        if row.label is not None:
            return self._label(row, row.label), nothing
        moment = row.ts if row.stream is None else row.ts - self._stage.lead
        if self._newest is not None and moment > self._newest:
            self._expire(moment)
        self._newest = moment if self._newest is None else max(self._newest, moment)
        key = self._keys.setdefault(row.key, _Key(moment))
        if row.stream is not None:
            return self._join(key, row, moment), nothing
        if (row.ts, row.identity) in self._held(key):
            return kernels.DUPLICATE, nothing
        if row.ts < key.newest - self._stage.lateness:
            return kernels.LATE, nothing
        self._before(key, row)
        key.newest = max(key.newest, row.ts)
        key.events.append(row)
        return kernels.ACCEPTED, [answer for feature in self._features for answer in self._answers(key, row, feature)]

    def _before(self, key: _Key, row: Row) -> None:
        """An event was found good and is about to be put in."""

    def _join(self, key: _Key, row: Row, moment: int) -> int:
        horizon = key.newest - self._stage.retention
        if row.ts <= horizon:
            return kernels.STREAM_LATE
        if any((one.ts, one.identity, one.stream) == (row.ts, row.identity, row.stream) for one in key.joined):
            return kernels.STREAM_DUPLICATE
        key.newest = max(key.newest, moment)
        key.joined.append(row)
        return kernels.STREAM_ACCEPTED

    def _label(self, row: Row, truth: int) -> int:
        key = self._keys.get(row.key)
        if key is None or (row.ts, row.identity) not in self._held(key):
            return kernels.LABEL_UNMATCHED
        if key.labels.get((row.ts, row.identity)) == truth:
            return kernels.LABEL_DUPLICATE
        key.labels[(row.ts, row.identity)] = truth
        return kernels.LABEL_ACCEPTED

    def _held(self, key: _Key) -> list[tuple[int, int]]:
        return [(event.ts, event.identity) for event in key.events if event.ts > key.newest - self._stage.retention]

    def _expire(self, ts: int) -> None:
        assert self._newest is not None
        grid = self._stage.expiry_grid
        if ts // grid > self._newest // grid:
            horizon = ts // grid * grid - self._stage.retention
            self._keys = {name: key for name, key in self._keys.items() if key.newest > horizon}

    def _answers(self, key: _Key, own: Row, feature: FeatureSpec) -> list[Answer]:
        shape, u = feature.shape, own.ts - feature.delay
        assert shape is not None
        # `sorted` is stable, so events of equal time stay in the order of their arrival.
        past = key.events if feature.stream is None else [one for one in key.joined if one.stream == feature.stream]
        seen = sorted((event for event in past if event.ts <= u), key=lambda event: event.ts)
        rows = [event for event in _inside(seen, u, shape) if _passes(event, feature.where, self._scale)]
        if isinstance(shape, DecayWindow):
            return [_decayed(rows, u, shape.half_life, str(feature.aggregate), self._scale)]
        if feature.aggregate == "last":
            newest = [row.amount / self._scale for row in reversed(rows)]
            return [*newest, *[NAN] * len(feature.columns)][: len(feature.columns)]
        if feature.aggregate == "label_rate":
            truths = sum(key.labels.get((row.ts, row.identity), 0) for row in rows)
            return [truths / len(rows) if rows else 0.0]
        return [self._one(rows, own, feature)]

    def _one(self, rows: list[Row], own: Row, feature: FeatureSpec) -> Answer:
        amounts = [row.amount for row in rows]
        count, total, scale = len(rows), sum(amounts), self._scale
        if feature.aggregate == "count":
            return float(count)
        if feature.aggregate == "sum":
            return total / scale
        if feature.aggregate == "distinct":
            return float(len({row.channel if feature.stream is None else row.key for row in rows}))
        if feature.aggregate == "since_last":
            others = [row.ts for row in rows if row is not own]
            return (own.ts - max(others)) / 1_000 if others else NAN
        if not rows:
            return NAN
        if feature.aggregate == "mean":
            return total / (count * scale)
        if feature.aggregate == "min":
            return min(amounts) / scale
        if feature.aggregate == "max":
            return max(amounts) / scale
        if feature.aggregate == "first":
            return amounts[0] / scale
        if feature.aggregate == "share":
            return sum(row.channel == feature.equals for row in rows) / count
        if feature.aggregate == "ratio_to_mean":
            return own.amount * count / total if total else NAN
        if feature.aggregate == "std":
            return math.sqrt(count * sum(amount * amount for amount in amounts) - total * total) / (count * scale)
        assert feature.aggregate == "quantile" and feature.q is not None
        exact = sorted(amounts)[math.floor(Fraction(str(feature.q)) * (count - 1))] / scale
        return Near(exact, abs(exact) * 0.01 * (1 + 1e-12))


def _inside(seen: list[Row], u: int, shape: Window) -> list[Row]:
    """Those of `seen`, all at or before u and in order, that the window holds."""
    match shape:
        case SlidingWindow(size=size):
            return [row for row in seen if row.ts > u - size]
        case TumblingWindow(size=size):
            return [row for row in seen if row.ts >= u - u % size]
        case HoppingWindow(size=size, hop=hop):
            end = next(end for end in range(u - u % hop, u + hop + 1) if end > u and end % hop == 0)
            return [row for row in seen if end - size <= row.ts < end]
        case SessionWindow(gap=gap, within=within):
            session: list[Row] = []
            for row in reversed(seen):
                later = session[0].ts if session else u
                if later - row.ts > gap or u - row.ts >= within:
                    break
                session.insert(0, row)
            return session
        case CountWindow(last=last, within=within):
            return [row for row in seen[-last:] if row.ts > u - within]
        case DecayWindow():
            return [row for row in seen if row.ts > u - shape.reach]


def _passes(row: Row, where: str | None, scale: int) -> bool:
    for comparison in parse_filter(where).comparisons if where else ():
        if comparison.field == "channel":
            if (row.channel == comparison.value) != (comparison.operator == "=="):
                return False
            continue
        value, bound = Fraction(row.amount, scale), Fraction(comparison.value)
        holds = {
            "==": value == bound,
            "!=": value != bound,
            "<": value < bound,
            "<=": value <= bound,
            ">": value > bound,
            ">=": value >= bound,
        }
        if not holds[comparison.operator]:
            return False
    return True


def _decayed(rows: list[Row], u: int, half_life: int, aggregate: str, scale: int) -> Answer:
    with localcontext() as context:
        context.prec = 40
        weights = [Decimal(2) ** (Decimal(row.ts - u) / half_life) for row in rows]
        values = [Decimal(row.amount) / scale for row in rows]
        terms = weights if aggregate == "count" else [w * x for w, x in zip(weights, values, strict=True)]
        total, size = sum(terms, Decimal(0)), sum(map(abs, terms), Decimal(0))
        if aggregate == "mean":
            if not rows:
                return NAN
            total, size = total / sum(weights), size / sum(weights)
        return Near(float(total), float(size) * 1e-14)


def agrees(got: float, expected: Answer) -> bool:
    """Equal to the last bit, or as near as the answer says."""
    if isinstance(expected, Near):
        return abs(got - expected.value) <= expected.error
    return got == expected or (math.isnan(got) and math.isnan(expected))
