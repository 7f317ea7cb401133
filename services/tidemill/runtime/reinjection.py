"""Putting dead letters back where they came from: where to, which not, and how it is remembered. Pure.

Each letter that is put back leaves a marker in the topic `dlq-replays`, written in the same transaction. A marker says
for good that this letter is done, so replaying the same letters again, by accident or after a crash, repeats nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import orjson

from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.dlq import ADDRESSEE, ATTEMPT, stage_address, stage_of
from tidemill.runtime.letters import Letter, Position, parse_positions
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import plan

MARKERS = "dlq-replays"
"""The role of the topic that holds the markers."""
NOT_SERVICES = frozenset({"users", "producers"})


class Fate(Enum):
    """What becomes of a letter that was asked for; the values are those of `--json`."""

    REPLAY = "replay"
    REPLAYED_BEFORE = "replayed_before"
    TOO_MANY_ATTEMPTS = "too_many_attempts"
    NO_READER = "no_reader"
    NO_PARTITION = "no_partition"


HELD_BACK: Mapping[Fate, str] = {
    Fate.TOO_MANY_ATTEMPTS: "died again after each replay; see why with `tidemill dlq show`, repair it with "
    "--value-file, or raise --max-attempts",
    Fate.NO_READER: "the stage that refused it does not read its topic any more",
    Fate.NO_PARTITION: "its topic, or its partition there, does not exist any more",
}
"""Fates that somebody has to look at, with what they mean."""


class _Marker(msgspec.Struct, frozen=True):
    """Schema `dlq-replay`; the key is the letter's position."""

    sha256: str
    topic: str
    partition: int
    attempt: int
    at: int
    v: int = 1


@dataclass(slots=True)
class Ledger:
    """Which letters have been put back. Memory: about 250 bytes for each."""

    done: dict[Position, str] = field(default_factory=dict)

    def learn(self, record: Record) -> None:
        """Take a record of the marker topic, in order. What is no marker of ours is left alone."""
        try:
            (position,) = parse_positions([(record.key or b"").decode()])
        except ValueError:
            return
        if record.value is None:
            self.done.pop(position, None)
            return
        try:
            self.done[position] = msgspec.json.decode(record.value, type=_Marker).sha256
        except (msgspec.DecodeError, UnicodeDecodeError):
            return

    def holds(self, letter: Letter) -> bool:
        return self.done.get(letter.position) == letter.sha256

    def expired(self, low: Mapping[int, int]) -> list[Position]:
        """Markers of letters that are not in the log any more; `low` is the first offset of each partition."""
        return sorted(position for position in self.done if position.offset < low.get(position.partition, 0))


@dataclass(frozen=True, slots=True)
class Places:
    """The topics that stages read, with their readers, and how many partitions each has on the broker."""

    pipeline: str
    readers: Mapping[str, frozenset[str]]
    partitions: Mapping[str, int]

    @classmethod
    def of(cls, pipeline: Pipeline, partitions: Mapping[str, int]) -> "Places":
        readers = {topic.name: frozenset(topic.read_by) - NOT_SERVICES for topic in plan(pipeline)}
        return cls(pipeline.name, readers, partitions)

    def fate(self, letter: Letter, ledger: Ledger, max_attempts: int) -> Fate:
        original = letter.original
        if ledger.holds(letter):
            return Fate.REPLAYED_BEFORE
        if stage_of(letter.service) not in self.readers.get(original.topic, ()):
            return Fate.NO_READER
        if not 0 <= original.partition < self.partitions.get(original.topic, 0):
            return Fate.NO_PARTITION
        return Fate.TOO_MANY_ATTEMPTS if letter.attempts >= max_attempts else Fate.REPLAY

    def record(self, letter: Letter, repaired: bytes | None = None) -> OutRecord:
        """The record as it was, in the partition where it was, or with another value; with the counter, and for none
        but the stage that refused it."""
        original = letter.original
        headers = (
            *original.headers,
            (ATTEMPT, b"%d" % (letter.attempts + 1)),
            (ADDRESSEE, stage_address(self.pipeline, letter.service).encode()),
        )
        value = original.value if repaired is None else repaired
        return OutRecord(original.topic, original.key, value, original.timestamp, original.partition, headers)


def marker(letter: Letter, topic: str, at: int) -> OutRecord:
    """To be written in the transaction that puts the letter back."""
    original = letter.original
    row = _Marker(letter.sha256, original.topic, original.partition, letter.attempts + 1, at)
    return OutRecord(topic, str(letter.position).encode(), orjson.dumps(msgspec.to_builtins(row)), at, 0)


def forget(position: Position, topic: str, at: int) -> OutRecord:
    """Removes the marker of a letter that has expired."""
    return OutRecord(topic, str(position).encode(), None, at, 0)
