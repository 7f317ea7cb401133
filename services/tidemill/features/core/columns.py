"""The value columns that a stage keeps a row, and how they are made from the fields of a batch of events."""

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.filters import Filter, Operator
from tidemill.features.core import intake
from tidemill.features.core.exact import square_limbs
from tidemill.features.core.rings import Int64s, wrapping

Kind = Literal["value", "square_low", "square_high", "taken", "text", "label"]


@dataclass(frozen=True)
class Condition:
    """`field operator bound` on integers: of a number the fixed-point value, of a text its 64-bit hash."""

    field: str
    operator: Operator
    bound: int
    of_text: bool


Conditions = tuple[Condition, ...]


@dataclass(frozen=True)
class Column:
    """What an event contributes; where a condition does not hold, 0.

    `value`: its number `field` in fixed point. `square_low`, `square_high`: limbs of the square of that. `taken`: 1.
    `text`: the hash of its text `field`. `label`: 0, and its label's row contributes what the label changes.
    """

    kind: Kind
    field: str | None
    where: Conditions

    @property
    def stream(self) -> str | None:
        """The second stream whose records it is about; None for events."""
        return None


@dataclass(frozen=True)
class StreamColumn(Column):
    """What a record of the stream `joined` contributes; every other row 0."""

    joined: str

    @property
    def stream(self) -> str | None:
        return self.joined


def conditions_of(where: Filter | None, scales: Mapping[str, int]) -> Conditions:
    """The conditions of a filter, in an order that does not depend on how it was written. `scales` has the numbers.

    Numbers are compared as they are kept, rounded to their scale; a bound between two steps of it is moved to one.
    """
    found = set()
    for comparison in where.comparisons if where else ():
        field, sign, value = comparison.field, comparison.operator, comparison.value
        if isinstance(value, str):
            found.add(text_condition(field, sign, value))
            continue
        exact = value * Decimal(scales[field])
        rounding = ROUND_CEILING if sign in ("<", ">=") else ROUND_FLOOR
        found.add(Condition(field, sign, int(exact.to_integral_value(rounding)), of_text=False))
    return ordered(found)


def ordered(conditions: Iterable[Condition]) -> Conditions:
    """Each once, in an order of their own."""
    return tuple(sorted(set(conditions), key=repr))


def text_condition(field: str, sign: Operator, value: str) -> Condition:
    return Condition(field, sign, int(hash_texts([value])[0]), of_text=True)


def fields_of(columns: Iterable[Column], *, texts: bool, stream: str | None = None) -> tuple[str, ...]:
    """The number fields (or the text fields) of events, or of `stream`, that `columns` read, each once."""
    found: dict[str, None] = {}
    for column in columns:
        if column.stream != stream:
            continue
        if column.field is not None and (column.kind == "text") == texts:
            found[column.field] = None
        found |= dict.fromkeys(condition.field for condition in column.where if condition.of_text == texts)
    return tuple(found)


def fill(
    columns: Sequence[Column],
    numbers: Mapping[str, Int64s],
    texts: Mapping[str, Int64s],
    rows: int,
    stream: str | None = None,
) -> Int64s:
    """int64[rows, columns]: what each event, or each record of `stream`, contributes. `numbers` in fixed point and
    `texts` as hashes, by field."""
    out = np.empty((rows, len(columns)), np.int64)
    taken: dict[Conditions, NDArray[np.bool_]] = {}
    for at, column in enumerate(columns):
        if column.stream != stream:
            out[:, at] = 0
            continue
        if column.where not in taken:
            taken[column.where] = _taken(column.where, numbers, texts, rows)
        if column.kind == "taken":
            values: Int64s | int = 1
        elif column.kind == "label" or column.field is None:
            values = 0
        elif column.kind == "text":
            values = texts[column.field]
        elif column.kind == "value":
            values = numbers[column.field]
        else:
            values = square_limbs(numbers[column.field])[column.kind == "square_high"]
        out[:, at] = np.where(taken[column.where], values, 0) if column.where else values
    return out


def _taken(
    where: Conditions, numbers: Mapping[str, Int64s], texts: Mapping[str, Int64s], rows: int
) -> NDArray[np.bool_]:
    holds = np.ones(rows, np.bool_)
    for condition in where:
        values = (texts if condition.of_text else numbers)[condition.field]
        holds &= _COMPARE[condition.operator](values, condition.bound)
    return holds


_COMPARE: dict[str, Callable[[Int64s, int], NDArray[np.bool_]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def hash_texts(texts: Sequence[str]) -> Int64s:
    """64-bit hashes, the same on every machine and in every run."""
    lengths = list(map(len, texts))
    text = "".join(texts).encode()
    if len(text) != sum(lengths):
        lengths = [len(one.encode()) for one in texts]
    out = np.empty(len(texts), np.uint64)
    with wrapping():
        intake.hash_ids(np.frombuffer(text, np.uint8), np.array(lengths, np.int64), out)
    return out.view(np.int64)
