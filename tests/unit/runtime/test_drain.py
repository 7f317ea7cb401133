"""One poll of the broker's client, with a rebalance in the middle of it."""

from typing import Any

import pytest

from tidemill.runtime.kafka.records import drain
from tidemill.runtime.ports import Partition


class Said:
    """A message, as far as it is looked at."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        self.place = (topic, partition, offset)

    def topic(self) -> str:
        return self.place[0]

    def partition(self) -> int:
        return self.place[1]


class Rebalancing:
    """A consumer that runs a rebalance callback while it is asked for the rest of a batch."""

    def __init__(self, first: Said, moving: set[Partition], moved: set[Partition]) -> None:
        self._first, self._moving, self._moved = first, moving, moved

    def poll(self, timeout_s: float) -> Any:
        return self._first

    def consume(self, count: int, timeout_s: float) -> list[Any]:
        self._moved.update(self._moving)
        return [Said("a", 1, 40)]


@pytest.mark.parametrize(
    ("moving", "kept"),
    [
        ({("a", 0)}, [("a", 1, 40)]),
        ({("a", 1)}, [("a", 0, 7), ("a", 1, 40)]),
        (set(), [("a", 0, 7), ("a", 1, 40)]),
    ],
    ids=["its partition begins anew", "another does", "none does"],
)
def test_a_message_from_before_its_partition_was_given_anew_is_let_go(
    moving: set[Partition], kept: list[tuple[str, int, int]]
) -> None:
    moved: set[Partition] = {("a", 0)}  # by an earlier callback, which this message stands behind
    consumer: Any = Rebalancing(Said("a", 0, 7), moving, moved)
    found: list[Any] = list(drain(consumer, 100, 0.0, moved))
    assert [message.place for message in found] == kept
