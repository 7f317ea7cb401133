"""Sources of second streams: cleaned by the stream's own declaration into a topic of the stream's own."""

import orjson
import pytest

from support.joinedpipeline import JOINED_FRAUD, NOON, limit, login
from tidemill.errors import ConfigurationError, RecordError
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.process import service_spec
from tidemill.ingest.sources import open_intakes

CHANGE = {"v": 1, "change": "l1", "at": NOON // 1_000, "card": " c1 ", "limit": "1000.50", "reason": "asked"}
LOGIN = {"v": 1, "id": "9", "at_ms": NOON, "customer": "c1", "terminal": "t1"}
INTAKES = open_intakes(JOINED_FRAUD)


def test_a_record_is_cleaned_named_and_keyed_by_the_primary_entity() -> None:
    taken = INTAKES.by_topic["fraud-raw-limits"].take(orjson.dumps(CHANGE), NOON)
    assert taken == Accepted("fraud-stream-limits", b"c1", limit("l1", NOON, 1_000.5).value or b"", NOON)
    taken = INTAKES.by_name["logins"].take(orjson.dumps(LOGIN), NOON)
    assert taken == Accepted("fraud-stream-logins", b"c1", login("9", NOON).value or b"", NOON)


@pytest.mark.parametrize(
    ("change", "code", "field"),
    [
        ({"limit": 100_000.01}, "out_of_range", "limit"),
        ({"limit": -1}, "out_of_range", "limit"),
        ({"limit": None}, "missing_field", "limit"),
        ({"card": None}, "missing_field", "card"),
        ({"change": None}, "missing_id", "change"),
        ({"at": NOON // 1_000 + 3_600}, "future", "at"),
        ({"change": "x" * 201}, "schema", "$.id"),
    ],
)
def test_what_the_stream_does_not_allow_is_refused_and_its_field_named(
    change: dict[str, object], code: str, field: str
) -> None:
    with pytest.raises(RecordError) as refused:
        INTAKES.by_topic["fraud-raw-limits"].take(orjson.dumps(CHANGE | change), NOON)
    assert (refused.value.code, field in refused.value.message) == (code, True)


def test_numbers_have_the_bounds_of_their_stream_and_not_of_the_event() -> None:
    amount = JOINED_FRAUD.event.numbers["amount"]
    event = JOINED_FRAUD.event.model_copy(update={"numbers": {"limit": amount.model_copy(update={"max": 1.0})}})
    limits = JOINED_FRAUD.ingest.sources[2]
    ingest = JOINED_FRAUD.ingest.model_copy(update={"sources": (limits,)})
    pipeline = JOINED_FRAUD.model_copy(update={"event": event, "ingest": ingest})
    assert orjson.loads(open_intakes(pipeline).by_name["card-limits"].take(orjson.dumps(CHANGE), NOON).value)


def test_the_loop_reads_the_topics_of_all_sources() -> None:
    spec = service_spec(JOINED_FRAUD, INTAKES)
    raw = ["payments", "chargebacks", "limits", "logins"]
    assert [topic.name for topic in spec.inputs] == [f"fraud-raw-{name}" for name in raw]


def test_a_source_that_lacks_a_declared_number_cannot_be_opened() -> None:
    limits = JOINED_FRAUD.ingest.sources[2]
    fields = {name: field for name, field in limits.fields.items() if name != "limit"}
    ingest = JOINED_FRAUD.ingest.model_copy(update={"sources": (limits.model_copy(update={"fields": fields}),)})
    with pytest.raises(ConfigurationError, match="limit is missing: every stream has one"):
        open_intakes(JOINED_FRAUD.model_copy(update={"ingest": ingest}))
