"""One limit for a whole callback, and a guard that ends what ignores it."""

from threading import Event

from tidemill.runtime.deadline import Deadline, Watchdog


def test_a_step_gets_its_timeout_or_what_is_left() -> None:
    deadline = Deadline(30)
    assert deadline.at_most(5) == 5
    assert 29 < deadline.at_most(100) <= 30
    assert not deadline.passed


def test_a_deadline_that_has_passed_leaves_nothing() -> None:
    deadline = Deadline(0)
    assert deadline.passed
    assert deadline.at_most(5) == 0


def test_a_call_that_does_not_return_is_reported_by_name() -> None:
    expired = Event()
    told: list[str] = []

    def expire(doing: str) -> None:
        told.append(doing)
        expired.set()

    with Watchdog(0.02, expire).guard("send_offsets"):
        assert expired.wait(10)
    assert told == ["send_offsets"]


def test_a_call_that_returns_is_left_alone() -> None:
    told: list[str] = []
    watchdog = Watchdog(0.02, told.append)
    with watchdog.guard("first"):
        pass
    done = Event()
    done.wait(0.1)
    assert told == []
