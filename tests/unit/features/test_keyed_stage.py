"""A keyed stage, record by record: what it writes, forwards, drops and refuses."""

import orjson
import pytest

from support.featurestages import keyed_stage
from tidemill.domain.durations import DAY_MS
from tidemill.domain.featureset import feature_set_hash
from tidemill.features.shell import KeyedStage
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Output, Record

FRAUD = load_pipeline("fraud")
NOON = 1_522_584_000_000  # Sunday 2018-04-01 12:00 UTC


def event(id_: str = "p1", ts: int = NOON, amount: float = 10.0, customer: str = "c1", terminal: str = "t1") -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "customer": customer, "terminal": terminal, "amount": amount}
    return Record("fraud-events", 0, 0, ts, customer.encode(), orjson.dumps(value))


def label(id_: str = "p1", ts: int = NOON, fraud: int = 1, known_at: int = NOON + DAY_MS) -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "known_at": known_at, "customer": "c1", "terminal": "t1"}
    value |= {"fraud": fraud}
    return Record("fraud-labels", 0, 0, known_at, b"c1", orjson.dumps(value))


def through(stage: KeyedStage, *records: Record) -> Output:
    stage.add(records, 0.0)
    return stage.flush(0.0)


def chained(output: Output) -> list[Record]:
    return [Record(out.topic, 0, 0, out.timestamp, out.key, out.value) for out in output.records]


@pytest.fixture
def customer() -> KeyedStage:
    return keyed_stage(FRAUD, 0)


@pytest.fixture
def terminal() -> KeyedStage:
    return keyed_stage(FRAUD, 1)


def test_an_event_is_re_keyed_with_its_features_spliced_behind_its_own_bytes(customer: KeyedStage) -> None:
    source = event(amount=12.34)
    (out,) = through(customer, source).records
    assert (out.topic, out.key, out.timestamp, out.partition) == ("fraud-by-terminal", b"t1", NOON, -1)
    assert out.value is not None and source.value is not None
    assert out.value.startswith(source.value[:-1])
    assert out.value.endswith(b"]}")
    parsed = orjson.loads(out.value)
    assert parsed["fs"] == feature_set_hash(FRAUD)
    assert parsed["features"] == [12.34, 1.0, 0.0, 1.0, 12.34, 1.0, 12.34, 1.0, 12.34]
    assert list(parsed)[-1] == "features"


def test_the_last_stage_writes_the_whole_vector_keyed_by_the_primary_entity(
    customer: KeyedStage, terminal: KeyedStage
) -> None:
    (out,) = through(terminal, *chained(through(customer, event()))).records
    assert (out.topic, out.key) == ("fraud-features", b"c1")
    assert orjson.loads(out.value or b"")["features"] == [10.0, 1.0, 0.0, *[1.0, 10.0] * 3, *[0.0] * 6]


@pytest.mark.parametrize("beside", [[], [label("nobody")]], ids=["alone", "beside a refused record"])
def test_an_event_without_the_key_of_the_next_stage_passes_on_and_is_refused_there(
    customer: KeyedStage, terminal: KeyedStage, beside: list[Record]
) -> None:
    output = through(customer, event("p1", terminal=""), *beside)
    assert [out.key for out in output.records] == [b""]
    (dead,) = through(terminal, *chained(output)).dead
    assert (dead.code, dead.message) == ("bad_record", "has no key")


def test_a_label_changes_the_rate_of_its_terminal_and_ends_behind_the_last_stage(
    customer: KeyedStage, terminal: KeyedStage
) -> None:
    first = chained(through(customer, event("p1"), event("p2", NOON + 1), label("p1")))
    assert first[2].value == label("p1").value
    assert (first[2].key, first[2].timestamp) == (b"t1", NOON + DAY_MS)
    assert len(through(terminal, *first).records) == 2
    late = event("p3", NOON + 7 * DAY_MS + 1)
    (out,) = through(terminal, *chained(through(customer, late))).records
    assert orjson.loads(out.value or b"")["features"][9:] == [2.0, 0.5] * 3


@pytest.mark.parametrize(("hour", "night"), [(0, 1.0), (6, 1.0), (7, 0.0), (23, 0.0)])
def test_night_ends_before_seven_utc(customer: KeyedStage, hour: int, night: float) -> None:
    (out,) = through(customer, event(ts=NOON + (hour - 12) * 3_600_000)).records
    assert orjson.loads(out.value or b"")["features"][2] == night


@pytest.mark.parametrize(("day", "weekend"), [(-2, 0.0), (-1, 1.0), (0, 1.0), (1, 0.0)])
def test_a_weekend_is_saturday_and_sunday(customer: KeyedStage, day: int, weekend: float) -> None:
    (out,) = through(customer, event(ts=NOON + day * DAY_MS)).records
    assert orjson.loads(out.value or b"")["features"][1] == weekend


def test_a_late_event_is_a_dead_letter_and_leaves_no_trace(customer: KeyedStage) -> None:
    output = through(customer, event("p1"), event("p2", NOON - 3_600_001), event("p3", NOON + 1))
    assert [(dead.code, dead.record.value) for dead in output.dead] == [("late", event("p2", NOON - 3_600_001).value)]
    assert orjson.loads(output.records[1].value or b"")["features"][3] == 2.0


