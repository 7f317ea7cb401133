"""The join as a service: bytes in, outcomes out, each rule by an example."""

import orjson
import pytest

from support.featurestages import join_metrics
from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.features.outcomes import OutcomeStage, outcome_inputs
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Output, Record

FRAUD = load_pipeline("fraud")
NOON = 1_522_584_000_000
WEEK = 7 * DAY_MS


def with_rules(**rules: object) -> Pipeline:
    return FRAUD.model_copy(update={"outcomes": FRAUD.outcomes.model_copy(update=rules)})


def stage(pipeline: Pipeline = FRAUD) -> OutcomeStage:
    return OutcomeStage(pipeline, join_metrics(pipeline))


def label(id_: str = "p1", ts: int = NOON, fraud: int = 1, known_at: int = NOON + DAY_MS) -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "known_at": known_at, "customer": "c1", "terminal": "t1"}
    return Record("fraud-labels", 0, 0, known_at, b"c1", orjson.dumps({**value, "fraud": fraud}))


def prediction(id_: str = "p1", ts: int = NOON, decision: str = "approve") -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "features": [1.5, None], "status": "ok", "decision": decision}
    return Record("fraud-predictions", 0, 0, ts, b"c1", orjson.dumps(value))


def shadow(id_: str = "p1", ts: int = NOON) -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "customer": "c1", "model": "m", "model_version": 3}
    return Record("fraud-shadow", 0, 0, ts, b"c1", orjson.dumps({**value, "outputs": {"score": 0.125}}))


def through(service: OutcomeStage, *records: Record) -> Output:
    service.add(records, 0.0)
    return service.flush(0.0)


def truth(value: bytes | None) -> tuple[object, ...]:
    outcome = orjson.loads(value or b"")
    return (outcome["label"], outcome["label_status"], outcome["known_at"], outcome["shadow"])


def test_a_score_is_read_before_its_prediction_and_both_when_matured() -> None:
    assert [(topic.name, topic.delay_ms) for topic in outcome_inputs(FRAUD)] == [
        ("fraud-labels", 0),
        ("fraud-shadow", WEEK),
        ("fraud-predictions", WEEK),
    ]


def test_an_outcome_is_the_prediction_with_the_truth_behind_it() -> None:
    source = prediction()
    (out,) = through(stage(), label(), shadow(), source).records
    assert (out.topic, out.key, out.timestamp, out.partition) == ("fraud-outcomes", b"c1", NOON + WEEK, -1)
    assert (out.value or b"").startswith((source.value or b"")[:-1] + b',"label":1,')
    assert truth(out.value) == (1, "labelled", NOON + DAY_MS, {"model_version": 3, "score": 0.125})


@pytest.mark.parametrize(
    ("rule", "decision", "expected"),
    [
        ("negative", "approve", (0, "negative", None, None)),
        ("censored", "approve", (None, "censored", None, None)),
        ("negative", "review", (None, "censored", None, None)),
    ],
)
def test_without_a_label_the_pipeline_decides_unless_the_decision_hid_the_truth(
    rule: str, decision: str, expected: tuple[object, ...]
) -> None:
    service = stage(with_rules(missing_label=rule, blocking_decisions=("review",)))
    (out,) = through(service, prediction(decision=decision)).records
    assert truth(out.value) == expected


def test_a_blocking_decision_with_a_label_is_labelled() -> None:
    service = stage(with_rules(blocking_decisions=("review",)))
    (out,) = through(service, label(fraud=0), prediction(decision="review")).records
    assert truth(out.value)[:2] == (0, "labelled")


@pytest.mark.parametrize(("rule", "expected"), [("first", 1), ("last", 0)])
def test_of_conflicting_labels_the_declared_one_counts(rule: str, expected: int) -> None:
    service = stage(with_rules(conflicting_label=rule))
    output = through(service, label(fraud=1), label(fraud=0, known_at=NOON + 2 * DAY_MS), prediction())
    assert truth(output.records[0].value)[0] == expected
    assert not output.dead


def test_a_label_known_after_the_maturity_is_a_dead_letter_whenever_it_arrives() -> None:
    service = stage()
    early = through(service, label(known_at=NOON + WEEK + 1), prediction())
    assert truth(early.records[0].value)[1] == "censored"
    assert [dead.code for dead in early.dead] == ["late"]
    assert [dead.code for dead in through(service, label("p2", known_at=NOON + WEEK + 1)).dead] == ["late"]


def test_a_label_known_at_the_last_moment_counts() -> None:
    (out,) = through(stage(), label(known_at=NOON + WEEK), prediction()).records
    assert truth(out.value)[1] == "labelled"


def test_a_label_of_another_event_time_is_not_of_this_event() -> None:
    (out,) = through(stage(), label(ts=NOON + 1), prediction()).records
    assert truth(out.value)[1] == "censored"


@pytest.mark.parametrize("restarted_after", [1, 2])
def test_a_restart_between_label_score_and_prediction_changes_nothing(restarted_after: int) -> None:
    records = [label(), shadow(), prediction()]
    first = stage()
    entries = through(first, *records[:restarted_after]).state
    second = stage()
    second.restore(0, [(entry.key, entry.value or b"") for entry in entries])
    (out,) = through(second, *records[restarted_after:]).records
    assert truth(out.value) == (1, "labelled", NOON + DAY_MS, {"model_version": 3, "score": 0.125})


def test_many_labels_of_one_transaction_are_one_changelog_record() -> None:
    output = through(stage(), *(label(f"p{number}", NOON + number) for number in range(500)))
    assert [entry.key[:1] for entry in output.state] == [b"l"]


def test_using_a_label_writes_no_state_but_how_far_predictions_came() -> None:
    service = stage()
    through(service, label())
    assert [entry.key for entry in through(service, prediction()).state] == [b"w"]


@pytest.mark.parametrize(
    "bad",
    [
        label()._replace(value=b"{"),
        label()._replace(value=None),
        shadow()._replace(value=b'{"id":"p1","event_time":5,"model_version":3,"outputs":{}}'),
        prediction()._replace(value=b'{"id":"p1"}'),
    ],
)
def test_an_unreadable_record_costs_itself_only(bad: Record) -> None:
    output = through(stage(), label(), bad, prediction())
    assert [(dead.code, dead.record) for dead in output.dead] == [("bad_record", bad)]
    assert len(output.records) == 1


def test_a_dropped_partition_is_forgotten() -> None:
    service = stage()
    through(service, label())
    service.drop([0])
    (out,) = through(service, prediction()).records
    assert truth(out.value)[1] == "censored"
