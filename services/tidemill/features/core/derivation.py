"""Derived features: a parsed expression over columns. Each row on its own, so batching changes no bit.

Semantics as `domain.expressions` states them: NaN is null. The four operations, abs, min, max and bucket are exact or
correctly rounded; log and log1p have the last bit of the machine's numpy, the same for any batch on one machine.
"""

from collections.abc import Callable, Mapping
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from tidemill.domain.expressions import Binary, Call, Expression, Name, Negative, Number, constant

Column = NDArray[np.float64]


def evaluate(expression: Expression, columns: Mapping[str, Column], rows: int) -> Column:
    """float64[rows], contiguous; NaN where a column it reads is NaN, or the result is undefined. `columns` has every
    name of the expression."""
    with np.errstate(all="ignore"):
        return _evaluate(expression, columns, rows)


def _evaluate(expression: Expression, columns: Mapping[str, Column], rows: int) -> Column:
    match expression:
        case Number(value):
            return np.full(rows, value)
        case Name(name):
            # Contiguous: for strided columns numpy may take other code, with another last bit of a logarithm.
            return np.ascontiguousarray(columns[name])
        case Negative(operand):
            return -_evaluate(operand, columns, rows)
        case Binary(operator, left, right):
            return _finite(_OPERATORS[operator](_evaluate(left, columns, rows), _evaluate(right, columns, rows)))
        case Call("bucket", (value, *bounds)):
            return _bucket(_evaluate(value, columns, rows), [constant(bound) or 0.0 for bound in bounds])
        case Call(function, arguments):
            first, *others = (_evaluate(argument, columns, rows) for argument in arguments)
            if not others:
                return _finite(_FUNCTIONS[function](first))
            return reduce(_PAIRS[function], others, first)


_OPERATORS: Mapping[str, Callable[[Column, Column], Column]] = {
    "+": np.add,
    "-": np.subtract,
    "*": np.multiply,
    "/": np.divide,
}
_FUNCTIONS: Mapping[str, Callable[[Column], Column]] = {"log": np.log, "log1p": np.log1p, "abs": np.abs}
_PAIRS: Mapping[str, Callable[[Column, Column], Column]] = {"min": np.minimum, "max": np.maximum}


def _finite(values: Column) -> Column:
    """What is beyond all numbers (x ÷ 0, log 0, an overflow) is undefined."""
    return np.where(np.isfinite(values), values, np.nan)


def _bucket(values: Column, bounds: list[float]) -> Column:
    places = np.searchsorted(np.array(bounds), values, side="right").astype(np.float64)
    return np.where(np.isnan(values), np.nan, places)
