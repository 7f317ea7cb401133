"""Durations as text and back."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from tidemill.domain.durations import (
    DAY_MS,
    LONGEST_MS,
    DurationMs,
    SignedMs,
    SpanMs,
    format_duration_ms,
    parse_duration_ms,
)


@given(st.integers(0, 10_000 * DAY_MS))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    assert parse_duration_ms(format_duration_ms(milliseconds)) == milliseconds


def test_the_largest_unit_that_is_whole_is_used() -> None:
    written = [format_duration_ms(value) for value in (0, 1, 1_000, 90_000, 3_600_000, 7 * DAY_MS, DAY_MS + 1)]
    assert written == ["0ms", "1ms", "1s", "90s", "1h", "7d", "86400001ms"]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1.5d", 129_600_000),
        ("0.001s", 1),
        ("0.0009765625d", 84_375),
        ("  07.50 s ", 7_500),
        ("0d", 0),
        (f"1.{'0' * 50}s", 1_000),
    ],
)
def test_fractions_are_taken_exactly(text: str, milliseconds: int) -> None:
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize("text", ["0.1ms", "1.0000000000000001d", "0.00048828125s", f"0.{'3' * 5_000}d"])
def test_what_is_no_whole_number_of_milliseconds_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a whole number of milliseconds"):
        parse_duration_ms(text)


@pytest.mark.parametrize(
    "text", ["", "d", "1", "1e3s", "-1d", "7D", "1.d", ".5d", "1 d x", "1d\n1d", "\N{ARABIC-INDIC DIGIT ONE}d"]
)
def test_other_texts_are_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration_ms(text)


@pytest.mark.parametrize("digits", [16, 400, 5_000])
def test_a_number_of_any_length_is_refused_in_a_short_message(digits: int) -> None:
    with pytest.raises(ValueError, match="is longer than 3650d") as caught:
        parse_duration_ms(f"{'9' * digits}d")
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("kind", [DurationMs, SpanMs, SignedMs])
@pytest.mark.parametrize("value", [LONGEST_MS + 1, "3650.5d", "999999999999999d", 10**400])
def test_durations_of_a_pipeline_file_are_bounded(kind: Any, value: object) -> None:
    assert TypeAdapter(kind).validate_python("3650d") == LONGEST_MS
    with pytest.raises(ValidationError, match="longer than 3650d"):
        TypeAdapter(kind).validate_python(value)


def test_a_signed_duration_is_bounded_on_both_sides() -> None:
    assert TypeAdapter(SignedMs).validate_python("-1.5s") == -1_500
    with pytest.raises(ValidationError, match="longer than 3650d"):
        TypeAdapter(SignedMs).validate_python("-3651d")
