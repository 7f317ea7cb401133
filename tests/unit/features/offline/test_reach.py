"""Where a backfill begins to read, and from when on logs that have lost their beginning give whole vectors."""

from collections.abc import Mapping
from typing import cast

import pytest

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.features.offline.bounds import Bound
from tidemill.features.offline.reach import is_whole, look_back_ms
from tidemill.features.offline.topicinput import DISORDER_MS, Connection, TopicInput, topic_input
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.ports import Partition, Watermarks

FRAUD = load_pipeline("fraud")
NOW = 1_700_000_000_000
SINCE = Bound(NOW, {})


def with_features(**changes: object) -> Pipeline:
    values = FRAUD.features.model_dump() | changes
    return FRAUD.model_copy(update={"features": type(FRAUD.features).model_validate(values)})


def merging(max_rows: int) -> Pipeline:
    first, *others = FRAUD.features.stages
    bounded = first.model_copy(update={"max_rows_per_key": max_rows, "bucket": 3_600_000})
    return FRAUD.model_copy(update={"features": FRAUD.features.model_copy(update={"stages": (bounded, *others)})})


def capped(when_full: str) -> Pipeline:
    return with_features(state_limits={"max_keys": 5, "when_full": when_full})


class Logs:
    """Stands for Kafka: one partition a topic, from offset `low`, a record a day; the first one at NOW − 30 days."""

    def __init__(self, low: int, left: bool = True) -> None:
        self._low, self._left = low, left
        self.asked: list[int] = []

    def reader(self, topics: list[str]) -> "Logs":
        self._topics = topics
        return self

    def watermarks(self) -> dict[Partition, Watermarks]:
        return {(topic, 0): Watermarks(self._low, self._low + 30) for topic in self._topics}

    def offsets_for_time(self, timestamp: int) -> Mapping[Partition, int]:
        self.asked.append(timestamp)
        return {(topic, 0): self._low + 7 for topic in self._topics}

    def first_timestamps(self) -> dict[Partition, int | None]:
        first = NOW - 30 * DAY_MS if self._left else None
        return {(topic, 0): first for topic in self._topics} if self._low else {}

    def close(self) -> None: ...


def settled(pipeline: Pipeline, logs: Logs, start: Bound | None = None) -> TopicInput:
    return topic_input(pipeline, cast(Connection, logs), start, None)


def starts(found: TopicInput) -> set[int]:
    return {lane.start for lanes in found.ranges for lane in lanes}


@pytest.mark.parametrize("pipeline", [FRAUD, merging(0), capped("stop")], ids=["plain", "always merged", "stops"])
def test_reading_begins_a_look_back_earlier(pipeline: Pipeline) -> None:
    logs = Logs(0)
    assert starts(settled(pipeline, logs, SINCE)) == {7}
    assert logs.asked == [NOW - look_back_ms(pipeline) - DISORDER_MS]


@pytest.mark.parametrize("pipeline", [merging(10), capped("evict")], ids=["merges by rows", "evicts"])
def test_reading_begins_at_the_beginning_where_what_is_held_depends_on_all_of_it(pipeline: Pipeline) -> None:
    assert starts(settled(pipeline, Logs(0), SINCE)) == {0}
    assert settled(pipeline, Logs(0), SINCE).whole_from == 0
    assert settled(pipeline, Logs(3), SINCE).whole_from is None, "part of it is gone"


def test_vectors_are_whole_from_a_look_back_behind_the_first_record_that_is_left() -> None:
    assert settled(FRAUD, Logs(0)).whole_from == 0
    whole = settled(FRAUD, Logs(3)).whole_from
    assert whole == NOW - 30 * DAY_MS + look_back_ms(FRAUD) + 1
    assert (is_whole(whole - 1, whole), is_whole(whole, whole)) == (False, True)


def test_no_vector_is_certain_where_nothing_is_left_of_a_log() -> None:
    whole = settled(FRAUD, Logs(3, left=False)).whole_from
    assert whole is None
    assert not is_whole(NOW, whole)


def test_labels_that_no_feature_reads_may_expire() -> None:
    class LabelsLost(Logs):
        def first_timestamps(self) -> dict[Partition, int | None]:
            return {at: first for at, first in super().first_timestamps().items() if "labels" in at[0]}

    without = with_features(stages=[FRAUD.features.stages[0].model_dump(exclude_none=True)])
    assert settled(without, LabelsLost(3)).whole_from == 0
    assert settled(FRAUD, LabelsLost(3)).whole_from != 0
