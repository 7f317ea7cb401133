"""Items on disk between two stages of a backfill: written once in order, read once in order, bounded in memory."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from types import TracebackType
from typing import Self

from tidemill.errors import ConfigurationError, EnvironmentUnusable
from tidemill.features.offline.items import Item

_HEADER = struct.Struct("<qqIBBii")
_BUFFER = 1 << 18
_NONE = -1


@contextmanager
def spill_folder(purpose: str, parent: Path | None) -> Iterator[Path]:
    """A folder for spills in `parent` (None: the system's for temporary files), removed with what is in it.

    Raises ConfigurationError if it cannot be made.
    """
    try:
        made = TemporaryDirectory(prefix=f"tidemill-{purpose}-", dir=parent)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write temporary files in {parent or gettempdir()}: {error.strerror}",
            hint="Name a folder that is there and yours with --temp-dir.",
        ) from None
    with made as name:
        yield Path(name)


class SpillWriter:
    """One file of items; a context manager that closes it. Raises EnvironmentUnusable where the disk is full."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("wb", buffering=_BUFFER)
        except OSError as error:
            raise self._stuck(error) from None

    def write(self, item: Item) -> None:
        key, value = item.key, item.value
        header = _HEADER.pack(
            item.effective,
            item.timestamp,
            item.partition,
            item.rank,
            item.wanted,
            _NONE if key is None else len(key),
            _NONE if value is None else len(value),
        )
        try:
            self._file.write(header)
            if key:
                self._file.write(key)
            if value:
                self._file.write(value)
        except OSError as error:
            raise self._stuck(error) from None

    def _stuck(self, error: OSError) -> EnvironmentUnusable:
        return EnvironmentUnusable(
            f"cannot write a temporary file in {self._path.parent.parent}: {error.strerror or error}",
            hint="Make room there, or name a folder on a larger disk with --temp-dir.",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError as failure:
            raise self._stuck(failure) from None


def read_spill(path: Path) -> Iterator[Item]:
    """The items in the order in which they were written."""
    with path.open("rb", buffering=_BUFFER) as file:
        while header := file.read(_HEADER.size):
            effective, timestamp, partition, rank, wanted, key_size, value_size = _HEADER.unpack(header)
            key = None if key_size == _NONE else file.read(key_size)
            value = None if value_size == _NONE else file.read(value_size)
            yield Item(effective, rank, partition, bool(wanted), timestamp, key, value)
