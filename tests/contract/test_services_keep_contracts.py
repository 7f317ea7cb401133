"""What the services write, hop by hop from raw payments to outcomes, is what the schemas say."""

import random
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import jsonschema_rs
import msgspec
import orjson
import pytest

from support.featurestages import join_metrics, keyed_stage
from support.inference_harness import Stage
from support.inference_models import PRIVATE_KEY, mlp
from support.schemaguards import validator
from tidemill.domain.model import Activation, Manifest, encode
from tidemill.domain.pipeline import Pipeline
from tidemill.drift.core import records as drift
from tidemill.features.outcomes import OutcomeStage
from tidemill.ingest.shell import IngestService
from tidemill.ingest.sources import open_intakes
from tidemill.retrain.core import records as retrain
from tidemill.runtime.dlq import to_record
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import DeadLetter, Output, OutRecord, Record, Service
from tidemill_schemas import examples, load_schema

PIPELINE: Pipeline = load_pipeline("fraud")
DAY = 86_400_000
START = 1_522_540_800_000


@cache
def checker(name: str) -> jsonschema_rs.Validator:
    return validator(name)


def keeps(name: str, value: bytes | None) -> None:
    document = orjson.loads(value or b"null")
    assert [error.message for error in checker(name).iter_errors(document)] == [], document


def given(topic: str, outputs: Iterable[OutRecord]) -> list[Record]:
    """Written records as the next service reads them, all from one partition."""
    return [
        Record(topic, 0, offset, out.timestamp, out.key, out.value, out.headers)
        for offset, out in enumerate(out for out in outputs if out.topic == topic)
    ]


def through(service: Service, records: list[Record]) -> Output:
    service.restore(0, [])
    service.add(records, 0.0)
    return service.flush(0.0)


def payments() -> Iterator[tuple[bytes, bytes]]:
    """A payment and its chargeback, both raw: forty days of a few cards, so that no window stays empty."""
    rng = random.Random(3)
    for number in range(400):
        at = START + number * DAY // 10
        card, terminal = f"c-{rng.randrange(4):05d}", f"t-{rng.randrange(3):05d}"
        fraud = int(rng.random() < 0.1)
        both: dict[str, object] = {"v": 1, "payment_id": f"p-{number:09d}", "paid_at_ms": at}
        whose = {"card": card, "terminal": terminal}
        yield (
            orjson.dumps({**both, **whose, "amount": round(rng.uniform(1, 400), 2)}),
            orjson.dumps({**both, "known_at_ms": at + 3 * DAY, **whose, "fraud": fraud}),
        )


@pytest.fixture(scope="module")
def chain() -> dict[str, list[Record]]:
    """Every topic's records, as the services write them."""
    intakes = open_intakes(PIPELINE)
    raw = [
        Record(topic, 0, number, 0, None, value)
        for number, pair in enumerate(payments())
        for topic, value in zip(("fraud-raw-payments", "fraud-raw-chargebacks"), pair, strict=True)
    ]
    clean = through(IngestService(intakes.by_topic), raw).records
    topics = {"fraud-raw-payments": raw[::2], "fraud-raw-chargebacks": raw[1::2]}
    topics |= {name: given(name, clean) for name in ("fraud-events", "fraud-labels")}
    both = sorted(topics["fraud-events"] + topics["fraud-labels"], key=lambda record: record.timestamp)
    for index, topic in enumerate(("fraud-by-terminal", "fraud-features")):
        stage = keyed_stage(PIPELINE, index)
        written = through(stage, both).records
        topics[topic] = both = given(topic, written)
    inference = Stage()
    inference.deliver()
    half = len(topics["fraud-features"]) // 2
    predictions = inference.score(topics["fraud-features"][:half]).records
    inference.go_live(1, mlp(seed=1))
    inference.publish(2, mlp(seed=2))
    inference.activate(2, 1, challenger=2)
    inference.deliver()
    predictions += inference.score(topics["fraud-features"][half:]).records
    inference.close()
    topics |= {name: given(name, predictions) for name in ("fraud-predictions", "fraud-shadow")}
    join = OutcomeStage(PIPELINE, join_metrics(PIPELINE))
    known = [record for record in topics["fraud-labels"] if record.offset % 7]
    topics["fraud-outcomes"] = given(
        "fraud-outcomes", through(join, known + topics["fraud-shadow"] + topics["fraud-predictions"]).records
    )
    return topics


@pytest.mark.parametrize(
    ("topic", "schema"),
    [
        ("fraud-raw-payments", "fraud-raw-payment"),
        ("fraud-raw-chargebacks", "fraud-raw-chargeback"),
        ("fraud-events", "fraud-event"),
        ("fraud-labels", "fraud-label"),
        ("fraud-features", "fraud-features"),
        ("fraud-predictions", "fraud-prediction"),
        ("fraud-shadow", "fraud-shadow"),
        ("fraud-outcomes", "fraud-outcome"),
    ],
)
def test_every_record_of_a_topic_keeps_its_schema(chain: dict[str, list[Record]], topic: str, schema: str) -> None:
    assert len(chain[topic]) == (200 if topic == "fraud-shadow" else 400)
    for record in chain[topic]:
        keeps(schema, record.value)


