"""Feature records → a matrix for the model, and the records that cannot become a row, each with its reason."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import msgspec
import numpy as np

from tidemill.domain.pipeline import Pipeline
from tidemill.inference.core.model import Matrix
from tidemill.runtime.service import DeadLetter, Record

_CLOSING_BRACE = ord("}")


class FeatureRow(Protocol):
    """What inference reads of a feature record; `measure` is the field that the fallback rule looks at."""

    id: str
    event_time: int
    fs: str
    features: list[float | None]
    measure: float


class Rows(NamedTuple):
    """Records that can be scored, in order, with their decoded parts and their matrix (null → NaN)."""

    records: list[Record]
    decoded: list[FeatureRow]
    matrix: Matrix


class RowReader:
    """Decodes feature records of one pipeline and one feature set."""

    def __init__(self, pipeline: Pipeline, feature_set: str) -> None:
        self._width = len(pipeline.feature_names)
        self._feature_set = feature_set
        self._decoder = _decoder(pipeline.decision.fallback.field)

    def read(self, records: Sequence[Record]) -> tuple[Rows, list[DeadLetter]]:
        """Everything but the rows named in the dead letters (`bad_record`) goes to the model.

        A feature is a finite number that float32 can hold, or null. An infinity never passes, neither written out nor
        by overflow: JSON has none, and the cast is checked.
        """
        good: list[Record] = []
        decoded: list[FeatureRow] = []
        vectors: list[list[float | None]] = []
        dead: list[DeadLetter] = []
        decode, width, feature_set = self._decoder.decode, self._width, self._feature_set
        for record in records:
            value = record.value
            if value is None or record.key is None:
                dead.append(_bad(record, "a feature record needs a key and a value"))
                continue
            try:
                row = cast(FeatureRow, decode(value))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                dead.append(_bad(record, str(error)))
                continue
            vector = row.features
            if len(vector) != width or row.fs != feature_set or value[-1] != _CLOSING_BRACE:
                dead.append(_bad(record, self._mismatch(row)))
                continue
            good.append(record)
            decoded.append(row)
            vectors.append(vector)
        rows = Rows(good, decoded, self._matrix(vectors))
        if np.isinf(rows.matrix).any():
            return _without(rows, set(np.nonzero(np.isinf(rows.matrix))[0].tolist()), dead)
        return rows, dead

    def _matrix(self, vectors: list[list[float | None]]) -> Matrix:
        if not vectors:
            return np.empty((0, self._width), np.float32)
        with np.errstate(over="ignore"):  # an overflow becomes an infinity, which `read` refuses
            return np.array(vectors, np.float32)

    def _mismatch(self, row: FeatureRow) -> str:
        if row.fs != self._feature_set:
            return f"feature set {row.fs}, this service scores {self._feature_set}"
        if len(row.features) != self._width:
            return f"{len(row.features)} features, the pipeline has {self._width}"
        return "white space after the closing brace: the prediction is spliced in there"


def _decoder(measure_field: str) -> msgspec.json.Decoder[msgspec.Struct]:
    class Fields(msgspec.Struct, rename={"measure": measure_field}, gc=False):
        id: str
        event_time: int
        fs: str
        features: list[float | None]
        measure: float

    return msgspec.json.Decoder(Fields)


def _without(rows: Rows, refused: set[int], dead: list[DeadLetter]) -> tuple[Rows, list[DeadLetter]]:
    kept = [index for index in range(len(rows.records)) if index not in refused]
    dead += [_bad(rows.records[index], "a feature is too large for float32") for index in sorted(refused)]
    return Rows([rows.records[i] for i in kept], [rows.decoded[i] for i in kept], rows.matrix[kept]), dead


def _bad(record: Record, message: str) -> DeadLetter:
    return DeadLetter(record, "bad_record", message)
