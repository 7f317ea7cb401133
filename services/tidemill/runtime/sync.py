"""Timestamp-synchronised reading: many partitions merged into one stream in time order. Pure; `now` is passed in.

Within a partition the order of the log is kept: a record's *effective time* is the largest timestamp of its partition
so far plus the delay of its topic. Records are released in the order of (effective time, rank of the input, partition
number), as far as no partition that has more to come could still bring an earlier one. A partition

- with records waiting, or being fetched (nothing waiting, its end not reported), holds the others back at its newest
  effective time, the latter for at most `max_idle_ms`: what is then let go is a *forced release*, and counted;
- at its end holds nothing back but what is more than `max_skew_ms` ahead of it, and that for a fifth of a second: after
  an outage one transaction spans days, and a label must not overtake its event because the marker of the label's
  partition was written first.

Records of a delayed topic are released only once the watermark of the undelayed partitions has passed their effective
time, never by force. That watermark is the smallest of their newest timestamps; a partition at its end for longer than
`max_idle_ms` counts with the newest timestamp of its whole topic, so that an empty partition does not stop time.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import NamedTuple

from tidemill.domain.durations import HOUR_MS
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

NEVER = -(2**63)
FOREVER = 2**63
NEVER_FED = float("-inf")
NO_LIMIT = 2**63
_CONTINUOUS_S = 0.1
"""Turns no longer than this count as polling all the time."""
_MARKERS_COME_WITHIN_S = 0.2
"""All markers of a transaction are written within milliseconds; a quiet partition must not hold up a restart."""

Position = tuple[int, int, int]
"""(effective time, rank of the input, partition number): the total order of the merge."""

_ENDLESS: Position = (FOREVER, 0, 0)
_LAST_RANK = 2**31


class Released(NamedTuple):
    """A batch in order. `positions` says where to go on in every partition with records in it: last offset + 1, or
    the end where none of it waits any more. `counts` is the number of records of each topic."""

    records: list[Record]
    positions: dict[Partition, int]
    counts: dict[str, int]
    forced: bool


class _Lane:
    """One partition: its records with their effective times, from `head` on, and what is known of its future."""

    __slots__ = ("at_end", "delay", "ended_at", "head", "idle_since", "newest", "next_offset", "partition", "paused",
                 "rank", "records", "released", "times")  # fmt: skip

    def __init__(self, partition: Partition, rank: int, delay: int, next_offset: int, newest: int, now: float) -> None:
        self.partition = partition
        self.rank = rank
        self.delay = delay
        self.next_offset = next_offset
        self.records: list[Record] = []
        self.times: list[int] = []
        self.head = 0
        self.newest = newest
        self.released = newest
        self.at_end = False
        self.ended_at = now
        self.idle_since = now
        self.paused = False

    @property
    def waiting(self) -> int:
        return len(self.records) - self.head

    @property
    def order(self) -> tuple[int, int]:
        return (self.rank, self.partition[1])

    def future(self) -> Position:
        """No record still to come is before this."""
        time = self.newest + self.delay if self.newest != NEVER else NEVER
        return (time, self.rank, self.partition[1])

    def take(self, upto: int) -> list[Record]:
        """Remove and return the records in front of index `upto`."""
        taken = self.records[self.head : upto]
        self.head = upto
        if upto == len(self.records):
            self.records, self.times, self.head = [], [], 0
        elif upto > 4_096 and upto * 2 > len(self.records):
            del self.records[:upto], self.times[:upto]
            self.head = 0
        return taken


class Merge:
    """Buffers records by partition and releases them in order. Memory: at most about `high_water` records a partition
    plus one poll, provided the caller pauses and resumes what `overfull` and `drained` name."""

    def __init__(
        self, inputs: Sequence[InputTopic], max_idle_ms: float, max_skew_ms: int = HOUR_MS, high_water: int = 10_000
    ) -> None:
        self._inputs = {topic.name: (rank, topic.delay_ms) for rank, topic in enumerate(inputs)}
        if all(topic.delay_ms > 0 for topic in inputs):
            raise ValueError("at least one input must be undelayed: its timestamps are the clock of the delayed ones")
        self._max_idle_s = max_idle_ms / 1000
        self._skewed_s = min(self._max_idle_s, _MARKERS_COME_WITHIN_S)
        self._max_skew_ms = max_skew_ms
        self._high_water = high_water
        self._lanes: dict[Partition, _Lane] = {}
        self._fed_at = NEVER_FED
        self.more_to_release = False
        """Whether the last release was cut off by its limit."""

    def own(self, positions: Mapping[Partition, int], times: Mapping[Partition, int], now: float) -> None:
        """Start, or start again, at these offsets; what is buffered of these partitions is forgotten.

        `times` is the newest timestamp before the offset, as far as it is known. A restart must know it: records of a
        delayed topic wait until the others have passed them, and on these nothing new may come for long.
        """
        for partition, offset in positions.items():
            rank, delay = self._inputs[partition[0]]
            self._lanes[partition] = _Lane(partition, rank, delay, offset, times.get(partition, NEVER), now)

    def disown(self, partitions: Iterable[Partition]) -> None:
        for partition in partitions:
            self._lanes.pop(partition, None)

    @property
    def buffered(self) -> int:
        return sum(lane.waiting for lane in self._lanes.values())

    def feed(self, records: Iterable[Record], ends: Mapping[Partition, int], now: float, *, more: bool = False) -> None:
        """Take polled records, then the partition ends reported after them, with the offsets that reading has come to.
        Records of partitions that are not owned, or before the position asked for (fetched before a rewind), are
        ignored. `more`: the poll was cut off by its limit, so that an empty partition may well have records in the
        client's queue."""
        self._discount_absence(now, more)
        topic, number, lane = "", -1, None
        for record in records:
            if record.partition != number or record.topic != topic:
                topic, number = record.topic, record.partition
                lane = self._lanes.get((topic, number))
                if lane is not None:
                    lane.at_end = False
                    add_record, add_time = lane.records.append, lane.times.append
            if lane is None or record.offset < lane.next_offset:
                continue
            lane.next_offset = record.offset + 1
            if record.timestamp > lane.newest:
                lane.newest = record.timestamp
            add_record(record)
            add_time(lane.newest + lane.delay)
        for partition, offset in ends.items():
            ended = self._lanes.get(partition)
            if ended is None:
                continue
            ended.next_offset = max(ended.next_offset, offset)
            if not ended.at_end:
                ended.at_end, ended.ended_at = True, now

    def read_upto(self) -> dict[Partition, int]:
        """The offset that reading has come to in each partition of which nothing waits."""
        return {lane.partition: lane.next_offset for lane in self._lanes.values() if not lane.waiting}

    def times(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """The newest timestamp that was released of each; those of which nothing ever was are left out."""
        lanes = (self._lanes[partition] for partition in partitions if partition in self._lanes)
        return {lane.partition: lane.released for lane in lanes if lane.released != NEVER}

    def overfull(self) -> list[Partition]:
        """Partitions to pause now; each is named once."""
        full = [lane for lane in self._lanes.values() if not lane.paused and lane.waiting >= self._high_water]
        for lane in full:
            lane.paused = True
        return [lane.partition for lane in full]

    def drained(self) -> list[Partition]:
        """Paused partitions to resume now; each is named once."""
        low = self._high_water // 2
        ready = [lane for lane in self._lanes.values() if lane.paused and lane.waiting <= low]
        for lane in ready:
            lane.paused = False
        return [lane.partition for lane in ready]

    def paused(self) -> list[Partition]:
        """Partitions named by `overfull` and not since by `drained`."""
        return [lane.partition for lane in self._lanes.values() if lane.paused]

    def release(self, now: float, limit: int = NO_LIMIT) -> Released:
        """Everything whose turn has come, in time order; about `limit` records at most (equal times stay together)."""
        strict, forced = self._bounds(now)
        delayed = min(strict, self._watermark(now))
        cut = self._cut(forced, delayed, limit)
        self.more_to_release = cut != _ENDLESS
        for lane in self._lanes.values():
            if lane.waiting:
                lane.idle_since = now
        return self._take(min(strict, cut), min(forced, cut), min(delayed, cut))

    def release_all(self) -> Released:
        """Everything that waits, in order; nothing is waited for."""
        return self._take(_ENDLESS, _ENDLESS, _ENDLESS)

    def lag(self, high_watermarks: Mapping[Partition, int]) -> int:
        """Records not released yet, estimated: control records count, except where the end was seen."""
        behind = sum(
            max(0, high_watermarks.get(lane.partition, 0) - lane.next_offset)
            for lane in self._lanes.values()
            if not lane.at_end
        )
        return behind + self.buffered

    def next_release_at(self, now: float) -> float | None:
        """When time alone may let something go that waits now, or None."""
        if not any(lane.waiting for lane in self._lanes.values()):
            return None
        moments = (
            moment
            for lane in self._lanes.values()
            if not lane.waiting
            for moment in (
                (lane.ended_at + self._skewed_s, lane.ended_at + self._max_idle_s)
                if lane.at_end
                else (lane.idle_since + self._max_idle_s,)
            )
        )
        return min((moment for moment in moments if moment > now), default=None)

    def _bounds(self, now: float) -> tuple[Position, Position]:
        """What may be released in good order, and what may be released by force."""
        strict = forced = _ENDLESS
        for lane in self._lanes.values():
            future = lane.future()
            if lane.at_end:
                if lane.newest != NEVER and now - lane.ended_at < self._skewed_s:
                    ahead = (future[0] + self._max_skew_ms, _LAST_RANK, 0)
                    strict, forced = min(strict, ahead), min(forced, ahead)
                continue
            strict = min(strict, future)
            if lane.waiting or now - lane.idle_since < self._max_idle_s:
                forced = min(forced, future)
        return strict, forced

    def _watermark(self, now: float) -> Position:
        """How far the undelayed partitions have come."""
        newest_of_topic: dict[int, int] = {}
        for lane in self._lanes.values():
            newest_of_topic[lane.rank] = max(newest_of_topic.get(lane.rank, NEVER), lane.newest)
        lowest = _ENDLESS
        for lane in self._lanes.values():
            if lane.delay == 0:
                resting = lane.at_end and now - lane.ended_at >= self._max_idle_s
                newest = newest_of_topic[lane.rank] if resting else lane.newest
                lowest = min(lowest, (newest, *lane.order))
        return lowest if lowest != _ENDLESS else (NEVER, 0, 0)

    def _discount_absence(self, now: float, more: bool) -> None:
        """Time in which nobody polled, or polled with more left over, is no evidence that a partition has nothing."""
        absence = now - self._fed_at - (0.0 if more else _CONTINUOUS_S)
        self._fed_at = now
        if absence > 0 and absence != float("inf"):
            for lane in self._lanes.values():
                lane.idle_since += absence
                lane.ended_at += absence

    def _cut(self, forced: Position, delayed: Position, limit: int) -> Position:
        """The time up to which about `limit` records can be released; endless if all can."""
        if self.buffered <= limit:
            return _ENDLESS
        waiting = [lane for lane in self._lanes.values() if lane.waiting]
        parts = [(lane.times, lane.head, _reach(lane, delayed if lane.delay else forced)) for lane in waiting]
        parts = [part for part in parts if part[1] < part[2]]
        if sum(end - begin for _, begin, end in parts) <= limit:
            return _ENDLESS
        # The limit-th smallest time, by halving: to sort tens of thousands at each release would cost more than them.
        low = min(times[begin] for times, begin, _ in parts)
        high = max(times[end - 1] for times, _, end in parts)
        while low < high:
            middle = (low + high) // 2
            if sum(bisect_right(times, middle, begin, end) - begin for times, begin, end in parts) >= limit:
                high = middle
            else:
                low = middle + 1
        return (low, _LAST_RANK, 0)

    def _take(self, strict: Position, forced: Position, delayed: Position) -> Released:
        batches: list[list[Record]] = []
        times: list[list[int]] = []
        positions: dict[Partition, int] = {}
        counts: dict[str, int] = {}
        beyond = False
        for lane in sorted(self._lanes.values(), key=lambda lane: lane.order):
            upto = _reach(lane, delayed if lane.delay else forced) if lane.waiting else lane.head
            if upto == lane.head:
                continue
            beyond = beyond or (strict < forced and upto > _reach(lane, strict))
            times.append(lane.times[lane.head : upto])
            lane.released = lane.times[upto - 1] - lane.delay
            batch = lane.take(upto)
            batches.append(batch)
            positions[lane.partition] = batch[-1].offset + 1 if lane.waiting else lane.next_offset
            counts[lane.partition[0]] = counts.get(lane.partition[0], 0) + len(batch)
        return Released(_in_order(batches, times), positions, counts, beyond)


def _reach(lane: _Lane, limit: Position) -> int:
    """Index behind the last record of `lane` that is not after `limit`."""
    time, *order = limit
    find = bisect_right if lane.order <= tuple(order) else bisect_left
    return find(lane.times, time, lane.head)


def _in_order(batches: list[list[Record]], times: list[list[int]]) -> list[Record]:
    """Stable, so equal times keep the order of the batches: by rank, then by partition number."""
    if len(batches) <= 1:
        return batches[0] if batches else []
    records = list(chain.from_iterable(batches))
    keys = list(chain.from_iterable(times))
    return [records[index] for index in sorted(range(len(keys)), key=keys.__getitem__)]
