"""The card-payment stream of the Fraud Detection Handbook: for seed 0, the published data set.

Deterministic in its arguments, and a longer simulation begins with the shorter one, day for day. Rows are in order of
time; within one second by customer, then in the order they were drawn (the published order there cannot be known).
"""

from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidemill.scenarios.fraud import cache
from tidemill.scenarios.fraud.draws import DAY_S, World, draw
from tidemill.scenarios.fraud.population import generator_seed

CUSTOMERS, TERMINALS = 5_000, 10_000
EPOCH_MS = 1_522_540_800_000
"""Second 0: 2018-04-01 00:00 UTC."""

_LARGE_CENTS = 22_000
_TERMINALS_A_DAY, _TERMINAL_DAYS = 2, 28
_CUSTOMERS_A_DAY, _CUSTOMER_DAYS = 3, 14
_DELAY_GENERATOR = 2_000_000_011  # a number that no customer or day uses
_SHORTEST_DELAY_MS, _DELAY_SPAN_MS = 86_400_000, 509_760_000  # 1.0 d, and 5.9 d more


class Transactions(NamedTuple):
    """Columns of equal length; a row's position is its id."""

    second: NDArray[np.int32]
    """Since EPOCH_MS, ascending."""
    customer: NDArray[np.int32]
    terminal: NDArray[np.int32]
    cents: NDArray[np.int32]
    fraud: NDArray[np.int8]
    scenario: NDArray[np.int8]
    """0 none, 1 large amount, 2 compromised terminal, 3 compromised card."""

    @property
    def paid_at_ms(self) -> NDArray[np.int64]:
        return self.second.astype(np.int64) * 1_000 + EPOCH_MS

    def paid_at_of(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        return self.second[rows].astype(np.int64) * 1_000 + EPOCH_MS

    def first_days(self, days: int) -> "Transactions":
        """The rows before midnight after day `days` − 1."""
        rows = int(np.searchsorted(self.second, days * DAY_S))
        return Transactions._make(np.ascontiguousarray(column[:rows]) for column in self)


def simulate(
    days: int,
    *,
    customers: int = CUSTOMERS,
    terminals: int = TERMINALS,
    seed: int = 0,
    cache_dir: Path | None = None,
    workers: int | None = None,
) -> Transactions:
    """The payments of the first `days` days.

    `cache_dir` keeps the result for the next call with the same arguments; a folder that cannot be written is ignored.
    Compromised cards are sampled from the 14 days that follow, so those are simulated too and cut off again: what a day
    holds does not depend on where the simulation ends. (`simulate_horizon` has the published cut.)
    """
    key = f"fraud-{days}-{customers}-{terminals}-{seed}"
    columns = cache.load(cache_dir, key, len(Transactions._fields)) if cache_dir else None
    if columns is not None:
        return Transactions._make(columns)
    longer = simulate_horizon(World(days + _CUSTOMER_DAYS, customers, terminals, seed), workers)
    transactions = longer.first_days(days)
    if cache_dir:
        cache.store(cache_dir, key, transactions)
    return transactions


def simulate_horizon(world: World, workers: int | None = None) -> Transactions:
    """Exactly the published procedure: in the last 14 days, fewer cards are compromised than in a longer simulation."""
    draws = draw(world, workers)
    order = np.argsort(draws.second, kind="stable")
    second, customer, terminal, cents = (column[order] for column in draws)
    scenario = np.zeros(len(second), np.int8)
    day = second // DAY_S
    scenario[cents > _LARGE_CENTS] = 1
    last_day = int(day[-1]) if len(day) else 0
    _compromise_terminals(scenario, day, terminal, last_day, world)
    _compromise_cards(scenario, cents, day, customer, last_day, world)
    return Transactions(second, customer, terminal, cents, (scenario > 0).astype(np.int8), scenario)


def label_delays_ms(count: int, seed: int = 0) -> NDArray[np.int64]:
    """How long after each payment its truth is known: uniform over 1.0 to 6.9 days, a longer list begins the same."""
    random = np.random.RandomState(generator_seed(seed, _DELAY_GENERATOR))
    return (random.random_sample(count) * _DELAY_SPAN_MS).astype(np.int64) + _SHORTEST_DELAY_MS


def _compromise_terminals(
    scenario: NDArray[np.int8], day: NDArray[np.int32], terminal: NDArray[np.int32], last_day: int, world: World
) -> None:
    """Each day two terminals go bad: everything they take in the next 28 days is fraud."""
    rows_of = _RowsByKey(terminal, world.terminals)
    for start in range(last_day):
        for chosen in _sample(start, world.terminals, _TERMINALS_A_DAY, world.seed):
            rows = rows_of(chosen)
            scenario[rows[(day[rows] >= start) & (day[rows] < start + _TERMINAL_DAYS)]] = 2


def _compromise_cards(
    scenario: NDArray[np.int8],
    cents: NDArray[np.int32],
    day: NDArray[np.int32],
    customer: NDArray[np.int32],
    last_day: int,
    world: World,
) -> None:
    """Each day three cards leak: a third of their payments of the next 14 days is fraud of five times the amount."""
    rows_of = _RowsByKey(customer, world.customers)
    for start in range(last_day):
        leaked = _sample(start, world.customers, _CUSTOMERS_A_DAY, world.seed)
        rows = np.sort(np.concatenate([rows_of(chosen) for chosen in leaked]))
        rows = rows[(day[rows] >= start) & (day[rows] < start + _CUSTOMER_DAYS)]
        chosen_rows = Random(generator_seed(world.seed, start)).sample(rows.tolist(), k=int(len(rows) / 3))
        cents[chosen_rows] *= 5
        scenario[chosen_rows] = 3


def _sample(day: int, population: int, count: int, seed: int) -> list[int]:
    random = np.random.RandomState(generator_seed(seed, day))
    chosen: list[int] = random.choice(population, size=min(count, population), replace=False).tolist()
    return chosen


class _RowsByKey:
    """Rows of each key, ascending."""

    def __init__(self, keys: NDArray[np.int32], count: int) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._bounds = np.searchsorted(keys[self._order], np.arange(count + 1))

    def __call__(self, key: int) -> NDArray[np.intp]:
        return self._order[self._bounds[key] : self._bounds[key + 1]]
