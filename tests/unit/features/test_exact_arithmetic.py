"""Deviations through 128-bit integers, weights by table: against Python's integers and decimals."""

import math
from decimal import Decimal, localcontext

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from tidemill.features.core.exact import deviation, halved, square_limbs

amounts = st.integers(-(1 << 33), 1 << 33)


@given(st.lists(amounts, min_size=1, max_size=60), st.sampled_from([1, 100, 1_000_000]))
@example([(1 << 33)] * 59 + [-(1 << 33)], 100)
@example([(1 << 33) - 1, 1 << 33], 1)
def test_a_deviation_is_that_of_exact_integers_rounded_once(values: list[int], scale: int) -> None:
    low, high = square_limbs(np.array(values, np.int64))
    count, total = len(values), sum(values)
    exact = count * sum(value * value for value in values) - total * total
    got = deviation(count, total, int(low.sum()), int(high.sum()), scale)
    assert got == math.sqrt(exact) / (count * scale)


def test_a_million_large_values_that_differ_by_one_unit_keep_their_deviation() -> None:
    values = np.full(1_000_000, (1 << 33) - 1, np.int64)
    values[::2] -= 1
    low, high = square_limbs(values)
    assert deviation(1_000_000, int(values.sum()), int(low.sum()), int(high.sum()), 1) == 0.5


@given(st.lists(st.integers(-(1 << 45), 1 << 45), max_size=30))
def test_the_limbs_of_a_square_make_the_square(values: list[int]) -> None:
    low, high = square_limbs(np.array(values, np.int64))
    assert [(upper << 31) + lower for lower, upper in zip(low.tolist(), high.tolist(), strict=True)] == [
        value * value for value in values
    ]
    assert all(0 <= lower < 1 << 31 for lower in low.tolist())


@given(st.integers(0, 10**12), st.integers(1, 10**9))
@example(0, 7)
@example(63, 64)
@example(86_400_000 * 20, 86_400_000)
def test_a_weight_is_half_a_half_life_later_to_three_units_in_the_last_place(age: int, half_life: int) -> None:
    with localcontext() as context:
        context.prec = 40
        exact = Decimal(2) ** (-Decimal(age) / half_life)
    got = halved(age, half_life)
    if exact < Decimal(10) ** -300:
        assert got <= 1e-299
    else:
        assert abs(Decimal(got) - exact) <= 3 * Decimal(math.ulp(float(exact)))


def test_whole_half_lives_are_powers_of_two() -> None:
    assert [halved(age, 10) for age in (0, 10, 20, 30, 10_740, 11_010)] == [1.0, 0.5, 0.25, 0.125, 2.0**-1074, 0.0]
