"""The feature section of the pipeline file: stages, and what each of their features is."""

import re
from typing import Literal

from pydantic import Field

from tidemill.domain.durations import DAY_MS, DurationMs, SignedMs, SpanMs
from tidemill.domain.section import FieldName, Name, Section
from tidemill.domain.summaryspec import SummarySpec
from tidemill.domain.windows import SlidingWindow, Window, WindowSpec

Aggregate = Literal[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "std",
    "distinct",
    "first",
    "last",
    "quantile",
    "since_last",
    "ratio_to_mean",
    "share",
    "label_rate",
]

LATEST_VERSION = 999_999
"""It is a part of topic names, which are at most 249 characters long."""

_LEAST_SKEW_MS = 60_000
"""A pipeline that takes no late event is still not held up by a source that is some seconds behind the others."""


class FeatureSpec(Section):
    """One feature: a calendar fact, an event field, a text field as columns of 0 and 1, an expression over other
    features and number fields (language: `expressions`), or an aggregate over a window of the key's events (`windows`).

    one_hot is a column for each of `values`, name_value, that is 1 where the event's text is that value, and with
    `other` a last one, name_other, that is 1 where it is none of them. In a name, what is neither letter nor digit of
    a value is an underscore, and letters are small.

    The window decides which events are looked at, `where` which of those the aggregate takes. With n of them:

    - count: n. sum, mean, min, max: of `field`. std: of the population, √(Σ(x − mean)² / n).
    - first, last: `field` of the oldest and of the newest; last with k above 1 is k columns, name_1 the newest.
    - quantile: the one at rank ⌊q·(n − 1)⌋ from 0, to within 1 % of its value, by a log-bucketed sketch.
    - distinct: different values of the text `field`, exact up to 4,096, beyond by HyperLogLog (standard error 1.6 %).
    - share: the part of them whose text `field` equals `equals`. label_rate: the part whose label is 1.
    - since_last: seconds from the newest of them but the event itself, to the event.
    - ratio_to_mean: the event's own `field` divided by their mean.

    With `stream` the window holds records of that stream instead of events, and `field` and `where` read theirs: `last`
    is then an as-of join, any other aggregate one over an interval in the event's past.

    count, sum and mean over a decaying window are Σw, Σw·x and Σw·x / Σw. Over nothing count and sum are 0, so is
    label_rate, and everything else is null; so is a ratio to a mean of 0.
    """

    name: FieldName
    calendar: Literal["weekend", "night"] | None = None
    value: FieldName | None = Field(None, description="take this event field as it is")
    aggregate: Aggregate | None = None
    field: FieldName | None = Field(None, description="the event field that is aggregated")
    window: WindowSpec | None = Field(None, description="a duration (sliding), or a mapping with a type")
    delay: SignedMs = 0
    stream: Name | None = Field(None, description="aggregate the records of this second stream, not the events")
    where: str | None = Field(None, description='which events count, such as `channel == "web" and amount > 10`')
    k: int | None = Field(None, ge=1, le=64, description="how many values last keeps; 1 if left out")
    q: float | None = Field(None, ge=0, le=1, description="which quantile: 0.5 is the median")
    equals: str | None = Field(None, description="the value of `field` whose share is taken")
    expression: str | None = Field(
        None, description="such as log(amount / mean_7d), over features of this or an earlier stage and number fields"
    )

    one_hot: FieldName | None = Field(None, description="the text field that is made columns of 0 and 1")
    values: tuple[str, ...] | None = Field(None, description="the texts that one_hot has a column for, in this order")
    other: bool = Field(False, description="one_hot has a last column for all other texts")

    @property
    def shape(self) -> Window | None:
        """The window with a plain duration spelt out; None where nothing is aggregated, or the duration is 0."""
        if isinstance(self.window, int):
            return SlidingWindow(type="sliding", size=self.window) if self.window else None
        return self.window

    @property
    def look_back(self) -> int:
        """How much older than its event a row may be and still count, in ms."""
        return self.delay + (self.shape.reach if self.shape else 0)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the vector's columns that this feature fills."""
        if self.one_hot is not None:
            known = [_in_a_name(value) for value in self.values or ()]
            return tuple(f"{self.name}_{part}" for part in [*known, *(["other"] if self.other else [])])
        if self.k is None or self.k == 1:
            return (self.name,)
        return tuple(f"{self.name}_{number}" for number in range(1, self.k + 1))


