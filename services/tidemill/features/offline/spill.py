"""Items on disk between two stages of a backfill: written once in order, read once in order, bounded in memory."""

import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from tidemill.features.offline.items import Item

_HEADER = struct.Struct("<qqIBBii")
_BUFFER = 1 << 18
_NONE = -1


class SpillWriter:
    """One file of items; a context manager that closes it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=_BUFFER)

    def write(self, item: Item) -> None:
        key, value = item.key, item.value
        self._file.write(
            _HEADER.pack(
                item.effective,
                item.timestamp,
                item.partition,
                item.rank,
                item.wanted,
                _NONE if key is None else len(key),
                _NONE if value is None else len(value),
            )
        )
        if key:
            self._file.write(key)
        if value:
            self._file.write(value)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def read_spill(path: Path) -> Iterator[Item]:
    """The items in the order in which they were written."""
    with path.open("rb", buffering=_BUFFER) as file:
        while header := file.read(_HEADER.size):
            effective, timestamp, partition, rank, wanted, key_size, value_size = _HEADER.unpack(header)
            key = None if key_size == _NONE else file.read(key_size)
            value = None if value_size == _NONE else file.read(value_size)
            yield Item(effective, rank, partition, bool(wanted), timestamp, key, value)
