"""Random stages and random streams for the window engine, and the engine driven row by row."""

import random
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from hypothesis import strategies as st

from support.featureoracle import Row
from tidemill.domain.featurespec import FeatureSpec, StageSpec, StateLimits
from tidemill.domain.pipeline import NumberField, Pipeline, StreamSpec
from tidemill.domain.windows import MOST_HALF_LIVES, WINDOW_TYPES
from tidemill.features.core import rings
from tidemill.features.core.columns import fill, hash_texts
from tidemill.features.core.definition import StageDefinition, compile_stage
from tidemill.features.core.engine import WindowEngine
from tidemill.runtime.pipelinefile import load_pipeline

SECOND = 1_000
SCALE = 100
_FRAUD = load_pipeline("fraud")
SHOP = _FRAUD.model_copy(update={"event": _FRAUD.event.model_copy(update={"categories": ("channel",)})})
"""The fraud pipeline with a text field to read."""

STREAMS = ("limits", "logins")
_NUMBERS = {"amount": NumberField(scale=SCALE)}
JOINED = SHOP.model_copy(
    update={
        "streams": {
            name: StreamSpec(entities=("customer",), numbers=_NUMBERS, max_lead=lead)
            for name, lead in zip(STREAMS, (0, 15 * SECOND), strict=True)
        }
    }
)
"""The same with two streams to join."""

FIRST = 1_000_000

CHANNELS = ("web", "app", "branch", "telefón", "")
FILTERS = (
    *(None, None, None, 'channel == "web"', 'channel != "app"', "amount > 12.5", "amount >= 20 and channel == 'web'"),
    *("amount == 7", "amount != 7", "amount < 20.005 and amount > 0.001", "amount <= 0"),
)

OF_NUMBERS = ("sum", "mean", "min", "max", "std", "first", "last", "quantile", "ratio_to_mean")
OTHERS = ("count", "distinct", "since_last", "share", "label_rate")

spans = st.integers(1, 60).map(lambda seconds: seconds * SECOND) | st.integers(1, 70_000)


@st.composite
def windows(draw: st.DrawFn, kind: str) -> object:
    """A window of `kind` as it is written in a file."""
    size = draw(spans)
    match kind:
        case "sliding":
            return draw(st.sampled_from([size, {"type": "sliding", "size": size}]))
        case "tumbling":
            return {"type": kind, "size": size}
        case "hopping":
            return {"type": kind, "size": size * draw(st.integers(1, 6)), "hop": size}
        case "session":
            gap = draw(st.integers(1, 12)) * SECOND
            return {"type": kind, "gap": gap, "within": gap * draw(st.integers(1, 9))}
        case "count":
            return {"type": kind, "last": draw(st.integers(1, 12)), "within": size}
        case _:
            half_life = draw(st.integers(1, 20_000))
            within = draw(st.none() | st.integers(1, MOST_HALF_LIVES).map(lambda lives: min(lives * half_life, 90_000)))
            return {"type": kind, "half_life": half_life, "within": within}


@st.composite
def features(draw: st.DrawFn, name: str) -> FeatureSpec:
    kind = draw(st.sampled_from(WINDOW_TYPES))
    allowed = ("count", "sum", "mean") if kind == "decay" else (*OF_NUMBERS, *OTHERS)
    aggregate = draw(st.sampled_from([one for one in allowed if (kind, one) != ("count", "label_rate")]))
    more: dict[str, object] = {}
    if aggregate in OF_NUMBERS:
        more["field"] = "amount"
    if aggregate in ("distinct", "share"):
        more["field"] = "channel"
    if aggregate == "share":
        more["equals"] = draw(st.sampled_from(CHANNELS))
    if aggregate == "quantile":
        more["q"] = draw(st.sampled_from([0, 0.25, 0.5, 0.9, 0.999, 1]))
    if aggregate == "last":
        more["k"] = draw(st.none() | st.integers(1, 5))
    if aggregate != "since_last":
        more["delay"] = draw(st.sampled_from([0, 0, 5 * SECOND, 30 * SECOND]))
    window, where = draw(windows(kind)), draw(st.sampled_from(FILTERS))
    return FeatureSpec.model_validate({"name": name, "aggregate": aggregate, "window": window, "where": where, **more})


@st.composite
def feature_lists(draw: st.DrawFn) -> tuple[FeatureSpec, ...]:
    return tuple(draw(features(f"f{number}")) for number in range(draw(st.integers(1, 6))))


@st.composite
def joins(draw: st.DrawFn, name: str) -> FeatureSpec:
    """A feature over a second stream."""
    plain = draw(features(name).filter(lambda one: one.aggregate not in ("share", "label_rate", "ratio_to_mean")))
    where = draw(st.sampled_from([where for where in FILTERS if where is None or "channel" not in where]))
    field = "customer" if plain.field == "channel" else plain.field
    return plain.model_copy(update={"stream": draw(st.sampled_from(STREAMS)), "where": where, "field": field})


