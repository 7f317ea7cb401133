"""Second streams through keyed stages: what a join gives, what passes on, what is dropped and what is refused."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import generate_latest

from support.featureoracle import Row
from support.featurestages import keyed_stage, metrics
from support.featurestreams import SECOND, slide, stage_of
from support.joinedpipeline import CUSTOMER, JOINED_FRAUD, JOINED_TEXT, NOON, limit, login, payment
from tidemill.domain.durations import DAY_MS
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.engine import WindowEngine
from tidemill.features.metrics import StageMetrics
from tidemill.features.process import service_spec
from tidemill.features.shell import KeyedStage
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Output, Record

MINUTE, HOUR = 60_000, 3_600_000


def through(stage: KeyedStage, *records: Record) -> Output:
    stage.add(records, 0.0)
    return stage.flush(0.0)


def vectors(output: Output, names: list[str]) -> list[dict[str, Any]]:
    """Features by name of each event that was written, this stage's last."""
    rows = [orjson.loads(out.value or b"") for out in output.records]
    width = len(names)
    return [dict(zip(names, row["features"][-width:], strict=True)) for row in rows if "features" in row]


def asof(output: Output) -> list[float | None]:
    return [vector["card_limit"] for vector in vectors(output, CUSTOMER)]


def chained(output: Output) -> list[Record]:
    return [Record(out.topic, 0, 0, out.timestamp, out.key, out.value) for out in output.records]


@pytest.fixture
def customer() -> KeyedStage:
    return keyed_stage(JOINED_FRAUD, 0)


def test_an_as_of_join_takes_the_newest_value_before_the_event(customer: KeyedStage) -> None:
    output = through(
        customer,
        payment("p0", NOON),
        limit("l1", NOON + 1, 500.25),
        payment("p1", NOON + 1, amount=100.05),
        limit("l2", NOON + HOUR, 800),
        payment("p2", NOON + HOUR - 1),
        payment("p3", NOON + HOUR),
        payment("other", NOON + HOUR, customer="c2"),
        payment("p4", NOON + HOUR + 90 * DAY_MS - 1),
        payment("p5", NOON + HOUR + 90 * DAY_MS),
    )
    assert asof(output) == [None, 500.25, 500.25, 800.0, None, 800.0, None]
    assert output.dead == []
    used = [vector["limit_used"] for vector in vectors(output, CUSTOMER)]
    assert used[:4] == [None, 100.05 / 500.25, 10 / 500.25, 10 / 800]


def test_of_records_at_the_time_of_the_event_those_count_that_came_before_it(customer: KeyedStage) -> None:
    output = through(
        customer,
        limit("l1", NOON, 1),
        limit("l2", NOON, 2),
        payment("p1", NOON),
        limit("l3", NOON, 3),
        payment("p2", NOON),
    )
    assert asof(output) == [2.0, 3.0]


def test_an_interval_join_aggregates_the_records_of_its_interval(customer: KeyedStage) -> None:
    records = [login(str(at), NOON + at * 20 * MINUTE) for at in range(6)]
    output = through(customer, *records, payment("p1", NOON + 100 * MINUTE), payment("p2", NOON + 5 * HOUR))
    assert [vector["logins_1h"] for vector in vectors(output, CUSTOMER)] == [3.0, 0.0]
    assert [vector["customer_count_1d"] for vector in vectors(output, CUSTOMER)] == [1.0, 2.0], "of payments only"


def test_a_filter_reads_the_texts_and_numbers_of_the_stream() -> None:
    written = [
        {"name": "here", "aggregate": "count", "stream": "logins", "window": "1h", "where": "terminal == 't1'"},
        {
            "name": "high",
            "aggregate": "max",
            "stream": "limits",
            "field": "limit",
            "window": "1d",
            "where": "limit < 9",
        },
        {"name": "since", "aggregate": "since_last", "stream": "logins", "window": "1d", "where": "terminal != 't1'"},
    ]
    stage = JOINED_FRAUD.features.stages[0].model_copy(
        update={"features": tuple(map(FeatureSpec.model_validate, written))}
    )
    features = JOINED_FRAUD.features.model_copy(update={"stages": (stage,)})
    service = keyed_stage(JOINED_FRAUD.model_copy(update={"features": features}), 0)
    sent = [login("1", NOON), login("2", NOON + 1_500, terminal="t2"), limit("l1", NOON, 9), limit("l2", NOON, 8.99)]
    (found,) = vectors(through(service, *sent, payment("p1", NOON + 2_000)), ["here", "high", "since"])
    assert found == {"here": 1.0, "high": 8.99, "since": 0.5}


