"""librdkafka messages into records."""

from collections.abc import Callable, Sequence
from functools import partial

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka._types import HeadersType

from tidemill.runtime.ports import Partition, Polled
from tidemill.runtime.service import Record

_CALLBACK_ROUNDS = 50
_CALLBACK_RECORDS = 10_000
_QUIET = 2
"""Empty takes that show a quiet queue: the first may have ended with a callback."""


def drain(consumer: Consumer, max_records: int, timeout_s: float, moved: set[Partition] | None = None) -> list[Message]:
    """Wait for one message, then take what is there: waiting for many costs the whole timeout.

    Where rebalance callbacks note in `moved` what they move, a first message that stood before such a callback is let
    go: its partition is read anew from an earlier record, which the message would make look like a repetition.
    """
    first = consumer.poll(timeout_s)
    if first is None:
        return []
    if max_records == 1:
        return [first]
    if moved:
        moved.clear()
    messages = consumer.consume(max_records - 1, 0)
    if moved and (first.topic(), first.partition()) in moved:
        return messages
    return [first, *messages]


def serve_callbacks(consumer: Consumer) -> None:
    """Run the rebalance callbacks that wait, without blocking. Records that come meanwhile are let go."""
    empty = 0
    for _ in range(_CALLBACK_ROUNDS):
        try:
            empty = 0 if consumer.consume(_CALLBACK_RECORDS, 0) else empty + 1
        except KafkaException:
            return  # A fenced or failed member: nothing will come to it any more.
        if empty == _QUIET:
            return


def sort_out(messages: Sequence[Message], on_error: Callable[[KafkaError, Message], None]) -> Polled:
    """Records in order, partition ends that no record followed, and everything else to `on_error`."""
    polled = Polled()
    ends = polled.ends
    append, record = polled.records.append, partial(tuple.__new__, Record)
    for message in messages:
        error = message.error()
        if error is None:
            headers = message.headers()
            append(
                record(
                    (
                        message.topic(),
                        message.partition(),
                        message.offset(),
                        message.timestamp()[1],
                        message.key(),
                        message.value(),
                        _pairs(headers) if headers else (),
                    )
                )
            )
            if ends:
                ends.pop((polled.records[-1].topic, polled.records[-1].partition), None)
        elif error.code() == KafkaError._PARTITION_EOF:
            ends[message.topic() or "", message.partition() or 0] = message.offset() or 0
        else:
            on_error(error, message)
    return polled


def _pairs(headers: HeadersType) -> tuple[tuple[str, bytes], ...]:
    pairs = headers.items() if isinstance(headers, dict) else headers
    return tuple((name, value.encode() if isinstance(value, str) else value or b"") for name, value in pairs)


def harmless(error: KafkaError) -> bool:
    """librdkafka repairs these by itself: a broker went away, a leader moved, a request will be repeated."""
    return error.retriable() or error.code() in _PASSING


_PASSING = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._TIMED_OUT,
        KafkaError._RESOLVE,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.REBALANCE_IN_PROGRESS,
    }
)
