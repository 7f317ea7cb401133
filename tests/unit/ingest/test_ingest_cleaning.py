"""Each rule of a source's field, by the value that breaks it and the exact code it costs."""

import math
from typing import Any

import pytest

from tidemill.errors import ConfigurationError, RecordError
from tidemill.ingest.core.cleaning import compile_cleaner
from tidemill.ingest.core.faults import FieldError
from unit.ingest.samples import CHARGEBACK, NOW_MS, PAYMENT, cleaner_with, fraud_pipeline, source_with

ABSENT = object()
DAY_MS = 86_400_000

BAD_BY_SHIPPED_MAPPING = [
    ("payment_id", ABSENT, "missing_id"),
    ("payment_id", None, "missing_id"),
    ("payment_id", "", "missing_id"),
    ("payment_id", " \t\n", "missing_id"),
    ("payment_id", True, "wrong_type"),
    ("payment_id", 1.0, "wrong_type"),
    ("payment_id", ["p-1"], "wrong_type"),
    ("card", ABSENT, "missing_field"),
    ("card", None, "missing_field"),
    ("card", "  ", "missing_field"),
    ("card", False, "wrong_type"),
    ("card", {"id": "c-1"}, "wrong_type"),
    ("amount", ABSENT, "missing_field"),
    ("amount", None, "missing_field"),
    ("amount", True, "wrong_type"),
    ("amount", False, "wrong_type"),
    ("amount", "12abc", "wrong_type"),
    ("amount", "", "wrong_type"),
    ("amount", " 12", "wrong_type"),
    ("amount", "12,34", "wrong_type"),
    ("amount", "1_000", "wrong_type"),
    ("amount", "١٢", "wrong_type"),
    ("amount", "0x10", "wrong_type"),
    ("amount", "12.34.5", "wrong_type"),
    ("amount", [12.34], "wrong_type"),
    ("amount", math.nan, "non_finite"),
    ("amount", math.inf, "non_finite"),
    ("amount", -math.inf, "non_finite"),
    ("amount", "NaN", "non_finite"),
    ("amount", "-Infinity", "non_finite"),
    ("amount", "+inf", "non_finite"),
    ("amount", "1e999", "non_finite"),
    ("amount", 2**53, "out_of_range"),
    ("amount", -(2**53), "out_of_range"),
    ("amount", 2**70, "out_of_range"),
    ("amount", 10**400, "out_of_range"),
    ("amount", 1.8446744073709552e19, "out_of_range"),
    ("amount", "9007199254740993", "out_of_range"),
    ("amount", -0.01, "out_of_range"),
    ("amount", 100_000.01, "out_of_range"),
    ("paid_at_ms", ABSENT, "missing_field"),
    ("paid_at_ms", True, "wrong_type"),
    ("paid_at_ms", 1522540831000.5, "wrong_type"),
    ("paid_at_ms", "2018-04-01T00:00:31Z", "wrong_type"),
    ("paid_at_ms", "soon", "wrong_type"),
    ("paid_at_ms", math.nan, "non_finite"),
    ("paid_at_ms", -1, "out_of_range"),
    ("paid_at_ms", 1522540831000000, "out_of_range"),
    ("paid_at_ms", 2**63, "out_of_range"),
    ("paid_at_ms", 2**80, "out_of_range"),
    ("paid_at_ms", 1e300, "out_of_range"),
    ("paid_at_ms", NOW_MS + 300_001, "future"),
    ("paid_at_ms", NOW_MS * 10, "future"),
]


def changed(record: dict[str, Any], field: str, value: object) -> dict[str, Any]:
    made = record | {field: value}
    if value is ABSENT:
        del made[field]
    return made


@pytest.mark.parametrize(("field", "value", "code"), BAD_BY_SHIPPED_MAPPING)
def test_a_bad_payment_is_refused_with_its_code_and_its_field(field: str, value: object, code: str) -> None:
    document = changed(PAYMENT, field, value)
    cleaner = cleaner_with()
    with pytest.raises(RecordError) as raised:
        cleaner.clean(document, NOW_MS)
    assert raised.value.code == code
    assert field in raised.value.message
    assert isinstance(raised.value, FieldError) and raised.value.field == field
    assert [fault.code for fault in cleaner.faults(document, NOW_MS)] == [code]


