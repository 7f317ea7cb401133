"""The two sketches keep the errors that they state, for any order of the rows."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.features.core import rings, sketches
from tidemill.features.core.rings import Int64s

VALUE = rings.NUMBERS


def ring(values: list[int]) -> tuple[Int64s, Int64s]:
    """(arena, line) of one ring that holds an event a value."""
    capacity = 1 << rings.size_class(len(values) + 1)
    arena = np.zeros((capacity, rings.PREFIX + 3), np.int64)
    line = np.zeros(rings.FIXED + 3, np.int64)
    line[rings.CAP], line[rings.HEAD] = capacity, len(values)
    sums = np.concatenate([[0], np.cumsum(np.array(values, np.int64))])
    arena[: len(values), rings.PREFIX + rings.WEIGHT] = np.arange(len(values))
    arena[: len(values), rings.PREFIX + VALUE] = sums[:-1]
    line[rings.FIXED + rings.WEIGHT], line[rings.FIXED + VALUE] = len(values), sums[-1]
    return arena, line


def quantile(values: list[int], millionths: int, scratch: Int64s) -> float:
    arena, line = ring(values)
    return float(sketches.quantile(arena, line, 0, len(values), VALUE, rings.WEIGHT, millionths, scratch))


def distinct(values: list[int], scratch: Int64s) -> float:
    with np.errstate(over="ignore"):
        arena, line = ring(values)
        return float(sketches.distinct(arena, line, 0, len(values), VALUE, rings.WEIGHT, scratch))


def scratch() -> Int64s:
    return np.zeros(sketches.SCRATCH, np.int64)


magnitudes = st.integers(0, 1 << 53) | st.integers(-(1 << 53), 0) | st.integers(-300, 300)


@given(st.lists(magnitudes, min_size=1, max_size=80), st.integers(0, 1_000_000))
def test_a_quantile_is_within_one_percent_of_the_value_at_its_rank(values: list[int], millionths: int) -> None:
    exact = sorted(values)[millionths * (len(values) - 1) // 1_000_000]
    assert abs(quantile(values, millionths, scratch()) - exact) <= 0.01 * abs(exact) * (1 + 1e-13)


def test_small_integers_are_exact_and_nothing_remains_from_call_to_call() -> None:
    used = scratch()
    assert [quantile(list(range(-49, 50)), at * 10_000, used) for at in range(0, 101, 25)] == [-49, -25, 0, 24, 49]
    assert not used.any()


@pytest.mark.parametrize("count", [0, 1, 4_095, 4_096])
def test_distinct_values_are_counted_exactly_to_the_bound(count: int) -> None:
    values = [number * 0x1234567 for number in range(count)] * 2
    used = scratch()
    assert [distinct(values, used), distinct(values[: count // 2], used)] == [count, count // 2]


@pytest.mark.parametrize("count", [4_097, 6_000, 12_000, 40_000, 150_000])
def test_beyond_the_bound_distinct_values_are_estimated_within_three_standard_errors(count: int) -> None:
    chance = random.Random(count)
    values = [chance.getrandbits(63) - (1 << 62) for _ in range(count)]
    estimate = distinct(values, scratch())
    assert abs(estimate - count) <= 3 * 1.04 / 64 * count
    chance.shuffle(values)
    assert distinct(values + values[:500], scratch()) == estimate == int(estimate)