def _in_a_name(text: str) -> str:
    return re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")


class StageSpec(Section):
    """All features of one entity, and the summaries of its closed windows; one process group computes them."""

    entity: FieldName
    features: tuple[FeatureSpec, ...] = Field(min_length=1)
    max_rows_per_key: int | None = Field(
        None,
        ge=16,
        le=1_000_000,
        description="a key with more rows has its old ones merged into sums of cells as wide as bucket; windows of "
        "sums (count, sum, mean, std, share, label_rate, ratio_to_mean) are then exact but for the cells at "
        "their edges",
    )
    bucket: SpanMs | None = Field(None, description="for max_rows_per_key: cells at multiples of this since 1970 UTC")
    summaries: tuple[SummarySpec, ...] = ()


class StateLimits(Section):
    """What one partition of one stage may hold. Bytes are rows × row width + keys × line width, as `tidemill features
    explain` shows both: what is held, not what the process takes."""

    max_keys: int | None = Field(None, ge=2, le=1_000_000_000)
    max_bytes: int | None = Field(None, ge=4_096, le=1 << 44, description="at most 16 TiB")
    when_full: Literal["stop", "evict"] = Field(
        "stop",
        description="stop: the service ends before what does not fit. evict: keys whose newest event is oldest are "
        "forgotten, with their windows, and counted",
    )


class FeaturesSpec(Section):
    """The feature vector: stages in the order in which records pass them.

    A changed list is a new `version`, with state, re-keyed topics and consumer groups of its own, so that it never
    reads what another version wrote.
    """

    version: int = Field(
        1, ge=1, le=LATEST_VERSION, description="from 2 on, a part of the names of state, re-keyed topics and groups"
    )
    replaces: int | None = Field(
        None,
        ge=1,
        le=LATEST_VERSION,
        description="the version that this one takes over from: what it has answered is read again for its rows only",
    )
    allowed_lateness: DurationMs = 3_600_000
    label_lateness: DurationMs = 7 * DAY_MS
    max_idle_ms: int = Field(
        3_000, ge=0, le=600_000, description="wait at most this long for a partition that is being fetched"
    )
    state: Literal["changelog", "memory"] = Field(
        "changelog",
        description="memory: no changelog is written, so windows begin empty after a restart, a rebalance or an "
        "aborted transaction, and features are too small until the longest window has passed",
    )
    state_limits: StateLimits | None = Field(None, description="caps on what a partition of each stage holds")
    idle_timeout: DurationMs = Field(
        60_000,
        description="for summaries: a partition that had no event for so long, by the clock, gets a watermark record, "
        "so that its windows close; 0: never",
    )
    stages: tuple[StageSpec, ...] = Field(min_length=1)

    @property
    def max_skew_ms(self) -> int:
        """How far ahead of a partition at its end others may be read: what lies behind by more would be late."""
        return max(self.allowed_lateness, _LEAST_SKEW_MS)

    @property
    def suffix(self) -> str:
        """What this version adds to names that are its own: nothing for the first, `-v2`, …"""
        return version_suffix(self.version)

    def summaries_behind(self, index: int) -> tuple[SummarySpec, ...]:
        """Those of all stages after stage `index`; if there are any, it hands its watermarks on."""
        return tuple(summary for stage in self.stages[index + 1 :] for summary in stage.summaries)


def version_suffix(version: int) -> str:
    return "" if version == 1 else f"-v{version}"
