"""One watched quantity: is there a change, and is it large enough to matter."""

from collections.abc import Sequence

import numpy as np
import pytest

from tidemill.drift.core.watch import CONFIRM_ROWS, Baseline, Finding, LearningWatch, Sensitivity, Watch, Watched
from tidemill.drift.river_detectors import Adwin

SENSITIVITY = Sensitivity(delta=0.002 / 13, min_effect=0.1)


def uniform(rows: int, seed: int, mean: float = 0.5) -> list[float]:
    values: list[float] = (np.random.default_rng(seed).random(rows) * 0.4 + mean - 0.2).tolist()
    return values


def primed(sensitivity: Sensitivity = SENSITIVITY) -> Watch:
    return Watch(Baseline(0.5, 1.0, tuple(uniform(512, 99))), sensitivity, Adwin)


def feed(watch: Watched, values: Sequence[float], step: int = 100) -> Finding | None:
    """The finding, its row counted over all of `values`."""
    for low in range(0, len(values), step):
        part = values[low : low + step]
        finding = watch.take([1_000 * (low + row) for row in range(len(part))], part)
        if finding:
            return finding._replace(row=low + finding.row)
    return None


def test_a_stream_that_differs_from_the_reference_from_its_first_value_is_found() -> None:
    finding = feed(primed(), uniform(2_000, 1, mean=0.65))
    assert finding is not None
    assert finding.rows == finding.row + 1 <= 512
    assert finding.current - finding.reference == pytest.approx(finding.effect)
    assert finding.effect >= 0.1


def test_a_change_below_the_effect_floor_is_no_finding_however_long_it_lasts() -> None:
    assert feed(primed(), uniform(30_000, 2, mean=0.56)) is None


def test_after_a_small_change_a_large_one_is_still_found() -> None:
    finding = feed(primed(), uniform(10_000, 3, mean=0.55) + uniform(2_000, 4, mean=0.7))
    assert finding is not None
    assert 10_000 <= finding.row < 10_000 + 3 * CONFIRM_ROWS


def test_an_effect_that_the_first_look_understates_is_measured_on_later_values() -> None:
    """0.12 is found although the window in which the change is declared still holds values from before."""
    found = [feed(primed(), uniform(6_000, seed, mean=0.625)) for seed in range(20)]
    assert all(finding is not None for finding in found)


def test_a_finding_comes_once_in_the_life_of_a_watch() -> None:
    watch = primed()
    assert feed(watch, uniform(2_000, 5, mean=0.8)) is not None
    assert feed(watch, uniform(5_000, 6, mean=0.2)) is None


def test_a_quantity_of_which_only_a_rise_matters_ignores_a_fall() -> None:
    rising = Sensitivity(SENSITIVITY.delta, 0.1, rising_only=True)
    assert feed(primed(rising), uniform(5_000, 7, mean=0.3)) is None
    assert feed(primed(rising), uniform(5_000, 8, mean=0.7)) is not None


def test_a_learning_watch_takes_its_first_stretch_for_usual() -> None:
    watch = LearningWatch(512, 1_000 * 2_000, SENSITIVITY, Adwin)
    scores = (np.random.default_rng(9).beta(0.1, 9.9, 12_000)).tolist()
    assert feed(watch, scores) is None
    assert watch.mean == pytest.approx(0.01, abs=0.003)


def test_a_learning_watch_finds_a_rare_events_score_that_quadruples() -> None:
    """The mean moves from .01 to .04: .03 in plain numbers, but a third of the baseline's spread."""
    watch = LearningWatch(512, 1_000 * 2_000, SENSITIVITY, Adwin)
    rng = np.random.default_rng(10)
    usual, later = rng.beta(0.1, 9.9, 8_000).tolist(), rng.beta(0.4, 9.6, 8_000).tolist()
    finding = feed(watch, usual + later)
    assert finding is not None
    assert 8_000 <= finding.row < 10_000
    assert finding.rows == finding.row + 1


def test_a_learning_watch_waits_for_rows_and_for_stream_time() -> None:
    slow = LearningWatch(512, 1_000 * 3_000, SENSITIVITY, Adwin)
    assert feed(slow, uniform(2_900, 11, mean=0.3) + uniform(50, 12, mean=0.7)) is None
    assert slow.mean == pytest.approx(0.31, abs=0.02)


@pytest.mark.parametrize("step", [1, 7, 64, 1_000])
def test_how_values_are_split_into_calls_changes_nothing(step: int) -> None:
    values = uniform(1_500, 13, mean=0.58) + uniform(1_500, 14, mean=0.66)
    learnt = uniform(1_500, 15) + uniform(1_500, 16, mean=0.7)
    assert feed(primed(), values, step) == feed(primed(), values, 3_000)
    first, second = (LearningWatch(512, 1_000_000, SENSITIVITY, Adwin) for _ in range(2))
    assert feed(first, learnt, step) == feed(second, learnt, 3_000)