BAD_BY_RULE = [
    ({"cast": "integer"}, 1.5, "wrong_type"),
    ({"cast": "integer"}, True, "wrong_type"),
    ({"cast": "integer"}, "1.0", "wrong_type"),
    ({"cast": "integer"}, "1e3", "wrong_type"),
    ({"cast": "integer"}, "12abc", "wrong_type"),
    ({"cast": "integer"}, " 7", "wrong_type"),
    ({"cast": "integer"}, math.nan, "non_finite"),
    ({"cast": "integer"}, "nan", "non_finite"),
    ({"cast": "integer"}, 2**63, "out_of_range"),
    ({"cast": "integer"}, -(2**63), "out_of_range"),
    ({"cast": "integer"}, 1e19, "out_of_range"),
    ({"cast": "integer"}, "99999999999999999999", "out_of_range"),
    ({"cast": "integer", "min": 0.5, "max": 9.9}, 0, "out_of_range"),
    ({"cast": "integer", "min": 0.5, "max": 9.9}, 10, "out_of_range"),
    ({"cast": "integer", "multiply": 0.1}, 15, "wrong_type"),
    ({"cast": "boolean"}, 2, "wrong_type"),
    ({"cast": "boolean"}, 1.0, "wrong_type"),
    ({"cast": "boolean"}, "yes", "wrong_type"),
    ({"cast": "boolean"}, "True", "wrong_type"),
    ({"cast": "boolean"}, [], "wrong_type"),
    ({"cast": "string"}, 1.5, "wrong_type"),
    ({"cast": "string"}, True, "wrong_type"),
    ({"cast": "string"}, {}, "wrong_type"),
    ({"cast": "number"}, "12 EUR", "wrong_type"),
    ({"cast": "number", "multiply": 1e10}, 1e10, "out_of_range"),
    ({"cast": "number", "multiply": 1e308}, 1e10, "non_finite"),
    ({"cast": "number", "min": 1}, 0.5, "out_of_range"),
    ({"cast": "timestamp", "unit": "s"}, 1e300, "out_of_range"),
    ({"cast": "timestamp", "unit": "s"}, "tomorrow", "wrong_type"),
    ({"cast": "timestamp", "unit": "s"}, math.inf, "non_finite"),
    ({"cast": "timestamp", "unit": "s"}, True, "wrong_type"),
    ({"cast": "timestamp", "unit": "iso8601"}, "2018-04-01T00:00:31", "wrong_type"),
    ({"cast": "timestamp", "unit": "iso8601"}, "2018-04-01", "wrong_type"),
    ({"cast": "timestamp", "unit": "iso8601"}, "2018-13-01T00:00:00Z", "wrong_type"),
    ({"cast": "timestamp", "unit": "iso8601"}, "1969-12-31T23:59:59Z", "out_of_range"),
    ({"cast": "timestamp", "unit": "iso8601"}, 1522540831000, "wrong_type"),
    ({}, math.nan, "non_finite"),
    ({}, {"deep": [1, math.inf]}, "non_finite"),
    ({}, [{"a": 2**64}], "out_of_range"),
    ({}, [1e20], "out_of_range"),
]


@pytest.mark.parametrize(("rule", "value", "code"), BAD_BY_RULE)
def test_a_value_that_a_rule_cannot_take_without_loss_is_refused(
    rule: dict[str, Any], value: object, code: str
) -> None:
    with pytest.raises(RecordError) as raised:
        cleaner_with(x={"from": "their_x", **rule}).clean(PAYMENT | {"their_x": value}, NOW_MS)
    assert raised.value.code == code
    assert "their_x" in raised.value.message and raised.value.message.startswith("x ")


def test_nesting_too_deep_to_write_again_is_refused_without_recursion() -> None:
    value: object = 1
    for _ in range(5_000):
        value = [value]
    with pytest.raises(RecordError) as raised:
        cleaner_with(x={}).clean(PAYMENT | {"x": value}, NOW_MS)
    assert raised.value.code == "wrong_type"


