"""Parquet files, a row group at a time. The only module of this service that needs pyarrow (the extra `parquet`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import ConfigurationError, EnvironmentUnusable
from tidemill.features.core.holdings import ColumnType

_TYPES: Mapping[ColumnType, pa.DataType] = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64()}

_ACCEPTED: Mapping[ColumnType, Sequence[Callable[[pa.DataType], bool]]] = {
    "text": (pa.types.is_string, pa.types.is_large_string),
    "integer": (pa.types.is_integer,),
    "number": (pa.types.is_floating, pa.types.is_integer),
}


class ParquetSink:
    """Writes one file; it appears under its name only once `close` has finished it. A context manager: an exception
    removes what was written."""

    def __init__(self, path: Path, columns: Mapping[str, ColumnType]) -> None:
        """Raises ConfigurationError if the file cannot be written there."""
        if path.is_dir():
            raise ConfigurationError(f"{path} is a folder", hint="Name the file to write, such as its file.parquet.")
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._schema = pa.schema([pa.field(name, _TYPES[kind]) for name, kind in columns.items()])
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {path}: {error.strerror or error}", hint="Name a file in a folder that you may write to."
            ) from None

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """One row group: equally long columns, None where there is no value. Raises EnvironmentUnusable where the disk
        takes no more."""
        table = pa.Table.from_pydict(dict(columns), schema=self._schema)
        try:
            self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        except OSError as error:
            raise self._stuck(error) from None
        self.rows += table.num_rows

    def close(self, metadata: Mapping[str, str]) -> None:
        """Finish the file with `metadata` in its footer. Raises EnvironmentUnusable where the disk takes no more."""
        self._writer.add_key_value_metadata(dict(metadata))
        try:
            self._writer.close()
            self._part.replace(self._path)
        except OSError as error:
            raise self._stuck(error) from None

    def _stuck(self, error: OSError) -> EnvironmentUnusable:
        return EnvironmentUnusable(
            f"cannot go on writing {self._path}: {error.strerror or error}", hint="Make room, or name another disk."
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part.exists():
            with suppress(OSError):  # A full disk takes no footer either.
                self._writer.close()
            self._part.unlink()


def read_metadata(path: Path) -> dict[str, str]:
    """What `ParquetSink.close` put into the footer."""
    found = pq.ParquetFile(path).metadata.metadata or {}
    return {name.decode(): value.decode() for name, value in found.items() if name != b"ARROW:schema"}


def read_batches(path: Path, columns: Mapping[str, ColumnType], rows: int) -> Iterator[dict[str, list[Any]]]:
    """The named columns, at most `rows` at a time; an integer column may stand where numbers are wanted.

    Raises ConfigurationError if it is no Parquet file, lacks a column, has one twice or of another type, or is damaged.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(f"cannot read {path}: {error}", hint="It must be a Parquet file.") from None
    schema = file.schema_arrow
    missing = [name for name in columns if name not in schema.names]
    if missing:
        raise ConfigurationError(
            f"{path} has no column {', '.join(missing)}; it has {', '.join(schema.names)}",
            hint="Name the columns as the pipeline names the fields of its event (or label).",
        )
    if twice := [name for name in columns if schema.names.count(name) > 1]:
        raise ConfigurationError(
            f"{path} has more than one column {', '.join(twice)}", hint="Keep one of them when the file is written."
        )
    for name, kind in columns.items():
        found = schema.field(name).type
        if not any(is_kind(found) for is_kind in _ACCEPTED[kind]):
            wanted = {"text": "text", "integer": "a whole number", "number": "a number"}[kind]
            raise ConfigurationError(
                f"column {name} of {path} must be {wanted}, not {found}",
                hint="Cast it when the file is written; times are milliseconds since 1970 UTC.",
            )
    batches = file.iter_batches(batch_size=rows, columns=list(columns))
    read = 0
    while True:
        try:
            batch = next(batches, None)
            values = None if batch is None else batch.to_pydict()
        except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
            raise ConfigurationError(
                f"cannot read {path} behind row {read:,}: {error}",
                hint="The file is damaged, or its texts are not UTF-8: write it again.",
            ) from None
        if values is None:
            return
        yield values
        read += len(next(iter(values.values())))
