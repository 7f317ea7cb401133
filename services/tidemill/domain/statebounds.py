"""How much a feature stage may hold: which rows of a key are merged, and how long rows stay at all.

A row is *settled* once nothing can change what stands beside it (later events are refused as late, labels come too
late for it) and no exact window reaches it. Settled rows of one cell of a fixed grid may be merged into one row that
holds their sums and the time of the newest: sums over a window stay exact but for the cells that its edges cut.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tidemill.domain.durations import format_duration_ms
from tidemill.domain.featurespec import FeatureSpec, FeaturesSpec
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.pipelinerules import Mistake, Path, listed
from tidemill.domain.windows import HoppingWindow, SlidingWindow, TumblingWindow

SMALLEST_BUCKET_MS = 1_000

_OF_SUMS = frozenset({"count", "sum", "mean", "std", "ratio_to_mean", "share", "label_rate"})
"""Aggregates that ask a window for sums only; the rest look at rows one by one."""


@dataclass(frozen=True)
class Merging:
    """Rows older than a key's newest − `settled_after` are merged by cells of `bucket`, both in ms, as soon as a cell
    is settled and the key holds more than `max_rows` rows."""

    bucket: int
    settled_after: int
    max_rows: int


def lateness_of(features: FeaturesSpec, index: int) -> int:
    """How much older than its key's newest an event may be in stage `index`, in ms.

    Lateness is judged in the first stage. A later stage sees a key's events out of order whenever two primary keys
    are, so it takes whatever is no older than a label may be.
    """
    return features.allowed_lateness if index == 0 else max(features.allowed_lateness, features.label_lateness)


def lead_of(pipeline: Pipeline, index: int) -> int:
    """How far records of the streams that stage `index` joins may be ahead of the events of their key, in ms."""
    return max((pipeline.streams[name].max_lead for name in pipeline.streams_of(index)), default=0)


def feature_retention_of(pipeline: Pipeline, index: int) -> int:
    """How long features need a row, in ms: for the longest look-back plus the lateness of events, and at least until
    its label may come; where streams are joined, for their lead more: a key that has only a stream's record seems so
    much older than it is."""
    features = pipeline.features
    look_backs = [one.look_back for one in features.stages[index].features if one.aggregate is not None]
    return max([features.label_lateness, *look_backs]) + lateness_of(features, index) + lead_of(pipeline, index)


def retention_of(pipeline: Pipeline, index: int) -> int:
    """How long a row stays: for its features, and as long as a duplicate of it could reach a summary."""
    features = pipeline.features
    longest = max((summary.told_apart_for for summary in features.stages[index].summaries), default=0)
    needed = longest + lateness_of(features, index) + lead_of(pipeline, index)
    return max(feature_retention_of(pipeline, index), needed)


def of_sums(feature: FeatureSpec) -> bool:
    """Whether the feature follows from sums between two edges of time, and so can be had of merged rows."""
    return feature.aggregate in _OF_SUMS and isinstance(feature.shape, SlidingWindow | TumblingWindow | HoppingWindow)


def bucket_of(feature: FeatureSpec) -> int | None:
    """The cell that the feature's own window asks for."""
    return feature.shape.bucket if isinstance(feature.shape, SlidingWindow) else None


def merging_of(features: FeaturesSpec, index: int) -> Merging | None:
    """What stage `index` merges; None where it keeps every row. Assumes that `bound_mistakes` found nothing."""
    stage = features.stages[index]
    windowed = [feature for feature in stage.features if feature.aggregate is not None]
    buckets = [bucket for bucket in map(bucket_of, windowed) if bucket is not None]
    if stage.bucket is not None:
        exact = [feature for feature in windowed if not of_sums(feature)]
    elif buckets:
        exact = [feature for feature in windowed if bucket_of(feature) is None]
    else:
        return None
    late = lateness_of(features, index)
    reach = [feature.look_back + late for feature in exact]
    # The id of a merged row is gone, and with it the knowledge of its duplicates.
    reach += [summary.told_apart_for + late for summary in stage.summaries]
    return Merging(
        bucket=stage.bucket or min(buckets),
        settled_after=max([late, features.label_lateness, *reach]),
        max_rows=stage.max_rows_per_key or 0,
    )


