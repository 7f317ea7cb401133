"""Derived features against plain Python, a row at a time."""

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.expressions import Binary, Call, Expression, Name, Negative, Number, parse
from tidemill.features.core.derivation import evaluate

values = st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, math.nan, 1e308, -1e308, 5e-324, 1.0, -1.0])
rows = st.lists(st.tuples(values, values), min_size=1, max_size=30)
numbers = st.floats(0, 1e6).map(Number)
trees: st.SearchStrategy[Expression] = st.recursive(
    numbers | st.sampled_from([Name("x"), Name("y")]),
    lambda inner: (
        st.builds(Negative, inner)
        | st.builds(Binary, st.sampled_from(["+", "-", "*", "/"]), inner, inner)
        | st.builds(Call, st.sampled_from(["log", "log1p", "abs"]), st.tuples(inner))
        | st.builds(Call, st.sampled_from(["min", "max"]), st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(lambda value: Call("bucket", (value, Negative(Number(5.0)), Number(0.0), Number(10.0))), inner)
    ),
    max_leaves=8,
)


def plain(tree: Expression, row: dict[str, float]) -> float:
    """The definition, one row, without numpy."""
    match tree:
        case Number(value):
            return value
        case Name(name):
            return row[name]
        case Negative(operand):
            return -plain(operand, row)
        case Binary(operator, left, right):
            a, b = plain(left, row), plain(right, row)
            if math.isnan(a) or math.isnan(b) or (operator == "/" and b == 0):
                return math.nan
            result = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[operator]()
        case Call(function, arguments):
            given = [plain(argument, row) for argument in arguments]
            if any(math.isnan(value) for value in given):
                return math.nan
            if function == "bucket":
                return float(sum(given[0] >= bound for bound in given[1:]))
            if (function == "log" and given[0] <= 0) or (function == "log1p" and given[0] <= -1):
                return math.nan
            one = {"log": math.log, "log1p": math.log1p, "abs": abs}
            result = one[function](given[0]) if function in one else {"min": min, "max": max}[function](given)
    return result if math.isfinite(result) else math.nan


@given(trees, rows)
def test_columns_give_what_plain_python_gives_row_by_row(tree: Expression, table: list[tuple[float, float]]) -> None:
    x, y = np.array(table).T
    got = evaluate(tree, {"x": x, "y": y}, len(table))
    expected = np.array([plain(tree, {"x": a, "y": b}) for a, b in table])
    assert np.isnan(got).tolist() == np.isnan(expected).tolist() or _near_an_edge(tree)
    both = ~np.isnan(got) & ~np.isnan(expected)
    if not _has(tree, ("log", "log1p")):
        np.testing.assert_array_equal(got, expected)
    elif not _near_an_edge(tree):
        np.testing.assert_allclose(got[both], expected[both], rtol=1e-9, atol=1e-9)


def _has(tree: Expression, functions: tuple[str, ...]) -> bool:
    match tree:
        case Negative(operand):
            return _has(operand, functions)
        case Binary(_, left, right):
            return _has(left, functions) or _has(right, functions)
        case Call(function, arguments):
            return function in functions or any(_has(argument, functions) for argument in arguments)
        case _:
            return False


def _near_an_edge(tree: Expression) -> bool:
    """The last bit of a logarithm decides over what is computed from it: a quotient, a bucket, a difference."""
    match tree:
        case Binary(_, left, right):
            return _has(left, ("log", "log1p")) or _has(right, ("log", "log1p"))
        case Call(_, arguments):
            return any(_has(argument, ("log", "log1p")) for argument in arguments)
        case Negative(operand):
            return _near_an_edge(operand)
        case _:
            return False


def test_logarithms_have_the_same_bits_in_any_batch() -> None:
    chance = random.Random(1)
    table = np.array([[chance.expovariate(0.01), chance.random()] for _ in range(997)])
    tree = parse("log(x / y) + log1p(x)")
    whole = evaluate(tree, {"x": table[:, 0], "y": table[:, 1]}, len(table))
    for size in (1, 2, 3, 7, 8, 100):
        parts = [
            evaluate(tree, {"x": table[at : at + size, 0], "y": table[at : at + size, 1]}, len(table[at : at + size]))
            for at in range(0, len(table), size)
        ]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize(
    ("text", "x", "value"),
    [
        ("1 / x", 0.0, None),
        ("0 / x", 0.0, None),
        ("log(x)", 0.0, None),
        ("log(x)", -1.0, None),
        ("log1p(x)", -1.0, None),
        ("x * x", 1e200, None),
        ("max(x, 1)", math.nan, None),
        ("0 * x", math.nan, None),
        ("bucket(x, 1, 10, 100)", math.nan, None),
        ("bucket(x, 1, 10, 100)", 0.99, 0.0),
        ("bucket(x, 1, 10, 100)", 1.0, 1.0),
        ("bucket(x, 1, 10, 100)", 1e9, 3.0),
        ("abs(-x)", 2.0, 2.0),
        ("min(x, 3, 1)", 2.0, 1.0),
        ("7", 2.0, 7.0),
    ],
)
def test_what_is_undefined_is_null(text: str, x: float, value: float | None) -> None:
    (got,) = evaluate(parse(text), {"x": np.array([x])}, 1).tolist()
    assert (None if math.isnan(got) else got) == value
