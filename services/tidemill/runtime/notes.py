"""What stands beside a committed offset, in the same transaction: how far the partition's time had come, and whose
commit it was. Pure.

The commit's name tells whether anything was committed for a partition since: state that was right after that commit is
right still.
"""

import re
import uuid
from collections.abc import Iterator, Mapping
from itertools import count
from typing import NamedTuple

from tidemill.runtime.ports import Partition

_FORM = re.compile(r"(?:newest (-?\d+) )?commit (\S+)")


class Note(NamedTuple):
    """`time` is the newest timestamp before the offset, None where no record came before it."""

    time: int | None
    commit: str


def write_note(note: Note) -> str:
    return f"commit {note.commit}" if note.time is None else f"newest {note.time} commit {note.commit}"


def read_note(text: str) -> Note | None:
    """None for anything that `write_note` did not write, such as what other tools leave."""
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    time, commit = found.groups()
    return Note(None if time is None else int(time), commit)


def commit_names() -> Iterator[str]:
    """Names that no other commit has, of this process or any other."""
    process = uuid.uuid4().hex[:12]
    return (f"{process}-{number}" for number in count(1))


def times_of(notes: Mapping[Partition, Note]) -> dict[Partition, int]:
    """As far as they are known."""
    return {at: note.time for at, note in notes.items() if note.time is not None}
