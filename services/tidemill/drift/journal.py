"""Where the present generation starts, how far it has come, and what of it is on the drift topic already.

The generation's detectors are not kept anywhere: after a restart its records are read again from its start. What they
lead to is not written until that is over, and never if it was written before: its deterministic id tells.
"""

from collections.abc import Iterable, Mapping

from tidemill.drift.changelog import EMITTED, GENERATION, HOME, SNAPSHOT, Beginning, Emitted, Start, entry
from tidemill.drift.core.records import Alarm, Drift, Generation, Statistics
from tidemill.runtime.service import Record, StateEntry

Place = tuple[str, int]
"""A topic and a partition of it."""


class Journal:
    """Bookkeeping of one generation after another. Offsets are of the next record to read."""

    def __init__(
        self, beginning: Beginning, starts: Mapping[Place, int], committed: Mapping[Place, int], emitted: Emitted
    ) -> None:
        self._beginning = beginning
        self._starts = dict(starts)
        self._committed = dict(committed)
        self._positions = {place: starts.get(place, offset) for place, offset in committed.items()} | self._starts
        self._emitted = emitted
        self._dirty: set[int] = set()
        self._news = False

    @property
    def resume_at(self) -> dict[Place, int]:
        """Where to read on from, for every partition that has a committed offset."""
        return {place: self._positions[place] for place in self._committed}

    def replayed(self, record: Record) -> bool:
        """The record was processed, and its results committed, in an earlier life."""
        return record.offset < self._committed.get((record.topic, record.partition), 0)

    def reads(self, record: Record) -> None:
        """The next record: where a partition's first one of the generation stands is the generation's start there."""
        place = (record.topic, record.partition)
        if place not in self._starts:
            self._starts[place] = record.offset
            self._dirty.add(record.partition)
        self._positions[place] = record.offset + 1

    def begin(self, beginning: Beginning, first: Record) -> None:
        """A generation starts with `first`, the record read last."""
        self._beginning = beginning
        self._starts = {**self._positions, (first.topic, first.partition): first.offset}
        self._dirty.update(partition for _, partition in self._starts)

    def unwritten(self, records: Iterable[Drift]) -> list[Drift]:
        """Those not on the drift topic yet; they count as written from here on."""
        return [record for record in records if self._is_new(record)]

    def entries(self) -> list[StateEntry]:
        """What changed since the last call, for the changelog."""
        generation = self._beginning.snapshot.generation
        entries: list[StateEntry] = []
        for partition in sorted(self._dirty):
            offsets = {topic: offset for (topic, number), offset in self._starts.items() if number == partition}
            entries.append(entry(partition, GENERATION, Start(generation, offsets)))
        if self._dirty:
            entries.append(entry(HOME, SNAPSHOT, self._beginning))
        if self._news:
            entries.append(entry(HOME, EMITTED, self._emitted))
        self._dirty, self._news = set(), False
        return entries

    def _is_new(self, record: Drift) -> bool:
        emitted = self._emitted
        if isinstance(record, Alarm):
            new = record.id not in emitted.alarms
            after = Emitted(emitted.generation, emitted.statistics_upto, (*emitted.alarms, record.id))
        elif isinstance(record, Statistics):
            new = record.watermark > emitted.statistics_upto
            after = Emitted(emitted.generation, record.watermark, emitted.alarms)
        else:
            new = record.generation > emitted.generation
            after = Emitted(record.generation, emitted.statistics_upto)
        if new:
            self._emitted, self._news = after, True
        return new


def record_key(record: Drift) -> bytes:
    """The key on the drift topic: the detector's name, or the kind of record."""
    if isinstance(record, Alarm):
        return record.detector.encode()
    return b"generation" if isinstance(record, Generation) else b"statistics"
