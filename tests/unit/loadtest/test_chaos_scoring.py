"""The harness' models say what the audit computes, of each version and each row; and when a promotion is due."""

import numpy as np
import onnxruntime

from chaosharness.modelfeed import graph_of
from chaosharness.patience import Patience
from chaosharness.promotions import IN_GOOD_TIME_S, Promotions
from chaosharness.scoring import TOLERANCE, scores

WIDTH = 15


def rows(count: int) -> np.ndarray:
    chance = np.random.default_rng(5)
    found = np.round(chance.gamma(1, 100, (count, WIDTH)), 2)
    found[chance.random((count, WIDTH)) < 0.1] = np.nan
    return found


def test_the_graph_says_what_the_audit_computes() -> None:
    matrix = rows(256)
    for version in (1, 2, 997, 998):
        session = onnxruntime.InferenceSession(graph_of(version, WIDTH, "score"))
        given = np.concatenate(
            [session.run(["score"], {"features": part.astype(np.float32)})[0] for part in np.split(matrix, [1, 9, 41])]
        )
        assert given.dtype == np.float32
        assert np.abs(given - scores([version] * len(matrix), matrix)).max() <= TOLERANCE
        assert ((given >= 0) & (given <= 1)).all()


def test_rows_and_versions_are_told_apart() -> None:
    matrix = rows(500)
    of_one = scores([7] * len(matrix), matrix)
    assert np.diff(np.sort(of_one)).min() > 0
    shifted = np.abs(of_one - np.roll(of_one, 1))
    assert (shifted > TOLERANCE).mean() > 0.99
    assert np.abs(of_one - scores([8] * len(matrix), matrix)).min() > 100 * TOLERANCE
    dearer = matrix.copy()
    dearer[:, 0] += 0.01
    known = ~np.isnan(matrix[:, 0])
    assert (np.abs(scores([7] * len(matrix), dearer) - of_one)[known] > TOLERANCE).all()


def test_a_trickle_of_records_does_not_hold_the_audit_for_ever() -> None:
    patience = Patience(quiet_s=10, now=0)
    endings = [patience.ending(now, news_at=now - 1, complete=False) for now in range(400)]
    assert endings[200] is None
    assert set(endings[201:]) == {"overdue"}


def test_silence_ends_the_reading_sooner_where_everything_is_there() -> None:
    patience = Patience(quiet_s=10, now=0)
    assert patience.ending(12, news_at=9, complete=False) is None
    assert patience.ending(12, news_at=9, complete=True) == "complete"
    assert patience.ending(20, news_at=9, complete=False) == "quiet"


def test_a_promotion_opens_once_its_time_has_passed() -> None:
    promotions = Promotions()
    promotions.read(0, 0, {})
    assert not promotions.wants_ends(1_000)
    promotions.read(1_000, 1, {0: 5})
    promotions.ends(1_000 + IN_GOOD_TIME_S - 1, {0: 7})
    assert promotions.opens == {}
    promotions.ends(1_000 + IN_GOOD_TIME_S, {0: 8})
    promotions.ends(1_000 + 2 * IN_GOOD_TIME_S, {0: 99})
    assert promotions.opens == {1: {0: 8}}


def test_only_what_was_predicted_well_before_the_next_promotion_counts() -> None:
    promotions = Promotions()
    for second in range(100):
        promotions.read(second, 1, {0: second})
    promotions.read(100, 2, {0: 100})
    assert promotions.closes == {1: {0: 100 - int(IN_GOOD_TIME_S)}}
    promotions.read(101, 3, {0: 101})
    assert promotions.closes[2] == {0: 101 - int(IN_GOOD_TIME_S)}
