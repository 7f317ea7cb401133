"""The language of `where`: what it means, and what is said about a text that means nothing."""

from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.filters import Comparison, Filter, FilterError, Operator, parse_filter


def test_comparisons_are_joined_by_and() -> None:
    assert parse_filter("channel == \"web\" and amount >= 9.50 and kind != 'a b'") == Filter(
        (
            Comparison("channel", "==", "web"),
            Comparison("amount", ">=", Decimal("9.5")),
            Comparison("kind", "!=", "a b"),
        )
    )


@pytest.mark.parametrize("text", ["amount<-3", "  amount  <  -3.0 ", "amount < -3 and amount < -3.00"])
def test_spaces_repetition_and_spelling_change_nothing(text: str) -> None:
    assert str(parse_filter(text)) == "amount < -3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the name of a field, not the end"),
        ("amount", "expected one of == != < <= > >=, not the end"),
        ("amount ==", "expected a number or a quoted text, not the end"),
        ("amount == other", "expected a number or a quoted text, not 'other' at column 11"),
        ("channel < 'web'", "a text is compared by == or !=, not '<' at column 9"),
        ("a == 1 or b == 2", "expected `and` or the end, not 'or' at column 8"),
        ("a == 1 and", "expected the name of a field, not the end"),
        ("and == 1", "expected the name of a field, not 'and' at column 1"),
        ("1 == a", "expected the name of a field, not '1' at column 1"),
        ("a = 1", "cannot read '= 1' at column 3"),
        ('a == "x', "cannot read '\"x' at column 6"),
        ("a == 1.2.3", "cannot read '1.2.3' at column 6"),
        ("a == 1e5", "cannot read '1e5' at column 6"),
        ("__import__('os')", "cannot read \"('os')\" at column 11"),
    ],
)
def test_a_text_that_is_no_filter_is_refused_at_its_column(text: str, said: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert str(caught.value) == said


names = st.from_regex(r"[a-z][a-z0-9_]{0,9}", fullmatch=True).filter(lambda name: name != "and")
texts = st.text(st.characters(codec="utf-8", exclude_characters='"'), max_size=12)
numbers = st.decimals(-(10**9), 10**9, allow_nan=False, places=4)
signs: st.SearchStrategy[Operator] = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
equalities: st.SearchStrategy[Operator] = st.sampled_from(["==", "!="])
comparisons = st.builds(Comparison, names, equalities, texts) | st.builds(Comparison, names, signs, numbers)


@given(st.lists(comparisons, min_size=1, max_size=4, unique=True))
def test_what_a_filter_is_written_as_reads_as_the_same_filter(parts: list[Comparison]) -> None:
    written = Filter(tuple(parts))
    assert parse_filter(str(written)) == written


@given(st.text(max_size=30))
def test_any_text_is_a_filter_or_refused(text: str) -> None:
    with suppress(FilterError):
        assert parse_filter(text).comparisons
