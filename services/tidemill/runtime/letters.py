"""Dead letters as they lie in their topic, and which of them somebody asks for. Pure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from tidemill.runtime.dlq import ADDRESSEE, ATTEMPT, to_letter
from tidemill.runtime.service import Record

_LENGTH_BYTES = 4


class Position(NamedTuple):
    """Where a letter lies in the dead-letter topic; written `2:17`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"


@dataclass(frozen=True, slots=True)
class Letter:
    """A record that was refused: `original` as it stood in its topic, without what a replay had added to it."""

    position: Position
    original: Record
    code: str
    service: str
    attempts: int
    """How many times it was put back already."""
    sha256: str
    """Of everything in the letter: tells it from another one at this position, of a topic that was made anew."""


def read_letter(record: Record) -> Letter | None:
    """None for a record that does not tell where it came from: nobody can put it back."""
    try:
        dead, service = to_letter(record)
    except (KeyError, ValueError):
        return None
    attempts = [value for name, value in dead.record.headers if name == ATTEMPT]
    headers = tuple(header for header in dead.record.headers if header[0] not in (ATTEMPT, ADDRESSEE))
    return Letter(
        Position(record.partition, record.offset),
        dead.record._replace(headers=headers),
        dead.code,
        service,
        _count(attempts[-1]) if attempts else 0,
        _digest(record),
    )


def _count(text: bytes) -> int:
    """A counter that is no number is somebody else's header: it counts nothing."""
    return int(text) if len(text) <= 9 and text.isdigit() else 0


def _digest(record: Record) -> str:
    """Every part with its length before it, so that no two letters run together."""
    parts: list[bytes | None] = [str(record.timestamp).encode(), record.key, record.value]
    for name, value in record.headers:
        parts += [name.encode(), value]
    found = hashlib.sha256()
    for part in parts:
        found.update(b"-" if part is None else len(part).to_bytes(_LENGTH_BYTES, "big") + part)
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are wanted; what is left empty asks for all. Times are those of the original records."""

    codes: frozenset[str] = frozenset()
    stages: frozenset[str] = frozenset()
    topics: frozenset[str] = frozenset()
    positions: frozenset[Position] = frozenset()
    since: int | None = None
    until: int | None = None

    def wants(self, letter: Letter) -> bool:
        """`since` is inclusive, `until` exclusive."""
        return (
            (not self.codes or letter.code in self.codes)
            and (not self.stages or letter.service in self.stages)
            and (not self.topics or letter.original.topic in self.topics)
            and (not self.positions or letter.position in self.positions)
            and (self.since is None or letter.original.timestamp >= self.since)
            and (self.until is None or letter.original.timestamp < self.until)
        )


def parse_positions(texts: Iterable[str]) -> frozenset[Position]:
    """`2:17` and the like. Raises ValueError naming the one that is none."""
    found = set()
    for text in texts:
        partition, colon, offset = text.strip().partition(":")
        if not (colon and all(part.isascii() and part.isdigit() for part in (partition, offset))):
            raise ValueError(f"{text!r} is no position of a dead letter")
        found.add(Position(int(partition), int(offset)))
    return frozenset(found)
