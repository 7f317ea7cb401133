"""Payments as each customer's generators draw them, before they are put in order; spread over processes.

Run as a module it draws one range of customers and writes the columns to stdout: how the other processes are used.
"""

import os
import subprocess
import sys
from io import BytesIO
from itertools import pairwise
from random import Random
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from tidemill.errors import TidemillError
from tidemill.scenarios.fraud.population import Population, draw_population, generator_seed

DAY_S = 86_400
_NOON_S, _SPREAD_S = 43_200.0, 20_000.0
# Below this many customer-days a second process costs more than it saves.
_WORTH_A_PROCESS = 60_000


class World(NamedTuple):
    """What a simulation is made from."""

    days: int
    customers: int
    terminals: int
    seed: int


class Draws(NamedTuple):
    """Columns of payments, by customer, and within a customer in the order of the draws."""

    second: NDArray[np.int32]
    customer: NDArray[np.int32]
    terminal: NDArray[np.int32]
    cents: NDArray[np.int32]

    def to_bytes(self) -> bytes:
        stream = BytesIO()
        for column in self:
            np.save(stream, column, allow_pickle=False)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Raises ValueError or EOFError if `data` is cut."""
        stream = BytesIO(data)
        return cls(*(np.load(stream, allow_pickle=False) for _ in cls._fields))


def draw(world: World, workers: int | None = None) -> Draws:
    """All payments of `world`, drawn by at most `workers` processes (default: one per core, this one included)."""
    most = max(1, world.customers * world.days // _WORTH_A_PROCESS)
    count = min(workers or os.cpu_count() or 1, most, world.customers)
    bounds = [world.customers * part // count for part in range(count + 1)]
    helpers = [_start_helper(world, first, last) for first, last in pairwise(bounds[1:])]
    parts = [draw_customers(world, bounds[0], bounds[1])]
    for helper in helpers:
        assert helper.stdout is not None
        with helper, helper.stdout as stream:
            try:
                parts.append(Draws.from_bytes(stream.read()))
            except (ValueError, EOFError) as error:
                raise TidemillError(
                    "A process of the payment simulator ended early.", hint="Its message is above."
                ) from error
    return Draws(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def draw_customers(world: World, first: int, last: int) -> Draws:
    """The payments of customers `first` to `last` − 1 over all days."""
    population = draw_population(world.customers, world.terminals, world.seed)
    parts = [_draw_customer(population, customer, world) for customer in range(first, last)]
    return Draws(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _draw_customer(population: Population, customer: int, world: World) -> Draws:
    """One customer's payments. The order of the draws is the model: it makes any number of days a prefix."""
    usable = population.reachable(customer).tolist()
    seed = generator_seed(world.seed, customer)
    numbers, choices = np.random.RandomState(seed), Random(seed)
    poisson, gauss, uniform, bits = numbers.poisson, numbers.standard_normal, numbers.random_sample, choices.getrandbits
    count, width = len(usable), len(usable).bit_length()
    mean, rate = float(population.mean_amount[customer]), float(population.daily_rate[customer])
    deviation = mean / 2
    seconds: list[int] = []
    amounts: list[float] = []
    terminals: list[int] = []
    # A customer who lives far from every terminal pays nowhere.
    for midnight in range(0, world.days * DAY_S if usable else 0, DAY_S):
        for _ in range(poisson(rate)):
            second = int(_NOON_S + _SPREAD_S * gauss())
            if not 0 < second < DAY_S:
                continue
            amount = mean + deviation * gauss()
            if amount < 0:
                amount = 2 * mean * uniform()
            index = bits(width)
            while index >= count:  # as Random.choice draws, without its overhead
                index = bits(width)
            seconds.append(midnight + second)
            amounts.append(amount)
            terminals.append(usable[index])
    return Draws(
        second=np.array(seconds, np.int32),
        customer=np.full(len(seconds), customer, np.int32),
        terminal=np.array(terminals, np.int32),
        cents=np.rint(np.array(amounts, np.float64) * 100.0).astype(np.int32),
    )


def _start_helper(world: World, first: int, last: int) -> subprocess.Popen[bytes]:
    numbers = [str(number) for number in (*world, first, last)]
    return subprocess.Popen([sys.executable, "-m", __spec__.name, *numbers], stdout=subprocess.PIPE)


def main(arguments: list[str]) -> None:
    days, customers, terminals, seed, first, last = map(int, arguments)
    sys.stdout.buffer.write(draw_customers(World(days, customers, terminals, seed), first, last).to_bytes())


if __name__ == "__main__":
    main(sys.argv[1:])
