"""A run meets its aims only where it really was what it is called, and nothing was lost in it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from enduring.resources import Series, Tree
from enduring.verdicts import (
    Flow,
    Overload,
    bad_per_valid,
    book_misses,
    books,
    overload_misses,
    poison_misses,
    poison_ratios,
    soak_misses,
)

SENT: Mapping[str, Any] = {"payments": 1_000, "dead_letters": {"late": 7}}
REPORT = {"events": 1_000, "predictions": 1_000, "missing": 0, "repeated": 0, "foreign": 0, "unnamed": 0, "late": 7}
GOOD_BOOKS = books(REPORT, SENT)
OVERLOADED = Overload(sustained=1_000.0, seconds=300.0, sent=900_000, behind=580_000, drained_s=500.0)
MEMORY = {"ingest": 150.0, "features-customer": 400.0}
LEVEL = {"memory_grows": False, "files_grow": False, "replaced": False}


def flow(per_second: float, cpu_s: float = 1.0, waiting: tuple[int, int] = (50_000, 90_000)) -> Flow:
    return Flow(events=int(per_second * 10), seconds=10.0, cpu_seconds=cpu_s, waiting=waiting)


def test_a_tenth_of_all_records_is_a_ninth_of_the_valid_ones() -> None:
    valid, bad = 9_000, 9_000 * bad_per_valid(0.1)
    assert bad / (valid + bad) == pytest.approx(0.1)


def test_poison_is_judged_by_the_median_round() -> None:
    rounds = [(flow(1_000), flow(900)), (flow(1_000), flow(100)), (flow(1_000), flow(850))]
    assert poison_ratios(rounds)["ratio"] == pytest.approx(0.85)
    assert poison_misses(rounds) == []
    assert poison_misses([(flow(1_000), flow(790))]) == ["0.790 of the clean rate, not 0.8"]


def test_the_cpu_of_an_event_is_compared_beside_the_rate() -> None:
    clean, poisoned = flow(1_000, cpu_s=5.0), flow(500, cpu_s=5.0)
    assert (clean.cpu_s_per_thousand, poisoned.cpu_s_per_thousand) == (0.5, 1.0)
    assert poison_ratios([(clean, poisoned)])["cpu_ratio"] == 0.5


@pytest.mark.parametrize("waiting", [(0, 0), (0, 50_000), (50_000, 900)])
def test_a_rate_that_the_sender_bounds_is_no_throughput(waiting: tuple[int, int]) -> None:
    misses = poison_misses([(flow(1_000), flow(1_000, waiting=waiting))])
    assert misses == ["round 1, poisoned: the stream was not saturated"]


def test_a_round_without_events_is_a_miss_and_no_division_by_zero() -> None:
    assert "a round without an event" in poison_misses([(flow(0), flow(1_000))])


def test_an_overload_that_was_taken_and_drained_meets_its_aims() -> None:
    assert overload_misses(OVERLOADED, MEMORY, GOOD_BOOKS) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sent": 780_000}, "could not offer it: 2.60 times"),
        ({"behind": 0}, "no overload"),
        ({"behind": 299_999}, "no overload"),
        ({"drained_s": None}, "never drained"),
        ({"drained_s": 601.0}, "drained in 2.00 times"),
    ],
)
def test_what_was_no_overload_or_did_not_drain_is_a_miss(change: dict[str, Any], said: str) -> None:
    misses = overload_misses(replace(OVERLOADED, **change), MEMORY, GOOD_BOOKS)
    assert len(misses) == 1
    assert said in misses[0]


def test_a_service_above_its_cap_is_named() -> None:
    assert overload_misses(OVERLOADED, MEMORY | {"inference": 1_025.0}, GOOD_BOOKS) == [
        "inference took 1025.0 MB, more than 1024"
    ]


def test_a_level_soak_that_keeps_up_meets_its_aims() -> None:
    assert soak_misses({"ingest": LEVEL}, {"ingest": 0.4}, True, GOOD_BOOKS) == []


def test_a_stalled_pipeline_does_not_pass_for_its_level_memory() -> None:
    misses = soak_misses({"ingest": LEVEL}, {"ingest": 600.0}, False, GOOD_BOOKS)
    assert misses == ["ingest was 600.0 s behind, more than 10", "something was left when nothing more came"]
    assert soak_misses({"ingest": LEVEL}, {}, True, GOOD_BOOKS) == ["nobody looked whether a stage was behind"]


@pytest.mark.parametrize("key", list(LEVEL))
def test_growth_and_a_replaced_process_are_misses(key: str) -> None:
    misses = soak_misses({"drift": LEVEL, "ingest": LEVEL | {key: True}}, {"ingest": 0.1}, True, GOOD_BOOKS)
    assert len(misses) == 1
    assert misses[0].startswith("ingest: ")


@pytest.mark.parametrize("name", ["missing", "repeated", "foreign", "unnamed"])
def test_whatever_the_audit_finds_is_a_miss(name: str) -> None:
    assert book_misses(books(REPORT | {name: 3}, SENT)) == [f"3 predictions {name}"]


def test_valid_events_that_a_stage_took_for_late_are_lost_and_those_sent_late_are_not() -> None:
    assert book_misses(GOOD_BOOKS) == []
    assert book_misses(books(REPORT | {"late": 9, "predictions": 998, "events": 998}, SENT)) == [
        "2 predictions turned_late",
        "1000 valid events and 998 predictions",
    ]


def series(pids: list[tuple[int | None, int | None]]) -> Series:
    found = Series()
    for number, pair in enumerate(pids):
        found.add(float(number), Tree(pair, 100.0, 20))
    return found


def test_a_worker_that_was_forked_anew_does_not_pass_for_one_that_never_grew() -> None:
    assert not series([(1, 2)] * 20).verdict()["replaced"]
    assert series([(1, 2)] * 10 + [(1, 3)] * 10).verdict()["replaced"]
    assert series([(1, 2)] * 10 + [(1, None)] + [(1, 2)] * 9).verdict()["replaced"]
    assert series([(1, None)] * 20).verdict()["replaced"]


def test_a_series_is_judged_without_its_first_third() -> None:
    """What is loaded and filled at the beginning is no growth; what comes later is."""
    found, later = Series(), Series()
    for number in range(90):
        found.add(float(number), Tree((1, 2), 200.0 if number < 30 else 300.0, 10 if number < 30 else 12))
        later.add(float(number), Tree((1, 2), 200.0 + max(0, number - 30), 10 if number < 60 else 12))
    assert (found.verdict()["memory_grows"], found.verdict()["files_grow"]) == (False, False)
    assert (later.verdict()["memory_grows"], later.verdict()["files_grow"]) == (True, True)
    assert later.verdict()["most_mb"] == 259.0
