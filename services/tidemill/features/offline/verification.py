"""Whether served vectors can be repeated: a seeded sample of them, computed again from events and labels."""

import hashlib
import heapq
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import msgspec

from tidemill.domain.featureset import feature_set_hash
from tidemill.errors import TidemillError
from tidemill.features.offline.backfill import Request, Say, backfill_topics
from tidemill.features.offline.bounds import Bound
from tidemill.features.offline.reach import is_whole
from tidemill.features.offline.topicinput import DISORDER_MS, Connection
from tidemill.runtime.ports import Partition

_POLL_RECORDS = 5_000
_POLL_S = 0.2


_Event = tuple[str, int]
"""Id and event time."""


class Served(msgspec.Struct, frozen=True, gc=False):
    """The part of a prediction, or of a record of the features topic, that is compared."""

    id: str
    event_time: int
    fs: str
    features: list[float | None]


class Mismatch(NamedTuple):
    """One value that differs. `feature` None: the vector as a whole could not be repeated (the event is refused or
    no longer in its topic)."""

    id: str
    event_time: int
    feature: str | None
    served: float | None
    recomputed: float | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`served` vectors of this feature set were found, `other` of another one, `unreadable` records; of the first
    `sampled` were drawn. `unrepeatable` of those look back to what has expired from the topics; the rest was
    compared."""

    served: int
    other: int
    unreadable: int
    sampled: int
    mismatches: tuple[Mismatch, ...]
    unrepeatable: int = 0
    ends: Mapping[Partition, int] = field(default_factory=dict)
    """Offsets behind what was looked at, by partition of the topic."""

    @property
    def compared(self) -> int:
        return self.sampled - self.unrepeatable

    @property
    def differing(self) -> int:
        """Vectors with at least one value that differs."""
        return len({(at.id, at.event_time) for at in self.mismatches})


class NothingServedError(TidemillError):
    """There is no vector of the feature set to verify. `verdict` says what there is."""

    def __init__(self, verdict: Verdict, message: str, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.verdict = verdict


@dataclass(frozen=True, slots=True)
class Sample:
    """What to draw: `size` vectors of `topic` by hash of seed and id, so that the same log gives the same sample;
    of the event time `since` or later, and not in front of the offsets `behind`."""

    topic: str
    size: int
    seed: int = 0
    since: int | None = None
    behind: Mapping[Partition, int] | None = None


def verify(request: Request, sample: Sample, connection: Connection, say: Say) -> Verdict:
    """Blocks for a backfill of the sample's span. Raises NothingServedError if there is nothing of this feature set."""
    drawn, verdict = _draw(request, sample, connection)
    if not drawn:
        raise NothingServedError(
            verdict,
            f"{sample.topic} holds no vector of feature set {feature_set_hash(request.pipeline)} to verify"
            + (f" since {sample.since} ms" if sample.since is not None else ""),
            hint=f"{verdict.other:,} vectors there are of another feature set; give the pipeline file that served.",
        )
    spanned = replace(request, start=Bound(min(time for _, time in drawn), {}))
    found: list[Mismatch] = []
    with backfill_topics(spanned, connection, say) as result:
        lost = [drawn.pop(event) for event in list(drawn) if not is_whole(event[1], result.whole_from)]
        for vector in result.vectors:
            for served in drawn.pop((vector.id, vector.event_time), ()):
                found += compare(served, vector.features, request.names)
    found += [Mismatch(id_, time, None, None, None) for id_, time in drawn]
    mismatches = tuple(sorted(found, key=lambda at: (at.event_time, at.id)))
    return replace(verdict, mismatches=mismatches, unrepeatable=sum(map(len, lost)))


def compare(served: Served, recomputed: list[float | None], names: tuple[str, ...]) -> list[Mismatch]:
    """Values must be the same to the last bit, null where null."""
    if len(served.features) != len(recomputed):
        return [Mismatch(served.id, served.event_time, None, None, None)]
    return [
        Mismatch(served.id, served.event_time, name, there, here)
        for name, there, here in zip(names, served.features, recomputed, strict=True)
        if there != here
    ]


def _draw(request: Request, sample: Sample, connection: Connection) -> tuple[dict[_Event, list[Served]], Verdict]:
    decode = msgspec.json.Decoder(Served).decode
    feature_set = feature_set_hash(request.pipeline)
    kept: list[tuple[int, str, int, int, Served]] = []
    served = other = unreadable = 0
    start = sample.behind
    if start is None and sample.since is not None:
        with closing(connection.reader([sample.topic])) as reader:
            start = reader.offsets_for_time(sample.since - DISORDER_MS)
    with closing(connection.reader([sample.topic], start)) as reader:
        ends = reader.end_offsets()
        while True:
            records = reader.poll(_POLL_RECORDS, _POLL_S)
            for record in records:
                if record.offset >= ends[record.topic, record.partition]:
                    continue
                try:
                    row = decode(record.value or b"")
                except msgspec.DecodeError:
                    unreadable += 1
                    continue
                if sample.since is not None and row.event_time < sample.since:
                    continue
                if row.fs != feature_set:
                    other += 1
                    continue
                served += 1
                entry = (-_rank(sample.seed, row.id), row.id, row.event_time, served, row)
                if len(kept) < sample.size:
                    heapq.heappush(kept, entry)
                elif entry[:3] > kept[0][:3]:
                    heapq.heapreplace(kept, entry)
            if reader.has_passed(ends) or (not records and reader.at_end()):
                break
    drawn: dict[_Event, list[Served]] = {}
    for *_, row in kept:
        drawn.setdefault((row.id, row.event_time), []).append(row)
    return drawn, Verdict(served, other, unreadable, len(kept), (), ends=ends)


def _rank(seed: int, id_: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{seed}\0{id_}".encode(), digest_size=8).digest(), "big")
