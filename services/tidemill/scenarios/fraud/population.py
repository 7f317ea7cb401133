"""Who pays where: customers with their habits, terminals with their places, drawn from two seeded generators.

Model: Le Borgne, Siblini, Lebichot, Bontempi: Reproducible Machine Learning for Credit Card Fraud Detection, chapter 3.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

REACH = 5.0  # a customer uses the terminals nearer than this, in a 100 × 100 area
_SEED_STRIDE = 1_000_003


class Population(NamedTuple):
    """Columns by customer id and by terminal id; coordinates in [0, 100)."""

    customer_x: NDArray[np.float64]
    customer_y: NDArray[np.float64]
    mean_amount: NDArray[np.float64]
    """5 to 100; the standard deviation of a customer's amounts is half of it."""
    daily_rate: NDArray[np.float64]
    """Mean number of payments a day, 0 to 4."""
    terminal_x: NDArray[np.float64]
    terminal_y: NDArray[np.float64]

    def reachable(self, customer: int) -> NDArray[np.intp]:
        """Ids of the terminals that `customer` may use, ascending; empty for one who lives far from any."""
        dx, dy = self.terminal_x - self.customer_x[customer], self.terminal_y - self.customer_y[customer]
        return np.flatnonzero(np.sqrt(dx * dx + dy * dy) < REACH)


def generator_seed(seed: int, number: int) -> int:
    """The seed of generator `number` (a customer, a day, …) in the stream of `seed`; `number` itself for seed 0."""
    return int((number + seed * _SEED_STRIDE) % 2**32)


def draw_population(customers: int, terminals: int, seed: int) -> Population:
    """The first `customers` and `terminals` of the world of `seed`; more of them leave the earlier ones unchanged."""
    who = np.random.RandomState(generator_seed(seed, 0)).random_sample((customers, 4))
    where = np.random.RandomState(generator_seed(seed, 1)).random_sample((terminals, 2)) * 100.0
    return Population(
        customer_x=who[:, 0] * 100.0,
        customer_y=who[:, 1] * 100.0,
        mean_amount=5.0 + 95.0 * who[:, 2],
        daily_rate=4.0 * who[:, 3],
        terminal_x=where[:, 0],
        terminal_y=where[:, 1],
    )
