"""Ranking metrics against values worked out by hand."""

import math

import numpy as np
import pytest

from tidemill.domain.quality import (
    auc,
    average_precision,
    bootstrap_lower_bound,
    card_precision,
    paired_daily_difference,
)


def test_auc_counts_the_pairs_that_are_in_order() -> None:
    # positives .8 and .35, negatives .4 and .1: of four pairs, three are in order
    assert auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75


def test_a_tie_counts_half_in_the_auc() -> None:
    assert auc([0.5, 0.5], [0, 1]) == 0.5
    assert auc([0.2, 0.5, 0.5, 0.9], [0, 0, 1, 1]) == pytest.approx(3.5 / 4)


def test_average_precision_sums_precision_at_each_new_recall() -> None:
    # in order: hit (1/1), miss, hit (2/3), miss
    assert average_precision([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx((1 + 2 / 3) / 2)


def test_average_precision_takes_equal_scores_as_one_threshold() -> None:
    # a group of three with one positive, then a positive alone: ½ · 1/3 + ½ · 2/4
    assert average_precision([0.5, 0.5, 0.5, 0.1], [1, 0, 0, 1]) == pytest.approx(0.5 / 3 + 0.25)


def test_a_rule_of_zeros_and_ones_has_the_average_precision_of_its_two_thresholds() -> None:
    scores, labels = [1.0, 1.0, 0.0, 0.0, 0.0], [1, 0, 1, 0, 0]
    assert average_precision(scores, labels) == pytest.approx(0.5 * 0.5 + 0.5 * 0.4)


@pytest.mark.parametrize("labels", [[0, 0], []])
def test_what_no_positive_defines_is_none(labels: list[int]) -> None:
    scores = [0.1] * len(labels)
    assert average_precision(scores, labels) is None
    assert auc(scores, labels) is None


def test_the_order_of_rows_does_not_matter() -> None:
    random = np.random.default_rng(4)
    scores, labels = random.integers(0, 20, 500) / 20, random.random(500) < 0.1
    order = random.permutation(500)
    assert average_precision(scores[order], labels[order]) == pytest.approx(average_precision(scores, labels))
    assert auc(scores[order], labels[order]) == pytest.approx(auc(scores, labels))


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="equally long"):
        auc([0.1], [0, 1])


def test_card_precision_takes_each_card_once_a_day_with_its_highest_score() -> None:
    days, cards = [0, 0, 0, 0], ["a", "a", "b", "c"]
    assert card_precision(days, cards, [0.1, 0.9, 0.5, 0.4], [1, 0, 0, 1], k=2) == 0.5


def test_a_card_found_on_one_day_is_left_out_of_the_next() -> None:
    days, cards = [0, 0, 1, 1], ["a", "b", "a", "b"]
    scores, labels = [0.9, 0.1, 0.9, 0.1], [1, 0, 1, 1]
    # day 0: a is found. day 1: a is out, so b is on top and a fraud
    assert card_precision(days, cards, scores, labels, k=1) == 1.0


def test_fewer_cards_than_k_still_divide_by_k() -> None:
    assert card_precision([0], ["a"], [0.5], [1], k=4) == 0.25


def test_the_daily_difference_leaves_out_days_without_a_positive() -> None:
    days = [0, 0, 1, 1]
    difference = paired_daily_difference(days, [0.9, 0.1, 0.5, 0.5], [0.1, 0.9, 0.5, 0.5], [1, 0, 0, 0])
    assert difference.tolist() == [0.5]


def test_the_bound_lies_below_the_mean_and_falls_with_the_spread() -> None:
    narrow = bootstrap_lower_bound([0.10, 0.11, 0.12, 0.11, 0.10, 0.12, 0.11])
    wide = bootstrap_lower_bound([0.01, 0.20, 0.12, 0.02, 0.21, 0.11, 0.10])
    assert narrow is not None and wide is not None
    assert wide < narrow < 0.11


def test_equal_days_have_their_own_value_as_bound() -> None:
    bound = bootstrap_lower_bound([0.05] * 6)
    assert bound is not None and math.isclose(bound, 0.05)


def test_too_few_days_for_the_confidence_give_no_bound() -> None:
    assert bootstrap_lower_bound([0.3, 0.3, 0.3, 0.3], confidence=0.95) is None
    assert bootstrap_lower_bound([0.3, 0.3, 0.3, 0.3, 0.3], confidence=0.95) is not None


def test_the_bound_is_the_same_for_the_same_seed() -> None:
    values = [0.02, -0.01, 0.03, 0.01, 0.00, 0.02]
    assert bootstrap_lower_bound(values, seed=3) == bootstrap_lower_bound(values, seed=3)


@pytest.mark.parametrize("days", [5, 7, 14])
def test_without_a_difference_the_bound_exceeds_zero_in_about_a_twentieth_of_trials(days: int) -> None:
    random = np.random.default_rng(1)
    trials = random.normal(0.0, 0.03, (3_000, days))
    bounds = [bootstrap_lower_bound(trial, resamples=300, seed=seed) for seed, trial in enumerate(trials)]
    exceeded = sum(bound is not None and bound > 0 for bound in bounds)
    assert exceeded / len(trials) <= 0.06  # 5 % and two and a half standard errors
