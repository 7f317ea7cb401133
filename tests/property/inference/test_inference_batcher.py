"""The batcher's guarantees, over random schedules of submissions, clock ticks and completions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.inference.core.batcher import Batcher
from tidemill.inference.core.blocks import Batch, Block, CloseReason, Fate, Lane, QueueFullError, limits
from tidemill.inference.core.isolation import ModelBrokenError, score_rows
from tidemill.inference.core.model import Matrix, ModelError, Route, Scores
from tidemill.inference.core.pacing import ArrivalRate, BatchCost

WIDTH = 2
MAX_ROWS = 8
BUCKETS = (1, 4, 8)


@dataclass
class Fake:
    """Scores a row with its first feature; raises where a row of the batch is in `poison`."""

    version: int = 1
    name: str = "m"
    provider: str = "test"
    poison: frozenset[int] = frozenset()
    broken: bool = False
    calls: list[int] = field(default_factory=list)

    @property
    def probe(self) -> Matrix:
        return np.zeros((1, WIDTH), np.float32)

    def score(self, rows: Matrix) -> Scores:
        self.calls.append(len(rows))
        if self.broken or any(int(row) in self.poison for row in rows[:, 1]):
            raise ModelError("poisoned")
        return rows[:, 0].copy()

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


ROUTES = (Route(Fake(1)), Route(Fake(2)))

action = st.one_of(
    st.tuples(
        st.just("submit"),
        st.sampled_from(list(Lane)),
        st.integers(1, 20),
        st.integers(0, 1),
        st.one_of(st.none(), st.floats(0.0, 3.0)),
        st.integers(0, 2),
    ),
    st.tuples(st.just("next")),
    st.tuples(st.just("settle"), st.floats(0.0, 0.5)),
    st.tuples(st.just("tick"), st.floats(0.0, 1.0)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
)


class World:
    """Drives a batcher and checks every batch as it is handed out."""

    def __init__(self, max_wait_ms: float, http_rows: int) -> None:
        self.batcher = Batcher(limits(MAX_ROWS, max_wait_ms, BUCKETS, http_rows))
        self.max_wait_ms = max_wait_ms
        self.now = 0.0
        self.blocks: list[Block] = []
        self.scored: dict[int, list[float]] = {}
        self.finished: list[Block] = []
        self.running: Batch | None = None
        self.serial = 0

    def submit(self, lane: Lane, rows: int, route: int, deadline: float | None, priority: int = 0) -> None:
        values = np.zeros((rows, WIDTH), np.float32)
        values[:, 0] = np.arange(self.serial, self.serial + rows) / 1e6
        due = None if deadline is None else self.now + deadline
        block = Block(values, ROUTES[route], lane, lambda: None, due, priority)
        waiting = self.batcher.waiting(Lane.HTTP)
        try:
            self.batcher.submit(block, self.now)
        except QueueFullError:
            assert lane is Lane.HTTP and waiting + rows > self.batcher._limits.http_rows
            return
        self.serial += rows
        self.blocks.append(block)

    def next(self) -> None:
        expired = self.batcher.expire(self.now)
        for block in expired:
            assert block.deadline is not None
            assert block.deadline <= self.now + self.batcher.cost(block.route).seconds(BUCKETS[0])
        self.finished += expired
        waiting = sum(self.batcher.waiting(lane) for lane in Lane)
        free = self.batcher.slot_free
        batch = self.batcher.next(self.now)
        if batch is None:
            if self.max_wait_ms == 0:
                assert not (free and waiting), "the slot is idle while a row waits"
            return
        assert free and 1 <= batch.size <= MAX_ROWS
        assert batch.bucket in BUCKETS and batch.bucket >= batch.size
        assert batch.size == sum(segment.high - segment.low for segment in batch.segments)
        for block, low, high in batch.segments:
            assert low < high and block.route == batch.route
            taken = self.scored.setdefault(id(block), [])
            assert low == len(taken), "the rows of a block are taken in order, without a gap"
            assert block.fate is Fate.WAITING
            taken += block.rows[low:high, 0].tolist()
        stream = [b for b in self.blocks if b.lane is Lane.KAFKA and b.fate is Fate.WAITING]
        begun = [bool(self.scored.get(id(b))) for b in stream]
        assert begun == sorted(begun, reverse=True), "the stream's blocks are begun in the order in which they came"
        self.running = batch

    def settle(self, seconds: float | None = None) -> None:
        if self.running is None:
            return
        rows = np.concatenate([block.rows[low:high, 0] for block, low, high in self.running.segments])
        self.running = None
        self.finished += self.batcher.settle(rows, None, {}, seconds)

    def drain(self) -> None:
        self.batcher.drain(True)
        while self.running is not None or sum(self.batcher.waiting(lane) for lane in Lane):
            self.settle()
            self.next()


def apply(world: World, step: tuple[Any, ...]) -> None:
    kind, *arguments = step
    if kind == "submit":
        world.submit(*arguments)
    elif kind == "next":
        world.next()
    elif kind == "settle":
        world.settle(*arguments)
    elif kind == "tick":
        world.now += arguments[0]
    elif arguments[0] < len(world.blocks):
        world.batcher.cancel(world.blocks[arguments[0]])


@given(st.lists(action, max_size=60), st.sampled_from([0.0, 500.0]), st.integers(5, 60))
def test_every_row_of_every_block_is_scored_once_and_in_order_or_its_block_says_why_not(
    steps: list[tuple[Any, ...]], max_wait_ms: float, http_rows: int
) -> None:
    world = World(max_wait_ms, http_rows)
    for step in steps:
        apply(world, step)
    world.drain()
    for block in world.blocks:
        taken = world.scored.get(id(block), [])
        assert block.fate is not Fate.WAITING
        assert taken == block.rows[: len(taken), 0].tolist()
        if block.fate is Fate.SCORED:
            assert block.scores.tolist() == block.rows[:, 0].tolist()
            assert [piece.low for piece in block.pieces] + [len(block.rows)] == [0] + [p.high for p in block.pieces]
        if block.fate is Fate.EXPIRED:
            assert block.lane in Lane and block.deadline is not None
    assert len({id(block) for block in world.finished}) == len(world.finished), "a block is finished once"
    finished = {id(block) for block in world.finished}
    assert {id(b) for b in world.blocks if b.fate in (Fate.SCORED, Fate.EXPIRED)} == finished


@given(st.integers(1, 40), st.lists(st.integers(1, 12), min_size=1, max_size=12))
def test_while_both_lanes_wait_each_gets_at_least_half_of_a_batch(stream_rows: int, requests: list[int]) -> None:
    world = World(0.0, 1_000)
    world.submit(Lane.KAFKA, stream_rows, 0, None)
    for rows in requests:
        world.submit(Lane.HTTP, rows, 0, None)
    while sum(world.batcher.waiting(lane) for lane in Lane):
        before = {lane: world.batcher.waiting(lane) for lane in Lane}
        world.next()
        assert world.running is not None
        for lane in Lane:
            got = before[lane] - world.batcher.waiting(lane)
            assert got >= min(before[lane], MAX_ROWS // 2)
        world.settle()


def taught(world: World, a: float, b: float) -> World:
    """Has seen batches of every bucket, each taking a·n + b seconds."""
    for rows in (*BUCKETS, *BUCKETS):
        world.submit(Lane.KAFKA, rows, 0, None)
        world.batcher.drain(True)
        world.next()
        world.settle(a * rows + b)
    world.batcher.drain(False)
    world.now += 10.0
    return world


@given(st.integers(1, 60), st.integers(1, 2))
def test_a_low_priority_waits_no_longer_than_its_steps(steady: int, priority: int) -> None:
    """However many requests of the highest priority keep coming, one in each step of the clock."""
    world = World(0.0, 10_000)
    world.submit(Lane.HTTP, 1, 0, None, priority)
    patient = world.blocks[0]
    step = world.batcher._limits.priority_step_s
    for _ in range(steady):
        world.submit(Lane.HTTP, MAX_ROWS, 0, None)
        world.next()
        world.settle()
        world.now += step / 4
        if patient.fate is Fate.SCORED:
            assert world.now <= (priority + 1) * step
            return
    assert world.now <= (priority + 1) * step


def test_the_more_urgent_goes_first_and_equals_in_the_order_in_which_they_came() -> None:
    world = World(0.0, 100)
    for priority in (2, 1, 0, 0):
        world.submit(Lane.HTTP, MAX_ROWS, 0, None, priority)
    order = []
    for _ in range(4):
        world.next()
        assert world.running is not None
        order.append(world.blocks.index(world.running.segments[0].block))
        world.settle()
    assert order == [2, 3, 1, 0]


def test_a_lone_request_is_scored_at_once_though_the_batch_may_wait() -> None:
    world = taught(World(500.0, 100), 0.001, 0.010)
    world.submit(Lane.HTTP, 1, 0, None)
    world.next()
    assert world.running is not None and world.running.reason is CloseReason.IDLE_SLOT


def test_where_rows_come_faster_than_small_batches_are_served_the_batch_waits_until_it_need_not() -> None:
    world = taught(World(500.0, 100), 0.001, 0.200)
    for _ in range(3):
        world.submit(Lane.HTTP, 1, 0, None)  # 3 rows within 50 ms, and a batch takes 0.2 s: 12 would come meanwhile
    world.next()
    assert world.running is None
    assert world.now < (world.batcher.wake_at() or 0.0) <= world.now + 0.5
    world.now += 0.5
    world.next()
    assert world.running is not None and world.running.reason is CloseReason.IDLE_SLOT, "nothing came any more"
    world.settle()
    for _ in range(MAX_ROWS):
        world.submit(Lane.HTTP, 1, 0, None)
    world.next()
    assert world.running is not None and world.running.reason is CloseReason.FULL


def test_it_waits_no_longer_than_it_may_nor_past_what_a_deadline_allows() -> None:
    world = taught(World(20.0, 100), 0.001, 0.200)
    for moment in range(20):  # rows keep coming
        world.submit(Lane.HTTP, 1, 1, None) if moment % 7 == 6 else None
        world.submit(Lane.HTTP, 1, 0, None) if moment < 3 else None
        world.next()
        if world.running:
            break
        world.now += 0.005
    assert world.running is not None and world.running.reason is CloseReason.MAX_WAIT
    hurried = taught(World(500.0, 100), 0.001, 0.200)
    for _ in range(3):
        hurried.submit(Lane.HTTP, 1, 0, 0.205)  # a full batch takes 0.208 s
    hurried.next()
    assert hurried.running is not None and hurried.running.reason is CloseReason.DEADLINE


def test_what_cannot_be_scored_in_time_any_more_is_answered_and_costs_nobody_anything() -> None:
    world = taught(World(0.0, 100), 0.001, 0.200)
    world.submit(Lane.HTTP, 1, 0, 0.1)
    world.submit(Lane.HTTP, 1, 0, 0.3)
    world.next()
    assert [block.fate for block in world.blocks[-2:]] == [Fate.EXPIRED, Fate.WAITING]
    assert world.running is not None and world.running.size == 1


@given(st.floats(0.0001, 0.01), st.floats(0.0, 0.01), st.integers(1, MAX_ROWS))
def test_rows_are_split_at_a_bucket_where_that_takes_less_time(a: float, b: float, rows: int) -> None:
    world = taught(World(0.0, 100), a, b)
    world.submit(Lane.HTTP, rows, 0, None)
    batches = []
    while world.batcher.waiting(Lane.HTTP):
        world.next()
        assert world.running is not None
        batches.append(world.running.bucket)
        world.settle(a * batches[-1] + b)
    one_by_one = next(bucket for bucket in BUCKETS if bucket >= rows) * a + b
    assert sum(a * bucket + b for bucket in batches) <= one_by_one * (1 + 1e-9) + 1e-12


@given(
    st.floats(0.0, 0.01),
    st.floats(0.0, 0.1),
    st.lists(st.integers(1, 512), min_size=3, max_size=200).filter(lambda sizes: len(set(sizes)) > 1),
    st.integers(1, 512),
)
def test_the_cost_of_a_batch_is_learned_exactly_where_it_is_a_line(
    a: float, b: float, sizes: list[int], asked: int
) -> None:
    cost = BatchCost()
    for size in sizes:
        cost.observe(size, a * size + b)
    assert cost.seconds(asked) == pytest.approx(a * asked + b, rel=1e-3, abs=2e-4)


def test_the_cost_follows_a_change_and_forgives_a_pause() -> None:
    cost = BatchCost()
    for size in (1, 8, 64) * 20:
        cost.observe(size, 0.001 * size)
    cost.observe(8, 30.0)
    assert cost.seconds(8) < 0.03
    for size in (1, 8, 64) * 150:
        cost.observe(size, 0.002 * size)
    assert cost.seconds(64) == pytest.approx(0.128, rel=0.05)
    assert BatchCost().seconds(5) == 0.0
    alone = BatchCost()
    alone.observe(8, 0.01)
    assert (alone.seconds(1), alone.seconds(16)) == (0.01, 0.02)


def test_the_rate_rises_with_what_comes_and_fades() -> None:
    rate = ArrivalRate()
    assert rate.per_second(1.0) == 0.0
    for row in range(1_000):
        rate.observe(1, row / 500)
    assert rate.per_second(2.0) == pytest.approx(500, rel=0.1)
    assert rate.per_second(3.0) < 1e-3


@given(st.integers(1, 64), st.frozensets(st.integers(1, 64), max_size=64))
def test_bisection_condemns_exactly_the_poison(rows: int, poison: frozenset[int]) -> None:
    matrix = np.zeros((64, WIDTH), np.float32)
    matrix[:rows, 0] = np.linspace(0.1, 0.9, rows)
    matrix[:rows, 1] = np.arange(1, rows + 1)
    model = Fake(poison=poison)
    scored = score_rows(model, matrix, rows)
    assert set(scored.poison) == {row - 1 for row in poison if row <= rows}
    good = [row for row in range(rows) if row not in scored.poison]
    assert scored.scores[good].tolist() == matrix[good, 0].tolist()


@given(st.integers(1, 32))
def test_a_model_that_fails_on_its_probe_as_well_is_broken_and_condemns_no_row(rows: int) -> None:
    model = Fake(broken=True)
    try:
        score_rows(model, np.zeros((32, WIDTH), np.float32), rows)
    except ModelBrokenError:
        return
    raise AssertionError("nothing was raised")


@given(st.lists(st.floats(width=32), min_size=1, max_size=32))
def test_no_score_outside_zero_to_one_gets_out(values: list[float]) -> None:
    matrix = np.zeros((32, WIDTH), np.float32)
    matrix[: len(values), 0] = values
    scored = score_rows(Fake(), matrix, len(values))
    for row, value in enumerate(values):
        assert (row in scored.poison) == (not 0 <= value <= 1)
