"""A dead letter keeps the original bytes and tells its story in Kafka Connect's headers."""

from hypothesis import given
from hypothesis import strategies as st

from tidemill.runtime.dlq import to_letter, to_record
from tidemill.runtime.service import DeadLetter, OutRecord, Record

originals = st.builds(
    Record,
    st.sampled_from(["fraud-events", "fraud-raw-payments"]),
    st.integers(0, 7),
    st.integers(0, 2**40),
    st.integers(0, 2**42),
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=200),
    st.lists(st.tuples(st.sampled_from(["trace", "x"]), st.binary(max_size=8)), max_size=3).map(tuple),
)


def read_back(record: OutRecord) -> Record:
    return Record("fraud-dlq", 0, 0, record.timestamp, record.key, record.value, record.headers)


@given(originals, st.text(max_size=50))
def test_a_letter_comes_back_as_it_was_sent(original: Record, message: str) -> None:
    message = message.encode("utf-8", "ignore").decode()
    dead = DeadLetter(original, "not_json", message)
    assert to_letter(read_back(to_record(dead, "fraud-dlq", "ingest"))) == (dead, "ingest")


def test_headers_are_named_as_connects() -> None:
    dead = DeadLetter(Record("t", 3, 17, 5, b"k", b"v"), "out_of_range", "amount is negative")
    record = to_record(dead, "fraud-dlq", "ingest")
    assert dict(record.headers) == {
        "__connect.errors.topic": b"t",
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"17",
        "__connect.errors.stage": b"ingest",
        "__connect.errors.exception.class.name": b"tidemill.out_of_range",
        "__connect.errors.exception.message": b"amount is negative",
        "tidemill.code": b"out_of_range",
        "tidemill.service": b"ingest",
    }
    assert (record.key, record.value, record.timestamp) == (b"k", b"v", 5)
