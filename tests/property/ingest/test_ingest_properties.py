"""Whatever arrives, ingest answers with a clean record or a RecordError, never with anything else."""

import math
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import orjson
from hypothesis import example, given
from hypothesis import strategies as st

from tidemill.domain.pipeline import SourceSpec
from tidemill.errors import RecordError
from tidemill.ingest.core.decoding import Decoder, parse
from tidemill.ingest.core.intake import Accepted, Intake
from unit.ingest.samples import EVENT_SCHEMA, NOW_MS, PAYMENT, cleaner_with, fraud_pipeline, intake_of, schema_of

CODES = {
    "not_json",
    "not_an_object",
    "non_finite",
    "missing_id",
    "missing_field",
    "wrong_type",
    "unknown_version",
    "schema",
    "out_of_range",
    "oversize",
    "future",
    "duplicate_keys",
}
NUMBERS = st.one_of(st.integers(), st.floats(), st.integers(2**52, 2**65), st.integers(0, 2 * NOW_MS))
TEXTS = st.one_of(
    st.text(),
    st.sampled_from(["", " ", "nan", "-inf", "1e999", "0x1", "1_0", "١", "2018-04-01T00:00:00Z", "24:00", "\x00"]),
    st.from_regex(r"[+-]?[0-9]{0,30}\.?[0-9]{0,3}(e[0-9]{1,3})?", fullmatch=True),
    st.datetimes().map(lambda moment: moment.isoformat() + "+00:00"),
)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
PAYMENTS = st.fixed_dictionaries(
    {},
    optional={
        "v": st.just(1) | VALUES,
        "payment_id": TEXTS | VALUES,
        "paid_at_ms": NUMBERS | VALUES,
        "card": TEXTS | VALUES,
        "terminal": TEXTS | VALUES,
        "amount": NUMBERS | TEXTS | VALUES,
        "other": VALUES,
    },
)
NEAR_PAYMENTS = st.tuples(st.just(PAYMENT), PAYMENTS).map(lambda both: {**both[0], **both[1]})
RULES = st.fixed_dictionaries(
    {"cast": st.sampled_from([None, "string", "integer", "number", "boolean", "timestamp"])},
    optional={"trim": st.booleans()},
)

INTAKE = intake_of()
STRICT = intake_of(refuse_duplicate_keys=True)
VALIDATOR = jsonschema_rs.validator_for(EVENT_SCHEMA)


def judged(call: Callable[[], Any]) -> Any:
    """What `call` gives, or the RecordError that it raises. Anything else escapes and fails the test."""
    try:
        return call()
    except RecordError as error:
        return error


def assert_judged(found: Any) -> None:
    """A clean record, or a refusal with a known code and a message."""
    if isinstance(found, RecordError):
        assert found.code in CODES and found.message
    else:
        assert_canonical(found)


def assert_canonical(accepted: Accepted) -> None:
    """Schema-valid, finite, keyed and stamped by its own fields."""
    record = orjson.loads(accepted.value)
    VALIDATOR.validate(record)
    assert type(record["amount"]) is float and math.isfinite(record["amount"])
    assert type(record["event_time"]) is int and 0 <= record["event_time"] <= NOW_MS + 300_000
    assert accepted.key == record["customer"].encode() and accepted.key and record["id"]
    assert accepted.timestamp == record["event_time"]


@given(st.binary(max_size=300))
@example(b'{"v":1,"payment_id":NaN}')
@example(b"[" * 300)
@example(b'{"v":1,"v":1}')
def test_any_bytes_give_a_record_error_or_a_clean_record(raw: bytes) -> None:
    for intake in (INTAKE, STRICT):
        assert_judged(judged(lambda intake=intake: intake.take(raw, NOW_MS)))


@given(PAYMENTS | NEAR_PAYMENTS, st.sampled_from(["", "NaN", "1e999", "}", "\x00", '"']), st.integers(0, 200))
def test_payments_with_anything_in_their_fields_and_damage_anywhere_are_judged(
    document: dict[str, Any], damage: str, place: int
) -> None:
    text = orjson.dumps(finite(document)).decode()
    raw = (text[:place] + damage + text[place:]).encode()
    assert_judged(judged(lambda: INTAKE.take(raw, NOW_MS)))


@given(NEAR_PAYMENTS)
@example(PAYMENT | {"paid_at_ms": NOW_MS + 300_001, "card": ""})
def test_taking_raises_the_first_fault_that_inspecting_lists(document: dict[str, Any]) -> None:
    found = INTAKE.inspect(document, NOW_MS)
    if isinstance(found, Accepted):
        assert_canonical(found)
        return
    assert found and all(fault.code in CODES for fault in found)
    raw = orjson.dumps(finite(document))
    if orjson.loads(raw) == document and len(raw) < 16_384:
        error = judged(lambda: INTAKE.take(raw, NOW_MS))
        assert isinstance(error, RecordError)
        assert (error.code, error.message) == (found[0].code, found[0].message)


@given(NEAR_PAYMENTS)
def test_cleaning_a_canonical_record_again_changes_nothing(document: dict[str, Any]) -> None:
    found = INTAKE.inspect(document, NOW_MS)
    if isinstance(found, Accepted):
        assert CANONICAL.take(found.value, NOW_MS) == found


@given(RULES, VALUES)
def test_no_rule_lets_through_a_number_that_is_not_finite(rule: dict[str, Any], value: Any) -> None:
    made = judged(lambda: cleaner_with(x=rule).clean(PAYMENT | {"x": value}, NOW_MS))
    if not isinstance(made, RecordError):
        assert finite(made) == made
        orjson.dumps(made)


@given(VALUES)
def test_what_is_json_is_parsed_as_any_reader_would(value: Any) -> None:
    clean = finite(value)
    raw = orjson.dumps(clean)
    assert parse(raw) == orjson.loads(raw)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=4))
def test_a_document_without_repeated_names_is_never_called_duplicate(document: dict[str, Any]) -> None:
    raw = orjson.dumps(finite(document))
    assert Decoder(1 << 20, None, (), refuse_duplicate_keys=True).decode(raw) == orjson.loads(raw)


def finite(value: Any) -> Any:
    """`value` with what JSON has no word for replaced: numbers that are not finite, integers beyond 64 bits."""
    if isinstance(value, float):
        return value if math.isfinite(value) else 0.0
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else 0
    if isinstance(value, list):
        return [finite(item) for item in value]
    return {name: finite(item) for name, item in value.items()} if isinstance(value, dict) else value


def canonical_intake() -> Intake:
    """An intake whose source writes canonical events already."""
    pipeline = fraud_pipeline()
    shipped = next(source for source in pipeline.ingest.sources if source.kind == "event")
    dumped = shipped.model_dump(by_alias=True)
    for name, field in dumped["fields"].items():
        field["from"] = name
    return Intake(pipeline, SourceSpec.model_validate(dumped), schema_of("event"))


CANONICAL = canonical_intake()