def test_a_record_gives_no_output_and_waits_for_the_first_event_of_its_key(customer: KeyedStage) -> None:
    first = through(customer, limit("l1", NOON, 700))
    assert (first.records, first.dead, len(first.state)) == ([], [], 1)
    again = keyed_stage(JOINED_FRAUD, 0)
    again.restore(0, [(entry.key, entry.value) for entry in first.state if entry.value is not None])
    assert asof(through(again, payment("p1", NOON + DAY_MS))) == [700.0]


def test_records_of_streams_that_a_later_stage_joins_pass_on_byte_for_byte(customer: KeyedStage) -> None:
    sent = [login("1", NOON), limit("l1", NOON), payment("p1", NOON + 1), login("2", NOON + 2, terminal="t2")]
    output = through(customer, *sent)
    assert [(out.topic, out.key, out.timestamp) for out in output.records] == [
        ("fraud-by-terminal", b"t1", NOON),
        ("fraud-by-terminal", b"t1", NOON + 1),
        ("fraud-by-terminal", b"t2", NOON + 2),
    ]
    assert (output.records[0].value, output.records[2].value) == (sent[0].value, sent[3].value)
    assert customer.origins == [0, 2, 3]


def test_a_later_stage_joins_by_its_own_key(customer: KeyedStage) -> None:
    terminal = keyed_stage(JOINED_FRAUD, 1)
    names = [feature.name for feature in JOINED_FRAUD.features.stages[1].features]
    output = through(
        terminal,
        *chained(
            through(
                customer,
                login("1", NOON, "c1"),
                login("2", NOON + 5 * MINUTE, "c2"),
                login("3", NOON + 6 * MINUTE, "c2"),
                login("4", NOON + 7 * MINUTE, "c2", "t2"),
                payment("p1", NOON + 12 * MINUTE),
                payment("p2", NOON + 16 * MINUTE),
            )
        ),
    )
    assert [out.key for out in output.records] == [b"c1", b"c1"], "the last stage passes no record on"
    found = vectors(output, names)
    assert [vector["terminal_logins_1h"] for vector in found] == [3.0, 3.0]
    assert [vector["terminal_customers_1h"] for vector in found] == [1.0, 2.0]
    assert output.dead == []


def without_joins_of_the_first_stage() -> Pipeline:
    first, *others = JOINED_FRAUD.features.stages
    names = {"card_limit", "limit_used", "logins_1h"}
    plain = first.model_copy(update={"features": tuple(one for one in first.features if one.name not in names)})
    features = JOINED_FRAUD.features.model_copy(update={"stages": (plain, *others)})
    return JOINED_FRAUD.model_copy(update={"features": features})


def test_a_stage_that_does_not_join_a_stream_passes_it_on_and_keeps_nothing() -> None:
    pipeline = without_joins_of_the_first_stage()
    stage = keyed_stage(pipeline, 0)
    sent = [login("1", NOON), payment("p1", NOON + 1), login("1", NOON), limit("l1", NOON)]
    output = through(stage, *sent[:1])
    assert ([out.value for out in output.records], output.state) == ([sent[0].value], [])
    output = through(stage, *sent[1:])
    assert [out.key for out in output.records] == [b"t1", b"t1"]
    assert [(dead.code, dead.message) for dead in output.dead] == [
        ("bad_record", "no stage behind this topic joins the stream 'limits'")
    ]
    plain = load_pipeline("fraud")
    assert stage._definition.fingerprint == keyed_stage(plain, 0)._definition.fingerprint


def test_a_record_is_taken_once_and_never_for_an_event_or_a_record_of_another_stream(customer: KeyedStage) -> None:
    output = through(
        customer,
        login("x", NOON),
        login("x", NOON),
        limit("x", NOON, 5),
        payment("x", NOON),
        login("x", NOON),
        payment("x", NOON),
        payment("y", NOON + 1),
    )
    found = vectors(output, CUSTOMER)
    assert [(at["logins_1h"], at["card_limit"], at["customer_count_1d"]) for at in found] == [
        (1.0, 5.0, 1.0),
        (1.0, 5.0, 2.0),
    ]
    assert output.dead == []


