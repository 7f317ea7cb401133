"""Memory that leaks is told from memory that is noisy, saws or is merely large."""

import numpy as np
import pytest
from numpy.typing import NDArray

from enduring.growth import BLOCKS, Growth, growth, rises

AT = np.arange(0.0, 1_200.0, 5.0)
"""What is judged of half an hour: the last twenty minutes, a sample every five seconds."""
LEAK = 10 / 1_800
"""Megabytes a second: ten in half an hour."""


def noise(seed: int, size: float) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(0.0, size, len(AT))


def sawtooth(period_s: float, height: float) -> NDArray[np.float64]:
    return (AT % period_s) / period_s * height


def of(values: NDArray[np.float64]) -> Growth:
    return growth(AT.tolist(), values.tolist())


@pytest.mark.parametrize("size", [0.1, 3.0, 30.0])
def test_a_level_series_hardly_ever_passes_for_growing_however_noisy(size: float) -> None:
    called_growing = sum(of(300 + noise(seed, size)).grows for seed in range(200))
    assert called_growing <= 6  # 1 % of 200, and luck


@pytest.mark.parametrize("size", [0.0, 0.5, 3.0])
def test_ten_megabytes_in_half_an_hour_are_found_on_a_process_of_three_hundred(size: float) -> None:
    found = [of(300 + LEAK * AT + noise(seed, size)) for seed in range(50)]
    assert all(one.grows for one in found)
    assert np.mean([one.growth for one in found]) == pytest.approx(LEAK * AT[-1], rel=0.1)


@pytest.mark.parametrize("period_s", [30.0, 60.0, 110.0, 200.0])
def test_a_sawtooth_is_no_growth(period_s: float) -> None:
    assert not any(of(300 + sawtooth(period_s, 20.0) + noise(seed, 1.0)).grows for seed in range(50))


def test_no_noise_and_no_sawtooth_hides_a_rise_that_shows_through() -> None:
    assert of(300 + 0.05 * AT + noise(1, 10.0)).grows
    assert of(300 + 0.05 * AT + sawtooth(60.0, 20.0) + noise(1, 10.0)).grows


def test_a_rise_that_is_certain_but_tiny_is_no_leak() -> None:
    tiny = of(300 + 0.002 * AT)
    assert tiny.at_least > 0
    assert not tiny.grows


def test_a_series_that_falls_does_not_grow() -> None:
    assert not of(300 - 0.05 * AT).grows


def test_too_few_samples_are_no_proof_of_anything() -> None:
    with pytest.raises(ValueError, match="at least 12"):
        growth(list(range(BLOCKS - 1)), [1.0] * (BLOCKS - 1))


@pytest.mark.parametrize(
    ("counts", "answer"),
    [
        ([20, 20, 20, 20, 20, 20], False),
        ([20, 23, 20, 25, 20, 23], False),  # connections that come and go
        ([25, 24, 23, 22, 20, 20], False),
        ([20, 20, 20, 21, 21, 21], True),
        ([20, 22, 21, 23, 24, 25], True),
        ([20, 20], False),
    ],
)
def test_one_open_file_more_that_stays_is_a_rise(counts: list[int], answer: bool) -> None:
    assert rises(counts) is answer
