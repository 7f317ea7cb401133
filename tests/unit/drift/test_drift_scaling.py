"""Ranks in the training data: ties, constants, tails and nulls."""

from collections.abc import Sequence

import numpy as np
import pytest

from tidemill.drift.core.scaling import Scaler


def scale(grid: Sequence[float], values: Sequence[float]) -> list[float]:
    scaled: list[float] = Scaler(("x",), {"x": grid}).scale(np.array(values, dtype=np.float64)[:, None])[0].tolist()
    return scaled


def test_a_value_scales_to_the_level_at_which_the_grid_passes_it() -> None:
    assert scale([0.0, 10.0, 20.0, 30.0, 40.0], [0.0, 10.0, 15.0, 40.0]) == [0.0, 0.25, 0.375, 1.0]


def test_values_outside_the_grid_are_clipped() -> None:
    assert scale([1.0, 2.0, 3.0], [-1e300, 0.9, 3.1, 1e300]) == [0.0, 0.0, 1.0, 1.0]


def test_a_repeated_quantile_scales_to_its_mid_rank() -> None:
    assert scale([0.0, 0.0, 0.0, 0.0, 8.0], [0.0, 4.0, 8.0]) == [0.375, 0.875, 1.0]


def test_a_feature_constant_in_training_tells_only_equal_from_other() -> None:
    assert scale([5.0] * 101, [5.0, 5.0000001, -3.0]) == [0.0, 1.0, 1.0]
    assert Scaler(("x",), {"x": [5.0] * 101}).means == [0.0]


def test_null_stays_null() -> None:
    for grid in ([1.0, 2.0], [1.0, 1.0]):
        assert np.isnan(scale(grid, [np.nan, 1.0])).tolist() == [True, False]


def test_each_feature_has_a_grid_of_its_own() -> None:
    scaler = Scaler(("a", "b", "c"), {"a": (0.0, 1.0, 2.0), "b": (3.0, 3.0), "c": (0.0, 0.0, 0.0, 9.0, 9.0)})
    scaled = scaler.scale(np.array([[0.5, 3.0, 0.0], [np.nan, 4.0, 9.0]]))
    assert scaled[:, 0].tolist() == [0.25, 0.0, 0.25]
    assert scaled[1:, 1].tolist() == [1.0, 0.875]
    assert scaler.means == [0.5, 0.0, 0.5]


@pytest.mark.parametrize("kind", ["lognormal", "poisson", "zeros", "uniform"])
def test_the_training_data_average_one_half_whatever_their_distribution(kind: str) -> None:
    rng = np.random.default_rng(4)
    training = {
        "lognormal": rng.lognormal(2, 2, 50_000),
        "poisson": rng.poisson(3, 50_000).astype(float),
        "zeros": np.where(rng.random(50_000) < 0.9, 0.0, rng.random(50_000)),
        "uniform": rng.random(50_000),
    }[kind]
    scaled = scale(np.quantile(training, np.linspace(0, 1, 101)).tolist(), training.tolist())
    assert np.mean(scaled) == pytest.approx(0.5, abs=0.006)


@pytest.mark.parametrize("grid", [[1.0], [2.0, 1.0], [0.0, float("nan")], [0.0, float("inf")]])
def test_a_grid_that_is_no_grid_is_refused(grid: list[float]) -> None:
    with pytest.raises(ValueError, match="ascending"):
        scale(grid, [1.0])


def test_a_scaler_leaves_out_ignored_features_and_those_without_training_values() -> None:
    scaler = Scaler(("a", "b", "c", "d"), {"a": (0.0, 1.0), "b": (0.0, 1.0), "c": ()}, ignore=("a",))
    assert scaler.names == ("b",)
    assert scaler.scale(np.array([[9.0, 0.5, 9.0, 9.0]])).tolist() == [[0.5]]
