"""Expressions as text: what is read, what is refused and where, and that a tree survives being written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.expressions import (
    DEEPEST,
    LONGEST,
    Binary,
    Call,
    Expression,
    ExpressionError,
    Name,
    Negative,
    Number,
    names,
    parse,
    text_of,
)

X, Y, Z = Name("x"), Name("y"), Name("z")

leaves = st.floats(0, 1e300).map(Number) | st.sampled_from([X, Y, Z, Name("log")])
trees: st.SearchStrategy[Expression] = st.recursive(
    leaves,
    lambda inner: (
        st.builds(Negative, inner)
        | st.builds(Binary, st.sampled_from(["+", "-", "*", "/"]), inner, inner)
        | st.builds(Call, st.sampled_from(["log", "log1p", "abs"]), st.tuples(inner))
        | st.builds(Call, st.sampled_from(["min", "max"]), st.lists(inner, min_size=2, max_size=4).map(tuple))
        | st.builds(lambda value: Call("bucket", (value, Negative(Number(1.0)), Number(0.0), Number(10.0))), inner)
    ),
    max_leaves=12,
)


@given(trees)
def test_a_tree_survives_being_written_and_read(tree: Expression) -> None:
    assert parse(text_of(tree)) == tree


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("x + y * z", Binary("+", X, Binary("*", Y, Z))),
        ("x - y - z", Binary("-", Binary("-", X, Y), Z)),
        ("x / y / z", Binary("/", Binary("/", X, Y), Z)),
        ("(x + y) * z", Binary("*", Binary("+", X, Y), Z)),
        ("-x * y", Binary("*", Negative(X), Y)),
        ("x × −y ÷ 2", Binary("/", Binary("*", X, Negative(Y)), Number(2.0))),
        ("1.5e-3 + .5 + 2.", Binary("+", Binary("+", Number(0.0015), Number(0.5)), Number(2.0))),
        (" log ( x ) ", Call("log", (X,))),
        ("log", Name("log")),
        ("max(x, y, 1)", Call("max", (X, Y, Number(1.0)))),
        ("bucket(x, -1, 10)", Call("bucket", (X, Negative(Number(1.0)), Number(10.0)))),
    ],
)
def test_operators_bind_as_in_arithmetic(text: str, tree: Expression) -> None:
    assert parse(text) == tree


def test_names_are_found_where_they_stand() -> None:
    assert [(name.name, name.column) for name in names(parse("log(x / yy) + x"))] == [("x", 5), ("yy", 9), ("x", 15)]


@pytest.mark.parametrize(
    ("text", "column", "said"),
    [
        ("", 1, "in front of the end"),
        ("x +", 4, "in front of the end"),
        ("x y", 3, "operator is missing in front of 'y'"),
        ("2x", 2, "operator is missing in front of 'x'"),
        ("(x + y", 7, "')' is missing"),
        ("x)", 2, "operator is missing in front of ')'"),
        ("x ^ 2", 3, "'^' means nothing here"),
        ("x ** 2", 4, "in front of '*'"),
        ("__import__('os')", 12, "means nothing here"),
        ("exec(x)", 1, "unknown function 'exec'"),
        ("x.y", 2, "means nothing here"),
        ("log()", 5, "in front of ')'"),
        ("1 + log(x, y)", 5, "log takes 1 argument, not 2"),
        ("min(x)", 1, "min takes at least 2 arguments, not 1"),
        ("bucket(x, y)", 11, "must be a number"),
        ("bucket(x, 1, 1)", 14, "must ascend"),
        ("1e999", 1, "too large a number"),
        ("größe + 1", 3, "means nothing here"),
        ("(" * (DEEPEST + 1) + "x", DEEPEST + 1, "levels inside one another"),
        ("-" * 900 + "x", DEEPEST + 1, "levels inside one another"),
        ("x" * (LONGEST + 1), LONGEST + 1, "at most 1000 characters"),
    ],
)
def test_what_is_wrong_is_said_with_its_column(text: str, column: int, said: str) -> None:
    with pytest.raises(ExpressionError) as refused:
        parse(text)
    assert refused.value.column == column
    assert said in refused.value.message


@given(st.text(alphabet="xy1.+-*/(), logbucketmin^é−", max_size=40))
def test_any_text_is_a_tree_or_an_error_with_a_column_in_it(text: str) -> None:
    assert 1 <= column_of_error(text) <= len(text) + 1


def column_of_error(text: str) -> int:
    try:
        parse(text)
    except ExpressionError as error:
        return error.column
    return 1
