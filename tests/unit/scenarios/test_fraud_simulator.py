"""The simulator is the handbook's, to the row."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from publisheddata import published_folder

from tidemill.scenarios.fraud import simulator
from tidemill.scenarios.fraud.draws import DAY_S, World, draw
from tidemill.scenarios.fraud.simulator import Transactions, label_delays_ms, simulate, simulate_horizon

SMALL = {"customers": 120, "terminals": 300}


def rows(transactions: Transactions) -> NDArray[np.int64]:
    """Rows without their ids, in an order that depends on the rows alone."""
    second, customer, terminal, cents, fraud, scenario = (column.astype(np.int64) for column in transactions)
    table = np.stack([second, customer, terminal, cents, fraud, scenario], axis=1)
    return table[np.lexsort(table.T[::-1])]


def equal(left: Transactions, right: Transactions) -> bool:
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(left, right, strict=True))


@pytest.fixture(scope="module")
def published_world() -> Transactions:
    return simulate_horizon(World(183, simulator.CUSTOMERS, simulator.TERMINALS, 0))


def test_the_whole_data_set_has_the_published_totals(published_world: Transactions) -> None:
    assert len(published_world.second) == 1_754_155
    assert np.bincount(published_world.scenario).tolist() == [1_754_155 - 14_681, 973, 9_077, 4_631]


def test_seed_zero_equals_the_published_rows(published_world: Transactions) -> None:
    file = published_folder() / "transactions.csv.gz"
    with gzip.open(file, "rt") as stream:
        _, second, customer, terminal, amount, fraud, scenario = np.loadtxt(stream, delimiter=",", skiprows=1).T
    published = Transactions._make(
        column.astype(np.int64) for column in (second, customer, terminal, np.rint(amount * 100), fraud, scenario)
    )
    assert np.array_equal(rows(published_world.first_days(136)), rows(published))


def test_a_hundred_days_need_no_more_than_a_hundred_and_fourteen(published_world: Transactions) -> None:
    assert equal(simulate(100), published_world.first_days(100))


@pytest.mark.parametrize(("shorter", "longer"), [(1, 3), (5, 40), (20, 33)])
def test_a_shorter_simulation_is_the_beginning_of_a_longer_one(shorter: int, longer: int) -> None:
    assert equal(simulate(shorter, **SMALL, seed=4), simulate(longer, **SMALL, seed=4).first_days(shorter))


def test_the_number_of_processes_changes_nothing() -> None:
    world = World(days=200, customers=700, terminals=2_000, seed=1)
    assert all(np.array_equal(a, b) for a, b in zip(draw(world, workers=1), draw(world, workers=2), strict=True))


def test_another_seed_is_another_world() -> None:
    assert not np.array_equal(simulate(5, **SMALL, seed=1).cents[:50], simulate(5, **SMALL, seed=2).cents[:50])


def test_rows_ascend_in_time_then_customer() -> None:
    transactions = simulate(10, customers=2_000, terminals=3_000)
    keys = transactions.second.astype(np.int64) * 10_000 + transactions.customer
    assert (np.diff(keys) >= 0).all()
    assert transactions.second[0] > 0 and transactions.second[-1] < 10 * DAY_S


def test_the_cache_returns_what_was_simulated(tmp_path: Path) -> None:
    first = simulate(3, **SMALL, cache_dir=tmp_path)
    (file,) = tmp_path.glob("*.npz")
    assert equal(simulate(3, **SMALL, cache_dir=tmp_path), first)
    file.write_bytes(file.read_bytes()[:200])
    assert equal(simulate(3, **SMALL, cache_dir=tmp_path), first)


def test_a_cache_that_cannot_be_written_is_ignored(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert equal(simulate(2, **SMALL, cache_dir=blocked), simulate(2, **SMALL))


def test_a_world_without_payments_is_empty() -> None:
    assert len(simulate(2, customers=1, terminals=2).second) == 0


def test_labels_take_one_to_almost_seven_days_and_begin_the_same() -> None:
    delays = label_delays_ms(50_000, seed=3)
    assert delays.min() >= 86_400_000 and delays.max() < 6.9 * 86_400_000
    assert abs(delays.mean() - 3.95 * 86_400_000) < 0.02 * 86_400_000
    assert np.array_equal(label_delays_ms(100, seed=3), delays[:100])
    assert not np.array_equal(label_delays_ms(100, seed=4), delays[:100])