def test_between_the_stages_go_events_with_features_and_labels(chain: dict[str, list[Record]]) -> None:
    labels = [record for record in chain["fraud-by-terminal"] if b'"fraud":' in (record.value or b"")]
    events = [record for record in chain["fraud-by-terminal"] if record not in labels]
    assert (len(events), len(labels)) == (400, 400)
    for record in events:
        keeps("fraud-by-terminal", record.value)
        assert (record.value or b"").endswith(b"]}")
    assert {record.value for record in labels} == {record.value for record in chain["fraud-labels"]}


def test_the_chain_showed_every_kind_of_prediction_and_outcome(chain: dict[str, list[Record]]) -> None:
    predictions = [orjson.loads(record.value or b"") for record in chain["fraud-predictions"]]
    outcomes = [orjson.loads(record.value or b"") for record in chain["fraud-outcomes"]]
    assert {made["status"] for made in predictions} == {"ok", "no_model"}
    assert {made["label_status"] for made in outcomes} == {"labelled", "censored"}
    assert {made["shadow"] is None for made in outcomes} == {True, False}


def test_the_key_is_the_entity_and_the_timestamp_is_what_the_topic_file_says(chain: dict[str, list[Record]]) -> None:
    maturity = PIPELINE.outcomes.maturity
    meaning = {"fraud-labels": ("known_at", 0), "fraud-outcomes": ("event_time", maturity)}
    for topic in ("fraud-events", "fraud-labels", "fraud-features", "fraud-predictions", "fraud-outcomes"):
        field, later = meaning.get(topic, ("event_time", 0))
        for record in chain[topic]:
            document = orjson.loads(record.value or b"")
            assert record.key == document["customer"].encode()
            assert record.timestamp == document[field] + later
    for record in chain["fraud-by-terminal"]:
        assert record.key == orjson.loads(record.value or b"")["terminal"].encode()


def test_a_dead_letters_headers_keep_their_schema_for_every_code() -> None:
    original = Record("fraud-raw-payments", 2, 18_236, 5, b"c-1", b"{", (("traceparent", b"00-1"),))
    for code in load_schema("dead-letter")["properties"]["tidemill.code"]["enum"]:
        written = to_record(DeadLetter(original, code, "unexpected end of data"), "fraud-dlq", "ingest")
        keeps("dead-letter", orjson.dumps({name: value.decode() for name, value in written.headers}))


def fields(kind: type[msgspec.Struct]) -> set[str]:
    """Names on the wire, the tag included."""
    tag = msgspec.inspect.type_info(kind)
    assert isinstance(tag, msgspec.inspect.StructType)
    return {field.encode_name for field in tag.fields} | ({tag.tag_field} if tag.tag_field else set())


@pytest.mark.parametrize("kind", [drift.Alarm, drift.Statistics, drift.Generation])
def test_drift_records_have_the_fields_of_their_schema(kind: type[msgspec.Struct]) -> None:
    schema = load_schema("drift")["$defs"]
    assert fields(kind) == set(schema[kind.__name__.lower()]["properties"])
    assert fields(drift.Window) == set(schema["statistics"]["properties"]["window"]["properties"])


def test_decisions_have_the_fields_and_kinds_of_their_schema() -> None:
    schema = load_schema("decision")["properties"]
    assert fields(retrain.Decision) == set(schema)
    assert set(schema["kind"]["enum"]) == set(retrain.DecisionKind.__args__)
    assert set(schema["policy"]["enum"]) == set(retrain.Policy.__args__)


@pytest.mark.parametrize(("kind", "name"), [(Manifest, "model-manifest"), (Activation, "model-activation")])
def test_model_records_have_the_fields_of_their_schema(kind: type[msgspec.Struct], name: str) -> None:
    assert fields(kind) | {"signature"} == set(load_schema(name)["properties"])


@pytest.mark.parametrize("name", ["model-manifest", "model-activation"])
def test_signed_model_records_keep_their_schema(name: str) -> None:
    for example in examples(name):
        unsigned: dict[str, Any] = {key: value for key, value in example.document.items() if key != "signature"}
        record = msgspec.convert(unsigned, Manifest if name == "model-manifest" else Activation)
        keeps(name, encode(record, PRIVATE_KEY))


def test_valid_examples_of_the_learning_loop_are_read() -> None:
    for example in examples("drift"):
        assert retrain.decode_drift(orjson.dumps(example.document)).id == example.document["id"]
    for example in examples("decision"):
        decided = retrain.decode_decision(orjson.dumps(example.document))
        keeps("decision", decided.encode())
    for example in examples("fraud-prediction"):
        assert drift.decode_prediction(orjson.dumps(example.document)).fs == example.document["fs"]
    for example in examples("fraud-outcome"):
        assert drift.decode_outcome(orjson.dumps(example.document)).label == example.document["label"]