def test_an_event_as_late_as_allowed_is_taken_in_its_place(customer: KeyedStage) -> None:
    output = through(customer, event("p1"), event("p2", NOON - 3_600_000), event("p3", NOON + 1))
    assert not output.dead
    assert [orjson.loads(out.value or b"")["features"][3] for out in output.records] == [1.0, 1.0, 3.0]


def test_a_duplicate_is_dropped_even_from_a_later_transaction(customer: KeyedStage) -> None:
    assert len(through(customer, event("p1"), event("p1")).records) == 1
    again = through(customer, event("p1"), event("p2"))
    assert not again.dead
    assert [orjson.loads(out.value or b"")["features"][3] for out in again.records] == [2.0]


def test_a_label_without_its_event_is_a_dead_letter(customer: KeyedStage) -> None:
    output = through(customer, event("p1"), label("p2"), label("p1", NOON + 5))
    assert [dead.code for dead in output.dead] == ["unmatched_label"] * 2


def test_the_same_label_again_is_dropped_and_a_correction_passes(customer: KeyedStage) -> None:
    output = through(customer, event("p1"), label("p1"), label("p1"), label("p1", fraud=0))
    assert not output.dead
    assert [orjson.loads(out.value or b"").get("fraud") for out in output.records] == [None, 1, 0]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"{", "truncated"),
        (b"\xff\xfe", "malformed"),
        (None, "no value"),
        (b'{"id":"p1","event_time":"x","terminal":"t1","amount":1.0}', "event_time"),
        (b'{"id":"p1","event_time":5,"terminal":"t1"}', "'amount' is missing"),
        (b'{"id":"p1","event_time":5,"terminal":"t1","amount":1e300}', "out of range"),
        (b'{"id":"p1","event_time":5,"terminal":"t1","fraud":2}', "fraud"),
    ],
)
def test_an_unreadable_record_costs_itself_only(customer: KeyedStage, value: bytes | None, said: str) -> None:
    bad = Record("fraud-events", 0, 7, NOON, b"c1", value)
    output = through(customer, event("p1"), bad, event("p2"))
    assert len(output.records) == 2
    assert [(dead.code, dead.record) for dead in output.dead] == [("bad_record", bad)]
    assert said in output.dead[0].message


def test_each_output_names_the_record_that_it_came_from(customer: KeyedStage) -> None:
    bad = Record("fraud-events", 0, 7, NOON, b"c1", b"{")
    through(customer, event("p1"), bad, event("p1"), label("p1"), event("p2", NOON - DAY_MS), event("p3"))
    assert customer.origins == [0, 3, 5]
    through(customer, bad)
    assert customer.origins == []


def test_a_record_without_a_key_is_refused(customer: KeyedStage) -> None:
    output = through(customer, event()._replace(key=None))
    assert [(dead.code, dead.message) for dead in output.dead] == [("bad_record", "has no key")]


def test_features_of_another_feature_set_are_not_continued(customer: KeyedStage, terminal: KeyedStage) -> None:
    (record,) = chained(through(customer, event()))
    foreign = record._replace(value=(record.value or b"").replace(feature_set_hash(FRAUD).encode(), b"0123456789ab"))
    output = through(terminal, foreign)
    assert not output.records
    assert "0123456789ab" in output.dead[0].message


def test_outputs_keep_the_order_of_the_records_over_all_partitions(customer: KeyedStage) -> None:
    records = [
        event(f"p{number}", NOON + number, customer=f"c{number}")._replace(partition=number % 3) for number in range(9)
    ]
    assert [out.timestamp for out in through(customer, *records).records] == [NOON + number for number in range(9)]


def test_a_dropped_partition_forgets_its_records_and_its_state(customer: KeyedStage) -> None:
    through(customer, event("p1"))
    customer.add([event("p2")], 0.0)
    customer.drop([0])
    assert not customer.flush(0.0).records
    customer.restore(0, [])
    (out,) = through(customer, event("p1")).records
    assert orjson.loads(out.value or b"")["features"][3] == 1.0


def test_state_goes_to_the_partition_that_it_came_from(customer: KeyedStage) -> None:
    output = through(customer, event("p1")._replace(partition=3), event("p2", customer="c2")._replace(partition=1))
    assert [(entry.partition, entry.key) for entry in output.state] == [(1, b"c2\0\0\0\0"), (3, b"c1\0\0\0\0")]


def test_an_unnormalised_object_is_spliced_all_the_same(customer: KeyedStage) -> None:
    spaced = event()._replace(value=(event().value or b"") + b" \n")
    (out,) = through(customer, spaced).records
    assert orjson.loads(out.value or b"")["features"][0] == 10.0


def test_state_in_memory_writes_none_and_changes_no_output() -> None:
    features = FRAUD.features.model_copy(update={"state": "memory"})
    forgetful = keyed_stage(FRAUD.model_copy(update={"features": features}), 0)
    remembering = keyed_stage(FRAUD, 0)
    # 200 days by steps of half a day: rows expire, keys are forgotten, and their slots are used again.
    for step in range(400):
        ts = NOON + step * DAY_MS // 2
        batch = [event(f"p{step}-{key}", ts, customer=f"c{key}") for key in (step % 3, 3 + step // 90)]
        ours, theirs = through(forgetful, *batch), through(remembering, *batch)
        assert ours.state == []
        assert theirs.state
        assert ours.records == theirs.records