GOOD_BY_RULE = [
    ({"cast": "string"}, 42, "42"),
    ({"cast": "string"}, " a ", " a "),
    ({"cast": "string", "trim": True}, " a ", "a"),
    ({"cast": "string"}, "", ""),
    ({"cast": "integer"}, 3.0, 3),
    ({"cast": "integer"}, "-0012", -12),
    ({"cast": "integer", "trim": True}, " 7\n", 7),
    ({"cast": "integer", "multiply": 0.1}, 20, 2),
    ({"cast": "integer"}, 2**63 - 1, 2**63 - 1),
    ({"cast": "integer", "min": 0.5, "max": 9.9, "out_of_range": "clamp"}, -3, 1),
    ({"cast": "integer", "min": 0.5, "max": 9.9, "out_of_range": "clamp"}, 30, 9),
    ({"cast": "number"}, 5, 5.0),
    ({"cast": "number"}, "5.", 5.0),
    ({"cast": "number"}, "-.5e1", -5.0),
    ({"cast": "number"}, 2**53 - 1, float(2**53 - 1)),
    ({"cast": "number", "multiply": 0.01}, 57, 0.57),
    ({"cast": "number", "multiply": 0.01}, "1999", 19.99),
    ({"cast": "number", "multiply": 1.5}, 2, 3.0),
    ({"cast": "number", "min": 0, "max": 1, "out_of_range": "clamp"}, 1e9, 1.0),
    ({"cast": "number", "min": 0, "max": 1, "out_of_range": "clamp"}, -1e9, 0.0),
    ({"cast": "number", "multiply": 0.01, "max": 1, "out_of_range": "clamp"}, 250, 1.0),
    ({"cast": "boolean"}, "false", False),
    ({"cast": "boolean"}, 1, True),
    ({"cast": "timestamp", "unit": "s"}, 1522540831, 1522540831000),
    ({"cast": "timestamp", "unit": "s"}, 1522540831.1234567, 1522540831123),
    ({"cast": "timestamp", "unit": "s"}, "1522540831.5", 1522540831500),
    ({"cast": "timestamp"}, "1522540831000", 1522540831000),
    ({"cast": "timestamp"}, 1522540831000.0, 1522540831000),
    ({"cast": "timestamp"}, NOW_MS + DAY_MS, NOW_MS + DAY_MS),
    ({"cast": "timestamp", "unit": "iso8601"}, "2018-04-01T00:00:31Z", 1522540831000),
    ({"cast": "timestamp", "unit": "iso8601"}, "2018-04-01T02:00:31.0019+02:00", 1522540831001),
    ({}, {"a": [1, "x", None, True]}, {"a": [1, "x", None, True]}),
    ({"default": "none"}, None, "none"),
    ({"cast": "number", "multiply": 0.01, "default": 2.5}, ABSENT, 2.5),
    ({"cast": "number", "max": 1, "default": 7, "out_of_range": "clamp"}, ABSENT, 1.0),
    ({"cast": "boolean", "default": False}, ABSENT, False),
]


@pytest.mark.parametrize(("rule", "value", "canonical"), GOOD_BY_RULE)
def test_a_value_that_fits_its_rule_becomes_its_canonical_form(
    rule: dict[str, Any], value: object, canonical: object
) -> None:
    made = cleaner_with(x=rule).clean(changed(PAYMENT, "x", value), NOW_MS)["x"]
    assert made == canonical and type(made) is type(canonical)


def test_text_is_a_number_only_where_the_pipeline_file_casts() -> None:
    with pytest.raises(RecordError) as raised:
        cleaner_with(amount={}).clean(PAYMENT | {"amount": "12.34"}, NOW_MS)
    assert raised.value.code == "wrong_type"
    assert cleaner_with(amount={}).clean(PAYMENT, NOW_MS)["amount"] == 12.34
    assert cleaner_with(amount={"cast": "number"}).clean(PAYMENT | {"amount": "12.34"}, NOW_MS)["amount"] == 12.34


def test_the_declared_limits_of_the_event_hold_for_every_source() -> None:
    lax = cleaner_with(amount={"cast": "number", "max": 1e9})
    with pytest.raises(RecordError) as raised:
        lax.clean(PAYMENT | {"amount": 100_001}, NOW_MS)
    assert raised.value.code == "out_of_range"
    clamping = cleaner_with(amount={"cast": "number", "max": 1e9, "out_of_range": "clamp"})
    assert clamping.clean(PAYMENT | {"amount": 100_001}, NOW_MS)["amount"] == 100_000.0


