"""The breaker judges a full window and remembers only committed batches."""

import pytest

from tidemill.domain.pipeline import BreakerSpec
from tidemill.errors import BreakerOpen
from tidemill.runtime.breaker import Breaker


def breaker() -> Breaker:
    return Breaker(BreakerSpec(window_records=100, max_invalid_share=0.5))


def commit(under_test: Breaker, records: int, dead: int) -> None:
    under_test.check(records, dead)
    under_test.commit()


def test_it_does_not_judge_before_it_has_seen_a_window() -> None:
    commit(breaker(), 99, 99)


def test_it_opens_once_more_than_the_share_of_a_window_is_dead() -> None:
    under_test = breaker()
    commit(under_test, 60, 50)
    with pytest.raises(BreakerOpen, match="51 of the last 100"):
        under_test.check(40, 1)


def test_exactly_the_share_is_still_allowed() -> None:
    commit(breaker(), 100, 50)


def test_old_batches_leave_the_window() -> None:
    under_test = breaker()
    commit(under_test, 100, 50)
    commit(under_test, 100, 0)
    commit(under_test, 100, 50)


def test_a_good_past_does_not_hide_a_bad_present() -> None:
    under_test = breaker()
    for _ in range(100):
        commit(under_test, 1_000, 0)
    with pytest.raises(BreakerOpen):
        under_test.check(100, 60)


def test_an_aborted_batch_leaves_no_trace() -> None:
    under_test = breaker()
    under_test.check(50, 50)
    under_test.check(50, 0)
    under_test.commit()
    commit(under_test, 50, 10)
