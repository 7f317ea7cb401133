"""Records on their way through a backfill, in the order in which the stream would read them.

The order is that of `runtime.sync.Merge`: within a partition the log's own; between partitions by effective time (the
newest timestamp of the partition so far), then the rank of the input, then the partition's number. As a lane's
positions never fall, any number of lanes are merged with one record of each in memory.
"""

import heapq
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import NamedTuple, TypeVar

NEVER = -(2**63)
T = TypeVar("T")


class Item(NamedTuple):
    """One record. `wanted` says whether its event belongs into the output, or was read to fill windows only."""

    effective: int
    rank: int
    partition: int
    wanted: bool
    timestamp: int
    key: bytes | None
    value: bytes | None


def lane(items: Iterable[Item], rank: int, partition: int) -> Iterator[Item]:
    """The items of one partition in their order, with their place among those of other partitions."""
    effective = NEVER
    for item in items:
        effective = max(effective, item.timestamp)
        yield Item(effective, rank, partition, *item[3:])


def merged(lanes: Iterable[Iterator[Item]]) -> Iterator[Item]:
    """All lanes as one, in order; equal places keep the order of the lanes."""
    return heapq.merge(*lanes, key=_place)


def _place(item: Item) -> tuple[int, int, int]:
    return item[:3]


def blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size`, the last one shorter."""
    source = iter(items)
    while block := list(islice(source, size)):
        yield block
