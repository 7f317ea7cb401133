"""A stage that reads text fields, filters and windows of every kind, from bytes to bytes."""

from typing import Any

import orjson
import pytest

from support.featurestages import keyed_stage
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.definition import compile_stage
from tidemill.features.shell import KeyedStage
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text
from tidemill.runtime.service import Output, Record

HOUR = 3_600_000
NOON = 1_522_584_000_000
STAGES = """
  stages:
    - entity: customer
      features:
        - {name: amount, value: amount}
        - {name: recent, aggregate: last, field: amount, k: 3, window: {type: count, last: 10, within: 1d}}
        - {name: web_today, aggregate: count, where: channel == "web", window: {type: tumbling, size: 1d}}
        - {name: terminals, aggregate: distinct, field: terminal, window: 2h}
        - {name: app_share, aggregate: share, field: channel, equals: app, window: 2h}
        - {name: pause, aggregate: since_last, window: 2h}
        - {name: ratio, aggregate: ratio_to_mean, field: amount, window: 2h}
        - {name: session_max, aggregate: max, field: amount, window: {type: session, gap: 30m, within: 1d}}
        - {name: spread, aggregate: std, field: amount, window: {type: hopping, size: 4h, hop: 1h}}
        - {name: faded, aggregate: sum, field: amount, window: {type: decay, half_life: 1h}}
    - entity: terminal
      features:
        - {name: median, aggregate: quantile, q: 0.5, field: amount, window: 1d, where: "customer != 'c9'"}
        - {name: web_frauds, aggregate: label_rate, where: channel == 'web', window: 1d, delay: 7d}

outcomes:"""


def shop_text() -> str:
    text = pipeline_text("fraud")[0]
    begin, end = text.index("\n  stages:"), text.index("\n\noutcomes:")
    text = text[:begin] + STAGES + text[end + len("\n\noutcomes:") :]
    text = text.replace("schema: fraud-event", "schema: fraud-raw-payment")  # one that takes further fields
    text = text.replace("  numbers:", "  categories: [channel]\n  numbers:").replace("[weekend, night]", "[recent_2]")
    return text.replace(
        "        amount: {from: amount, cast: number, min: 0, max: 100000}",
        "        amount: {from: amount, cast: number, min: 0, max: 100000}\n        channel: {cast: string}",
    )


@pytest.fixture(scope="module")
def shop() -> Pipeline:
    return parse_pipeline(shop_text(), "shop.yaml")


def event(id_: str, ts: int, amount: float, channel: Any = "web", terminal: str = "t1", customer: str = "c1") -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "customer": customer, "terminal": terminal, "amount": amount}
    return Record("shop-events", 0, 0, ts, customer.encode(), orjson.dumps(value | {"channel": channel}))


def label(id_: str, ts: int, fraud: int) -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "known_at": ts + 1, "customer": "c1", "terminal": "t1"}
    return Record("shop-labels", 0, 0, ts + 1, b"c1", orjson.dumps(value | {"fraud": fraud}))


def through(stage: KeyedStage, *records: Record) -> Output:
    stage.add(records, 0.0)
    return stage.flush(0.0)


def vectors(output: Output) -> list[list[float | None]]:
    return [orjson.loads(out.value or b"")["features"] for out in output.records if b'"features"' in (out.value or b"")]


def test_the_vector_has_a_column_for_each_of_the_last_values(shop: Pipeline) -> None:
    assert shop.feature_names[:5] == ("amount", "recent_1", "recent_2", "recent_3", "web_today")
    assert len(shop.feature_names) == 14
    assert compile_stage(shop, 0).names == shop.feature_names[:12]


def test_every_feature_of_an_event_is_what_its_definition_says(shop: Pipeline) -> None:
    output = through(
        keyed_stage(shop, 0),
        event("p1", NOON - 13 * HOUR, 8.0),
        event("p2", NOON - HOUR, 1.0, "app", "t2"),
        event("p3", NOON - HOUR // 3, 5.0),
        event("p4", NOON, 3.0, "app"),
    )
    assert not output.dead
    vector = vectors(output)[-1]
    faded = vector.pop()
    assert vector == [
        3.0,
        3.0,
        5.0,
        1.0,
        1.0,
        2.0,
        2 / 3,
        1200.0,
        1.0,
        5.0,
        pytest.approx(1.632993161855452, rel=1e-15),
    ]
    assert faded == pytest.approx(3 + 5 * 2 ** (-1 / 3) + 0.5 + 8 * 2**-13, rel=1e-14)


def test_labels_count_for_the_events_that_the_filter_takes(shop: Pipeline) -> None:
    first, second = keyed_stage(shop, 0), keyed_stage(shop, 1)
    events = [event("w1", NOON, 1.0), event("a1", NOON, 2.0, "app"), event("w2", NOON + 1, 4.0)]
    last = event("x", NOON + 7 * 24 * HOUR + 2, 9.0, customer="c9")
    marked = [label("w1", NOON, 1), label("a1", NOON, 1), label("w2", NOON + 1, 1), label("w2", NOON + 1, 0)]
    output = through(first, *events, *marked, last)
    chained = [Record(out.topic, 0, 0, out.timestamp, out.key, out.value) for out in output.records]
    answers = through(second, *chained)
    assert not output.dead and not answers.dead
    medians, rates = zip(*(vector[-2:] for vector in vectors(answers)), strict=True)
    assert rates == (0.0, 0.0, 0.0, 0.5)
    assert medians == (pytest.approx(1, rel=0.01), pytest.approx(1, rel=0.01), pytest.approx(2, rel=0.01), None)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (event("p1", NOON, 100_000.01), "event field 'amount' is 100000, out of range: 0 to 100000 is declared"),
        (event("p1", NOON, -0.01), "event field 'amount' is -0.01, out of range: 0 to 100000 is declared"),
        (event("p1", NOON, 1.0, None), "event field 'channel' is missing"),
        (event("p1", NOON, 1.0, 7), "Expected `str | null`, got `int` - at `$.channel`"),
    ],
)
def test_a_field_outside_what_is_declared_is_a_dead_letter_that_names_it(
    shop: Pipeline, record: Record, said: str
) -> None:
    output = through(keyed_stage(shop, 0), record, event("p2", NOON, 2.0))
    assert [(dead.code, dead.message) for dead in output.dead] == [("bad_record", said)]
    assert len(output.records) == 1


@pytest.mark.parametrize(
    ("old", "new", "renamed", "foreign"),
    [
        ("window: 2h}", "window: {type: sliding, size: 2h}}", False, False),
        ('where: channel == "web", ', "where: channel == 'web', ", False, False),
        ('where: channel == "web", ', 'where: channel == "app", ', True, True),
        ('where: channel == "web", ', "", True, True),
        ("k: 3", "k: 2", True, False),
        ("gap: 30m", "gap: 31m", True, False),
        ("equals: app", "equals: web", True, True),
        ("half_life: 1h", "half_life: 3h", True, False),
    ],
)
def test_the_feature_set_and_the_state_are_named_by_what_decides_their_values(
    shop: Pipeline, old: str, new: str, renamed: bool, foreign: bool
) -> None:
    text = shop_text().replace("[recent_2]", "[]")
    assert old in text
    changed = parse_pipeline(text.replace(old, new), "shop.yaml")
    assert (feature_set_hash(changed) != feature_set_hash(shop)) == renamed
    assert (compile_stage(changed, 0).fingerprint != compile_stage(shop, 0).fingerprint) == foreign