def test_joined_records_and_their_repetitions_are_counted() -> None:
    counted = metrics(JOINED_FRAUD)
    stage = KeyedStage(JOINED_FRAUD, 0, StageMetrics(counted))
    through(stage, login("1", NOON), limit("1", NOON), login("1", NOON), payment("1", NOON))
    lines = generate_latest(counted.registry).decode().splitlines()
    values = {
        line.split("{")[0] + line.partition("kind=")[2][:8]: float(line.split()[-1]) for line in lines if "{" in line
    }
    assert values["tidemill_features_joined_total"] == 2
    assert values['tidemill_features_duplicates_total"stream"'] == 1
    assert values["tidemill_features_events_total"] == 1


def test_a_label_is_of_the_event_and_not_of_a_record_with_its_id(customer: KeyedStage) -> None:
    value = {"v": 1, "id": "x", "event_time": NOON, "known_at": NOON + 1, "customer": "c1", "terminal": "t1"}
    labels = [
        Record("fraud-labels", 0, 0, NOON + 1, b"c1", orjson.dumps(value | {"fraud": truth})) for truth in (0, 0, 1)
    ]
    output = through(customer, limit("x", NOON), payment("x", NOON), *labels)
    assert [out.value for out in output.records[1:]] == [labels[0].value, labels[2].value]
    unmatched = through(keyed_stage(JOINED_FRAUD, 0), limit("x", NOON), labels[0])
    assert [dead.code for dead in unmatched.dead] == ["unmatched_label"]


def test_a_late_record_stands_in_its_place_until_no_event_can_look_back_to_it(customer: KeyedStage) -> None:
    retention = customer._definition.retention
    newest = NOON + 200 * DAY_MS
    output = through(
        customer,
        payment("p1", newest),
        limit("l2", newest - DAY_MS, 2),
        limit("l1", newest - 2 * DAY_MS, 1),
        payment("p2", newest),
        limit("held", newest - retention + 1, 9),
        limit("late", newest - retention, 9),
    )
    assert asof(output) == [None, 2.0]
    (dead,) = output.dead
    assert (dead.code, orjson.loads(dead.record.value or b"")["id"]) == ("late", "late")
    assert str(retention) in dead.message


def test_an_event_is_late_behind_a_stream_only_beyond_its_lead(customer: KeyedStage) -> None:
    lead, lateness = DAY_MS, HOUR  # The longest of both streams; features.allowed_lateness.
    output = through(
        customer,
        payment("p0", NOON),
        limit("l1", NOON + lead + lateness + 1),
        payment("late", NOON),
        payment("p1", NOON + 1),
    )
    assert [vector["customer_count_1d"] for vector in vectors(output, CUSTOMER)] == [1.0, 2.0]
    (dead,) = output.dead
    assert (dead.code, orjson.loads(dead.record.value or b"")["id"]) == ("late", "late")
    assert "less 86400000 ms" in dead.message


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (100_000.01, "field 'limit' of stream 'limits' is 100000, out of range: 0 to 100000 is declared"),
        (-1, "field 'limit' of stream 'limits' is -1, out of range"),
        ("5", "stream 'limits': Expected `float`, got `str` - at `$.limit`"),
        (None, "stream 'limits': Expected `float`, got `null` - at `$.limit`"),
    ],
)
def test_a_value_that_was_not_declared_is_a_dead_letter_that_names_its_field(
    customer: KeyedStage, value: object, said: str
) -> None:
    output = through(customer, payment("p1", NOON), limit("l1", NOON, value), payment("p2", NOON + 1))
    assert [dead.code for dead in output.dead] == ["bad_record"]
    assert output.dead[0].message.startswith(said)
    assert asof(output) == [None, None]


def test_what_is_missing_or_unreadable_costs_itself_only(customer: KeyedStage) -> None:
    without = {"v": 1, "stream": "limits", "id": "l1", "event_time": NOON, "customer": "c1"}
    no_terminal = {"v": 1, "stream": "logins", "id": "1", "event_time": NOON, "customer": "c1"}
    bad = [
        Record("fraud-stream-limits", 0, 0, NOON, b"c1", orjson.dumps(without)),
        Record("fraud-stream-logins", 0, 0, NOON, b"c1", orjson.dumps(no_terminal)),
        Record("fraud-stream-logins", 0, 0, NOON, b"c1", b'{"stream": "logins", '),
        Record("fraud-stream-logins", 0, 0, NOON, b"c1", None),
        Record("fraud-stream-logins", 0, 0, NOON, None, login("2", NOON).value),
        login("3", NOON, terminal=""),
    ]
    output = through(customer, *bad[:3], payment("p1", NOON), *bad[3:], login("4", NOON))
    assert sorted(dead.code for dead in output.dead) == ["bad_record"] * 6
    assert {id(dead.record) for dead in output.dead} == {id(record) for record in bad}
    said = {dead.message for dead in output.dead}
    assert "field 'limit' of stream 'limits' is missing" in said
    assert "stream 'logins': Object missing required field `terminal`" in said
    assert "stream 'logins': the key of the next stage is empty" in said
    assert len(output.records) == 2


