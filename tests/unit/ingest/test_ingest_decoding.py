"""Bytes that are no record, and the code that says why."""

import orjson
import pytest

from tidemill.errors import ConfigurationError, RecordError
from tidemill.ingest.core.decoding import Decoder
from tidemill.ingest.core.intake import Intake
from tidemill.ingest.core.validation import CanonicalSchema
from unit.ingest.samples import (
    CHARGEBACK,
    EVENT_BYTES,
    EVENT_SCHEMA,
    LABEL_BYTES,
    NOW_MS,
    PAYMENT,
    fraud_pipeline,
    intake_of,
    source_with,
)

BAD_BYTES = [
    (None, "not_json"),
    (b"", "not_json"),
    (b"   ", "not_json"),
    (b"{", "not_json"),
    (b'{"v":1', "not_json"),
    (b"{'v':1}", "not_json"),
    (b'{"v":1,}', "not_json"),
    (b'{"v":1}{"v":1}', "not_json"),
    (b"\xff\xfe", "not_json"),
    (b'{"v":1,"a":"\xc3"}', "not_json"),
    (b'{"v":1,"a":"\\ud800"}', "not_json"),
    (b"\xef\xbb\xbf{}", "not_json"),
    (b"[" * 900, "not_json"),
    (b"[" * 5_000, "oversize"),
    (b'{"v":1,"a":NaN', "not_json"),
    (b'{"v":1,"a":nan}', "not_json"),
    (b'{"v":1,"a":NaN}', "non_finite"),
    (b'{"v":1,"a":Infinity}', "non_finite"),
    (b'{"v":1,"a":-Infinity}', "non_finite"),
    (b'{"v":1,"a":1e999}', "non_finite"),
    (b'{"v":1,"a":[{"b":-1e999}]}', "non_finite"),
    (b'{"v":1,"a":' + b"9" * 400 + b"}", "non_finite"),
    (b"[NaN]", "non_finite"),
    (b"[]", "not_an_object"),
    (b"null", "not_an_object"),
    (b"true", "not_an_object"),
    (b"12", "not_an_object"),
    (b'"text"', "not_an_object"),
    (b"{}", "unknown_version"),
    (b'{"v":2}', "unknown_version"),
    (b'{"v":"1"}', "unknown_version"),
    (b'{"v":true}', "unknown_version"),
    (b'{"v":1.0}', "unknown_version"),
    (b'{"v":null}', "unknown_version"),
    (b'{"v":[1]}', "unknown_version"),
    (b'{"v":1,"a":"' + b"x" * 1_024 + b'"}', "oversize"),
]


@pytest.mark.parametrize(("raw", "code"), BAD_BYTES)
def test_bytes_that_are_no_record_are_refused_with_their_code(raw: bytes | None, code: str) -> None:
    with pytest.raises(RecordError) as raised:
        Decoder(1_024, "v", (1,)).decode(raw)
    assert raised.value.code == code
    assert raised.value.message


def test_a_source_without_a_version_field_takes_any_object() -> None:
    assert Decoder(100, None, (1,)).decode(b'{"v":9}') == {"v": 9}


def test_a_record_exactly_at_the_size_limit_is_accepted() -> None:
    raw = b'{"v":1}'
    assert Decoder(len(raw), "v", (1,)).decode(raw) == {"v": 1}


def test_a_name_given_twice_is_refused_only_when_asked() -> None:
    raw = b'{"v":1,"a":{"b":1,"b":2}}'
    assert Decoder(100, "v", (1,)).decode(raw) == {"v": 1, "a": {"b": 2}}
    with pytest.raises(RecordError) as raised:
        Decoder(100, "v", (1,), refuse_duplicate_keys=True).decode(raw)
    assert (raised.value.code, "'b'" in raised.value.message) == ("duplicate_keys", True)


def test_a_payment_becomes_an_event_keyed_by_its_customer_at_its_time() -> None:
    accepted = intake_of().take(orjson.dumps(PAYMENT), NOW_MS)
    assert accepted == ("fraud-events", b"c-00042", EVENT_BYTES, 1522540831000)


def test_a_chargeback_becomes_a_label_keyed_by_its_customer_at_the_time_it_was_known() -> None:
    accepted = intake_of("chargebacks").take(orjson.dumps(CHARGEBACK), NOW_MS)
    assert accepted == ("fraud-labels", b"c-00042", LABEL_BYTES, 1522590000000)


def test_what_the_schema_forbids_is_refused_with_its_path_and_the_senders_name() -> None:
    intake = intake_of()
    document = PAYMENT | {"card": "c" * 129, "terminal": "t" * 129}
    with pytest.raises(RecordError) as raised:
        intake.take(orjson.dumps(document), NOW_MS)
    assert raised.value.code == "schema" and raised.value.message.startswith("$.customer: ")
    faults = intake.inspect(document, NOW_MS)
    assert [(fault.field, fault.code) for fault in faults] == [("card", "schema"), ("terminal", "schema")]


def test_an_unknown_version_hides_the_faults_of_fields_that_it_may_define_otherwise() -> None:
    faults = intake_of().inspect({"v": 2}, NOW_MS)
    assert [fault.code for fault in faults] == ["unknown_version"]


def test_inspecting_and_taking_agree() -> None:
    intake = intake_of()
    assert intake.inspect(PAYMENT, NOW_MS) == intake.take(orjson.dumps(PAYMENT), NOW_MS)


def test_a_schema_and_a_mapping_that_disagree_are_refused_at_start() -> None:
    schema = CanonicalSchema("fraud-event", EVENT_SCHEMA | {"required": [*EVENT_SCHEMA["required"], "channel"]})
    with pytest.raises(ConfigurationError, match=r"requires channel"):
        Intake(fraud_pipeline(), source_with("card-payments"), schema)
    with pytest.raises(ConfigurationError, match=r"knows no field colour"):
        Intake(fraud_pipeline(), source_with("card-payments", colour={}), CanonicalSchema("e", EVENT_SCHEMA))


def test_a_field_that_the_schema_does_not_require_may_be_absent() -> None:
    intake = Intake(fraud_pipeline(), source_with("card-payments", channel={}), CanonicalSchema("e", EVENT_SCHEMA))
    assert intake.take(orjson.dumps(PAYMENT), NOW_MS).value == EVENT_BYTES
    assert intake.take(orjson.dumps(PAYMENT | {"channel": "web"}), NOW_MS).value.endswith(b'"channel":"web"}')
    with pytest.raises(RecordError, match="schema"):
        intake.take(orjson.dumps(PAYMENT | {"channel": "moon"}), NOW_MS)


def test_a_broken_schema_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError, match="schema odd is not a JSON Schema"):
        CanonicalSchema("odd", {"type": "nonsense"})