def bound_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong with buckets, `max_rows_per_key` and `state_limits`."""
    limits = pipeline.features.state_limits
    if limits is not None and limits.max_keys is None and limits.max_bytes is None:
        yield Mistake(("features", "state_limits"), "say max_keys, max_bytes or both")
    for index in range(len(pipeline.features.stages)):
        found = [*_buckets(pipeline, index), *_joined(pipeline, index)]
        yield from found or _settling(pipeline, index)


def _buckets(pipeline: Pipeline, index: int) -> Iterator[Mistake]:
    stage = pipeline.features.stages[index]
    where: Path = ("features", "stages", index)
    if (stage.max_rows_per_key is None) != (stage.bucket is None):
        said, other = ("bucket", "max_rows_per_key") if stage.bucket else ("max_rows_per_key", "bucket")
        yield Mistake((*where, said), f"{said} needs {other} beside it: which keys are merged, and into what cells")
    if stage.bucket is not None and stage.bucket < SMALLEST_BUCKET_MS:
        yield Mistake((*where, "bucket"), f"bucket ({stage.bucket} ms) must be at least 1s")
    for position, feature in enumerate(stage.features):
        bucket = bucket_of(feature)
        if bucket is None:
            continue
        assert isinstance(feature.shape, SlidingWindow)
        path: Path = (*where, "features", position, "window", "bucket")
        if not of_sums(feature):
            yield Mistake(
                path,
                f"{feature.aggregate} of {feature.name!r} looks at rows one by one; a bucket keeps their sums only",
            )
        if stage.max_rows_per_key is not None:
            yield Mistake(path, "the stage has max_rows_per_key, whose bucket is for all its windows; leave one out")
        if not SMALLEST_BUCKET_MS <= bucket < feature.shape.size:
            yield Mistake(
                path, f"bucket ({bucket} ms) must be at least 1s and shorter than size ({feature.shape.size} ms)"
            )


def _joined(pipeline: Pipeline, index: int) -> Iterator[Mistake]:
    """A stream's record may come as late as rows are kept, so none beside it ever settles."""
    stage, streams = pipeline.features.stages[index], pipeline.streams_of(index)
    if streams and merging_of(pipeline.features, index) is not None:
        where: Path = ("features", "stages", index)
        yield Mistake(
            (*where, "bucket") if stage.bucket else where,
            f"the stage of {stage.entity!r} joins {listed(streams)}, whose records may come late by any time, so its "
            "rows cannot be merged: leave the bucket out",
        )


def _settling(pipeline: Pipeline, index: int) -> Iterator[Mistake]:
    """A stage whose windows of sums end before rows settle would never gain from a merge."""
    features = pipeline.features
    stage, merging = features.stages[index], merging_of(features, index)
    if merging is None:
        return
    settled = merging.settled_after + merging.bucket
    merged = [one for one in stage.features if (of_sums(one) if stage.bucket else bucket_of(one) is not None)]
    longest = max((one.look_back for one in merged), default=0) + lateness_of(features, index)
    if settled < longest:
        return
    where: Path = ("features", "stages", index)
    if stage.max_rows_per_key is not None:
        where = (*where, "max_rows_per_key")
    else:
        named = min(at for at, feature in enumerate(stage.features) if bucket_of(feature) is not None)
        where = (*where, "features", named, "window", "bucket")
    yield Mistake(
        where,
        f"no row is ever merged: one settles {format_duration_ms(settled)} behind its key's newest "
        f"({_because(features, index, merging)}, and a bucket), and no window of sums reaches it there",
    )


def _because(features: FeaturesSpec, index: int, merging: Merging) -> str:
    """What `settled_after` comes from."""
    late = lateness_of(features, index)
    by_bucket = features.stages[index].bucket is None
    for feature in features.stages[index].features:
        exact = bucket_of(feature) is None if by_bucket else not of_sums(feature)
        if feature.aggregate is not None and exact and feature.look_back + late == merging.settled_after:
            return f"as far as {feature.name!r}, which is exact, looks back"
    for summary in features.stages[index].summaries:
        if summary.told_apart_for + late == merging.settled_after:
            return f"as far as {summary.name!r} must know its events"
    return "label_lateness" if features.label_lateness == merging.settled_after else "allowed_lateness"
