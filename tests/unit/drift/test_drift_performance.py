"""Binned average precision over a window of event time."""

import numpy as np
import numpy.typing as npt
import pytest

from tidemill.domain.quality import average_precision
from tidemill.drift.core.performance import BINS, OutcomeWindow, binned_average_precision, score_bins

DAY = 86_400_000


def outcomes(rows: int, seed: int = 0) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < 0.02).astype(np.int64)
    scores = 1 / (1 + np.exp(-(rng.normal(-5, 2, rows) + 4 * labels)))
    return np.sort(rng.integers(0, 10 * DAY, rows)), scores, labels


def test_bins_keep_the_order_of_scores_and_cover_both_ends() -> None:
    scores = np.array([0.0, 1e-9, 1e-7, 1e-3, 0.01, 0.4999999, 0.5, 0.51, 0.99, 0.999, 1 - 1e-7, 1.0])
    bins = score_bins(scores)
    assert (np.diff(bins) >= 0).all()
    assert bins[0] == 0 and bins[-1] == BINS - 1
    assert len(set(bins.tolist())) == 11  # only 0 and 1e-9 share one


def test_the_binned_figure_is_the_exact_one_with_scores_of_a_bin_tied() -> None:
    _, scores, labels = outcomes(20_000)
    bins = score_bins(scores)
    counts = np.bincount(labels * BINS + bins, minlength=2 * BINS).reshape(2, BINS)
    binned = binned_average_precision(counts[0], counts[1])
    assert binned == pytest.approx(average_precision(bins, labels), abs=1e-12)
    assert binned == pytest.approx(average_precision(scores, labels), abs=0.005)


def test_a_rule_of_two_scores_is_measured_exactly() -> None:
    window = OutcomeWindow(DAY, 7)
    window.add(np.arange(4), np.array([1.0, 1.0, 0.0, 0.0]), np.array([1, 0, 0, 1]))
    assert window.slide(DAY).average_precision == average_precision([1.0, 1.0, 0.0, 0.0], [1, 0, 0, 1])


def test_without_a_positive_there_is_no_figure() -> None:
    window = OutcomeWindow(DAY, 7)
    window.add(np.arange(3), np.array([0.1, 0.2, 0.3]), np.zeros(3, dtype=np.int64))
    seen = window.slide(DAY)
    assert (seen.rows, seen.positives, seen.average_precision) == (3, 0, None)


def test_the_window_holds_what_lies_between_its_ends_and_forgets_the_rest() -> None:
    times, scores, labels = outcomes(20_000)
    window = OutcomeWindow(DAY, 3)
    window.add(times, scores, labels)
    seen = window.slide(7 * DAY)
    inside = (times >= 4 * DAY) & (times < 7 * DAY)
    assert (seen.from_ms, seen.to_ms) == (4 * DAY, 7 * DAY)
    assert (seen.rows, seen.positives) == (inside.sum(), labels[inside].sum())
    assert window.slide(6 * DAY).rows == ((times >= 4 * DAY) & (times < 6 * DAY)).sum()


def test_a_window_written_down_and_read_back_goes_on_the_same() -> None:
    times, scores, labels = outcomes(5_000)
    whole, parted = OutcomeWindow(DAY, 5), OutcomeWindow(DAY, 5)
    whole.add(times, scores, labels)
    parted.add(times[:2_000], scores[:2_000], labels[:2_000])
    restored = OutcomeWindow(DAY, 5, parted.dump())
    restored.add(times[2_000:], scores[2_000:], labels[2_000:])
    assert restored.slide(10 * DAY) == whole.slide(10 * DAY)