@st.composite
def joined_lists(draw: st.DrawFn) -> tuple[FeatureSpec, ...]:
    """At least one feature over a stream among others over the events."""
    kinds = [joins, *draw(st.lists(st.sampled_from([joins, features]), max_size=5))]
    wanted = [draw(kind(f"f{number}")) for number, kind in enumerate(kinds)]
    return tuple(draw(st.permutations(wanted)))


def shop(
    wanted: tuple[FeatureSpec, ...],
    lateness: int,
    label_lateness: int,
    merged: dict[str, int] | None = None,
    limits: StateLimits | None = None,
    pipeline: Pipeline = JOINED,
) -> Pipeline:
    """`merged` has max_rows_per_key and bucket of the stage."""
    stage = StageSpec.model_validate({"entity": "customer", "features": wanted, **(merged or {})})
    update = {"stages": (stage,), "allowed_lateness": lateness, "label_lateness": label_lateness}
    update |= {"state_limits": limits}
    return pipeline.model_copy(update={"features": pipeline.features.model_copy(update=update)})


def stage_of(wanted: tuple[FeatureSpec, ...], lateness: int, label_lateness: int) -> StageDefinition:
    return compile_stage(shop(wanted, lateness, label_lateness), 0)


def joined_arrivals(chance: random.Random, count: int, streams: Sequence[str]) -> list[Row]:
    """`arrivals` where about half of the events are records of a stream instead, some with the id and time of an event,
    some well ahead, some of keys that have no event."""
    rows: list[Row] = []
    for row in arrivals(chance, count):
        if row.label is None and chance.random() < 0.5:
            ahead = chance.choice([0, 0, 0, 3, 20, 80]) * SECOND
            key = b"quiet" if chance.random() < 0.1 else row.key
            row = row._replace(stream=chance.choice(streams), ts=row.ts + ahead, key=key)
        rows.append(row)
    return rows


def arrivals(chance: random.Random, count: int) -> list[Row]:
    """Events around a moving clock, some repeated, late or long after; labels mostly of events that came before."""
    rows: list[Row] = []
    clock = FIRST
    keys = [b"a", b"b", b"long-key", "schlüssel".encode()][: chance.randint(1, 4)]
    for _ in range(count):
        if rows and chance.random() < 0.4:
            about = rows[-chance.randint(1, min(len(rows), 30))]
            truth = chance.choice([None, 0, 1, 1])
            rows.append(about._replace(label=truth) if truth is not None else about)
            continue
        seconds = chance.choice([0, 0, 1, chance.randint(-30, 15), chance.randint(-30, 15), chance.choice([0, 5, 90])])
        ts = clock + seconds * SECOND + chance.choice([0, 0, 0, 1, -1])
        clock = max(clock, ts)
        amount = chance.choice([chance.randint(-50, 5_000)] * 7 + [700, 0, 1 << 33])
        label = chance.choice([None] * 9 + [1])
        rows.append(Row(chance.choice(keys), chance.randint(0, 3), ts, amount, label, chance.choice(CHANNELS)))
    return rows


def cut(rows: list[Row], chance: random.Random) -> list[list[Row]]:
    """The rows in batches of random sizes, some empty."""
    bounds = sorted({0, len(rows), *(chance.randint(0, len(rows)) for _ in range(chance.randint(1, 40)))})
    return [rows[begin:end] for begin, end in pairwise(bounds)]


def slide(engine: WindowEngine, stage: StageDefinition, rows: list[Row]) -> tuple[np.ndarray, np.ndarray]:
    """The rows through the engine in one batch: (features, status)."""
    times = np.array([row.ts for row in rows], np.int64)
    identities = np.array([row.identity for row in rows], np.int64)
    labels = np.array([rings.NOT_A_LABEL if row.label is None else row.label for row in rows], np.int64)
    numbers = {"amount": np.array([row.amount for row in rows], np.int64)}
    texts = {
        "channel": hash_texts([row.channel for row in rows]),
        "customer": hash_texts([row.key.decode() for row in rows]),
    }
    values = fill(stage.kept, numbers, texts, len(rows))
    for number, name in enumerate(stage.streams, 1):
        of = np.array([row.stream == name for row in rows], np.bool_)
        values[of] = fill(stage.kept, numbers, texts, len(rows), name)[of]
        labels[of], identities[of] = rings.OF_A_STREAM, identities[of] + 1_000 * number
    return engine.slide([row.key for row in rows], times, identities, labels, values)


def save(engine: WindowEngine, changelog: dict[bytes, bytes]) -> None:
    """Commit: what the engine packs, applied to the compacted topic."""
    for key, value in engine.pack():
        if value is None:
            changelog.pop(key, None)
        else:
            changelog[key] = value


def restored(stage: StageDefinition, changelog: dict[bytes, bytes]) -> WindowEngine:
    engine = WindowEngine(stage)
    engine.restore(changelog.items())
    return engine
