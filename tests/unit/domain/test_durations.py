"""Durations as text and back."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.domain.durations import DAY_MS, format_duration_ms, parse_duration_ms


@given(st.integers(0, 10_000 * DAY_MS))
def test_what_is_written_is_read_back(milliseconds: int) -> None:
    assert parse_duration_ms(format_duration_ms(milliseconds)) == milliseconds


def test_the_largest_unit_that_is_whole_is_used() -> None:
    written = [format_duration_ms(value) for value in (0, 1, 1_000, 90_000, 3_600_000, 7 * DAY_MS, DAY_MS + 1)]
    assert written == ["0ms", "1ms", "1s", "90s", "1h", "7d", "86400001ms"]
