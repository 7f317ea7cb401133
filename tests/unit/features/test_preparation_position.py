"""Where the state of a new version may begin: where the replaced ones stand, unless that cannot be known."""

from collections.abc import Mapping

import pytest

from tidemill.errors import ConfigurationError
from tidemill.features.offline.preparation import _position
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.ports import Partition, Watermarks

EVENTS, LABELS = ("fraud-events", 0), ("fraud-labels", 0)


class Log:
    """A connection whose reader knows where partitions begin and end."""

    def __init__(self, marks: Mapping[Partition, Watermarks]) -> None:
        self._marks = marks

    def reader(self, topics: list[str]) -> "Log":
        return self

    def watermarks(self) -> Mapping[Partition, Watermarks]:
        return self._marks

    def close(self) -> None:
        """Nothing is open."""


def position(committed: dict[Partition, int], events: tuple[int, int], labels: tuple[int, int]) -> dict[str, int]:
    text, _ = pipeline_text("fraud")
    pipeline = parse_pipeline(text.replace("features:\n  version: 1\n", "features:\n  version: 2\n  replaces: 1\n"))
    return _position(pipeline, Log({EVENTS: Watermarks(*events), LABELS: Watermarks(*labels)}), committed)


def test_a_topic_that_holds_nothing_need_not_have_been_read() -> None:
    assert position({EVENTS: 20}, (3, 21), (0, 0)) == {"events/0": 20, "labels/0": 0}
    with pytest.raises(ConfigurationError, match="ever read fraud-labels"):
        position({EVENTS: 20}, (3, 21), (0, 1))


def test_a_position_whose_partition_has_expired_past_it_is_refused_with_the_way_to_go_on() -> None:
    assert position({EVENTS: 21}, (21, 21), (0, 0))["events/0"] == 21
    with pytest.raises(ConfigurationError, match="stands at events/0=20, but the log begins at 21") as refused:
        position({EVENTS: 20}, (21, 21), (0, 0))
    assert "start it again" in refused.value.hint
