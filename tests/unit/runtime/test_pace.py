import pytest

from tidemill.runtime.transaction import Pace


def test_the_first_transaction_may_begin_at_once() -> None:
    assert Pace(0.005, 500).due_at(1) == float("-inf")


def test_a_few_records_wait_for_the_gap() -> None:
    pace = Pace(0.005, 500)
    pace.finished(100.0, 0.001)
    assert pace.due_at(1) == pytest.approx(100.005)


def test_a_backlog_waits_for_nothing() -> None:
    pace = Pace(0.005, 500)
    pace.finished(100.0, 0.5)
    assert pace.due_at(500) == float("-inf")


def test_the_gap_grows_with_slow_transactions_to_a_limit_and_shrinks_again() -> None:
    pace = Pace(0.005, 500)
    for _ in range(50):
        pace.finished(100.0, 0.020)
    assert pace.due_at(1) - 100.0 == pytest.approx(0.020, rel=0.01)
    for _ in range(50):
        pace.finished(100.0, 2.0)
    assert pace.due_at(1) - 100.0 == pytest.approx(0.05)
    for _ in range(200):
        pace.finished(100.0, 0.001)
    assert pace.due_at(1) - 100.0 == pytest.approx(0.005)