def test_the_canonical_record_starts_with_its_version_and_keeps_one_order() -> None:
    shuffled = dict(reversed(PAYMENT.items())) | {"unknown": [1], "zzz": None}
    assert list(cleaner_with().clean(shuffled, NOW_MS).items()) == [
        ("v", 1),
        ("id", "p-000000123"),
        ("event_time", 1522540831000),
        ("customer", "c-00042"),
        ("terminal", "t-00917"),
        ("amount", 12.34),
    ]
    label = cleaner_with("chargebacks", channel={"default": "web"}).clean(CHARGEBACK, NOW_MS)
    assert list(label) == ["v", "id", "event_time", "known_at", "customer", "terminal", "channel", "fraud"]


@pytest.mark.parametrize(("said", "kept"), [(True, 1), ("false", 0), (1, 1)])
def test_a_truth_cast_from_a_boolean_is_written_as_a_digit(said: object, kept: int) -> None:
    record = cleaner_with("chargebacks", fraud={"cast": "boolean"}).clean(CHARGEBACK | {"fraud": said}, NOW_MS)
    assert record["fraud"] == kept and type(record["fraud"]) is int


def test_a_label_known_in_the_future_is_refused() -> None:
    with pytest.raises(RecordError) as raised:
        cleaner_with("chargebacks").clean(CHARGEBACK | {"known_at_ms": NOW_MS + DAY_MS}, NOW_MS)
    assert (raised.value.code, "known_at" in raised.value.message) == ("future", True)


def test_a_timestamp_exactly_at_the_limit_of_the_future_is_accepted() -> None:
    cleaner_with().clean(PAYMENT | {"paid_at_ms": NOW_MS + 300_000}, NOW_MS)


def test_every_fault_of_a_record_is_named() -> None:
    faults = cleaner_with().faults({"payment_id": "", "paid_at_ms": "x", "terminal": 1.5, "amount": -1}, NOW_MS)
    assert [(fault.field, fault.code) for fault in faults] == [
        ("payment_id", "missing_id"),
        ("paid_at_ms", "wrong_type"),
        ("card", "missing_field"),
        ("terminal", "wrong_type"),
        ("amount", "out_of_range"),
    ]


def test_a_message_never_carries_a_long_value() -> None:
    with pytest.raises(RecordError) as raised:
        cleaner_with().clean(PAYMENT | {"amount": "9" * 10_000 + "x"}, NOW_MS)
    assert len(raised.value.message) < 200


def test_an_optional_field_may_be_absent_but_an_entity_never() -> None:
    cleaner = compile_cleaner(fraud_pipeline(), source_with("card-payments", channel={}), {"channel", "customer"})
    assert "channel" not in cleaner.clean(PAYMENT, NOW_MS)
    with pytest.raises(RecordError):
        cleaner.clean(changed(PAYMENT, "card", ABSENT), NOW_MS)


MISTAKES = [
    ({"v": {}}, "v is written by ingest itself"),
    ({"id": {"cast": "integer"}}, "ids and entities are strings"),
    ({"event_time": {"cast": "string"}}, "event_time is a timestamp"),
    ({"amount": {"cast": "string"}}, "event.numbers"),
    ({"x": {"min": 1}}, "need a cast"),
    ({"x": {"cast": "string", "max": 3}}, "max cannot be used with cast string"),
    ({"x": {"cast": "integer", "unit": "s"}}, "unit cannot be used"),
    ({"x": {"cast": "number", "min": 2, "max": 1}}, "leave no value"),
    ({"x": {"cast": "integer", "min": 0.2, "max": 0.8}}, "leave no value"),
    ({"x": {"cast": "number", "multiply": 0}}, "multiply 0"),
    ({"x": {"cast": "number", "max": 1, "default": 5}}, "default"),
    ({"x": {"cast": "boolean", "default": "maybe"}}, "default"),
]


@pytest.mark.parametrize(("fields", "said"), MISTAKES)
def test_a_mapping_that_cannot_work_is_refused_before_any_record(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match="source card-payments of pipeline fraud") as raised:
        cleaner_with(**fields)
    assert said in raised.value.message and raised.value.hint


def test_all_mistakes_of_a_mapping_are_listed_at_once() -> None:
    pipeline = fraud_pipeline()
    source = source_with("chargebacks", x={"min": 1})
    fields = {name: field for name, field in source.fields.items() if name not in ("id", "fraud")}
    with pytest.raises(ConfigurationError) as raised:
        compile_cleaner(pipeline, source.model_copy(update={"fields": fields}))
    assert all(part in raised.value.message for part in ("fraud is missing", "id is missing", "x: min"))