def test_the_first_stage_reads_the_streams_before_events_of_the_same_time() -> None:
    customer, terminal = (service_spec(JOINED_FRAUD, stage) for stage in ("customer", "terminal"))
    assert [topic.name for topic in customer.inputs] == [
        *("fraud-stream-limits", "fraud-stream-logins", "fraud-events", "fraud-labels")
    ]
    assert [topic.name for topic in terminal.inputs] == ["fraud-by-terminal"]
    unread = without_joins_of_the_first_stage()
    assert [topic.name for topic in service_spec(unread, "customer").inputs] == [
        *("fraud-stream-logins", "fraud-events", "fraud-labels")
    ]


def test_a_stream_that_is_joined_changes_the_name_of_the_feature_set_and_one_that_is_not_does_not() -> None:
    plain = load_pipeline("fraud")
    declared = plain.model_copy(update={"streams": JOINED_FRAUD.streams})
    assert feature_set_hash(declared) == feature_set_hash(plain) == "0ed7588c0878"
    names = {feature_set_hash(JOINED_FRAUD)}
    for change in ({"max_lead": 1}, {"numbers": {}}):
        stream = JOINED_FRAUD.streams["limits"].model_copy(update=change)
        names.add(
            feature_set_hash(JOINED_FRAUD.model_copy(update={"streams": {**JOINED_FRAUD.streams, "limits": stream}}))
        )
    assert len(names) == 3


def test_state_of_the_stage_without_its_join_is_refused(customer: KeyedStage) -> None:
    plain, joined = keyed_stage(load_pipeline("fraud"), 0), customer
    assert plain._definition.fingerprint != joined._definition.fingerprint
    lead = JOINED_FRAUD.streams["logins"].model_copy(update={"max_lead": 1})
    other = JOINED_FRAUD.model_copy(update={"streams": {**JOINED_FRAUD.streams, "logins": lead}})
    assert keyed_stage(other, 0)._definition.fingerprint != joined._definition.fingerprint


README = Path(__file__).parents[3] / "services" / "tidemill" / "features" / "README.md"


def test_the_worked_example_of_the_documentation_comes_out_as_it_says(customer: KeyedStage) -> None:
    section = README.read_text(encoding="utf-8").split("## Joining a second stream")[1].split("\n## ")[0]
    block = section.split("```yaml\n")[1].split("```")[0]
    assert [line for line in block.splitlines() if line not in JOINED_TEXT.splitlines()] == []
    table = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| 1")]
    assert len(table) == 4

    def at(clock: str) -> int:
        hours, minutes = map(int, clock.split(":"))
        return NOON + (hours - 12) * HOUR + minutes * MINUTE

    sent = [limit("l1", at("12:00"), 500), limit("l2", at("12:30"), 800)]
    sent += [login("1", at("12:05")), login("2", at("12:25"))]
    sent += [payment(clock, at(clock), 25.0) for clock, *_ in table]
    output = through(customer, *sorted(sent, key=lambda record: record.timestamp))
    names = ("card_limit", "limit_used", "logins_1h")
    found = [[orjson.dumps(vector[name]).decode() for name in names] for vector in vectors(output, CUSTOMER)]
    assert found == [[cell if cell == "null" else repr(float(cell)) for cell in cells[1:]] for cells in table]


def test_a_key_that_has_only_a_record_is_not_forgotten_before_the_last_event_that_sees_it() -> None:
    """Other keys move the partition's time across a point of the grid in between."""
    wanted = (FeatureSpec.model_validate({"name": "n", "aggregate": "count", "stream": "logins", "window": "12s"}),)
    stage = stage_of(wanted, 0, 0)
    at = 20 * stage.expiry_grid - 10 * SECOND
    engine = WindowEngine(stage)
    rows = [Row(b"a", 1, at, 0, None, stream="logins"), Row(b"b", 2, at + 11 * SECOND, 0, None)]
    matrix, _ = slide(engine, stage, [*rows, Row(b"a", 3, at + 11 * SECOND, 0, None)])
    assert matrix[:, 0].tolist()[1:] == [0.0, 1.0]
    slide(engine, stage, [Row(b"b", 4, at + 100 * stage.expiry_grid, 0, None)])
    assert engine.names == [b"b"]
