"""Parquet files, a row group at a time. The only module of this service that needs pyarrow (the extra `parquet`)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from tidemill.errors import ConfigurationError
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
        """Raises ConfigurationError if the folder cannot be written."""
        self._path = path
        self._part = path.with_name(path.name + ".part")
        self._schema = pa.schema([pa.field(name, _TYPES[kind]) for name, kind in columns.items()])
        self.rows = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {path}: {error.strerror or error}", hint="Give --to a file in a folder of yours."
            ) from None

    def write(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """One row group: equally long columns, None where there is no value."""
        table = pa.Table.from_pydict(dict(columns), schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def close(self, metadata: Mapping[str, str]) -> None:
        """Finish the file with `metadata` in its footer."""
        self._writer.add_key_value_metadata(dict(metadata))
        self._writer.close()
        self._part.replace(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._part.exists():
            self._writer.close()
            self._part.unlink()


def read_metadata(path: Path) -> dict[str, str]:
    """What `ParquetSink.close` put into the footer."""
    found = pq.ParquetFile(path).metadata.metadata or {}
    return {name.decode(): value.decode() for name, value in found.items() if name != b"ARROW:schema"}


def read_batches(path: Path, columns: Mapping[str, ColumnType], rows: int) -> Iterator[dict[str, list[Any]]]:
    """The named columns, at most `rows` at a time; an integer column may stand where numbers are wanted.

    Raises ConfigurationError if it is no Parquet file, lacks a column, or has one of another type.
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
    for name, kind in columns.items():
        found = schema.field(name).type
        if not any(is_kind(found) for is_kind in _ACCEPTED[kind]):
            wanted = {"text": "text", "integer": "a whole number", "number": "a number"}[kind]
            raise ConfigurationError(
                f"column {name} of {path} must be {wanted}, not {found}",
                hint="Cast it when the file is written; times are milliseconds since 1970 UTC.",
            )
    for batch in file.iter_batches(batch_size=rows, columns=list(columns)):
        yield batch.to_pydict()
