"""Events of equal time: what their order may change, and what it may not."""

from itertools import permutations

from support.featureoracle import Row
from support.featurestreams import SECOND, slide, stage_of
from tidemill.domain.featurespec import FeatureSpec
from tidemill.features.core.engine import WindowEngine

WANTED = (
    FeatureSpec.model_validate(
        {"name": "sum", "aggregate": "sum", "field": "amount", "window": {"type": "decay", "half_life": 700}}
    ),
    FeatureSpec(name="std", aggregate="std", field="amount", window=60 * SECOND),
    FeatureSpec(name="quantile", aggregate="quantile", q=0.7, field="amount", window=60 * SECOND),
    FeatureSpec(name="last", aggregate="last", field="amount", window=60 * SECOND, delay=1),
)
AMOUNTS = (1, 8_000_000_007, -3, 10**9 + 7, 12_345)


def answers(order: tuple[int, ...]) -> list[float]:
    stage = stage_of(WANTED, 0, 0)
    rows = [Row(b"a", number, 1_000_000, AMOUNTS[number], None) for number in order]
    matrix, _ = slide(WindowEngine(stage), stage, [*rows, Row(b"a", 99, 1_000_333, 5, None)])
    return [float(value) for value in matrix[-1]]


def test_sums_deviations_and_sketches_do_not_depend_on_the_order_of_ties() -> None:
    assert len({tuple(answers(order)[:3]) for order in permutations(range(5))}) == 1


def test_the_last_of_ties_is_the_one_that_arrived_last() -> None:
    assert [answers(order)[3] for order in ((0, 2, 4), (4, 0, 2))] == [123.45, -0.03]
