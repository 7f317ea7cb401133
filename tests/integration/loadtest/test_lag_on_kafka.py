"""What a group has left on a real broker: markers are no records, and a record that has to wait is not behind."""

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from enduring.lag import Reading, by_offsets, by_records
from tidemill.runtime.inputs import InputTopic

pytestmark = pytest.mark.kafka


def write(servers: str, name: str, topic: str, timestamps: list[int], *, commit: bool = True) -> None:
    """One transaction, all in partition 0."""
    producer = Producer({"bootstrap.servers": servers, "transactional.id": f"{name}-{topic}"})
    producer.init_transactions(30)
    producer.begin_transaction()
    for timestamp in timestamps:
        producer.produce(topic, b"value", partition=0, timestamp=timestamp)
    if commit:
        producer.commit_transaction(30)
    else:
        producer.flush(30)
        producer.abort_transaction(30)


def commit(servers: str, group: str, topic: str, offset: int) -> None:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic, 0, offset)], asynchronous=False)
    consumer.close()


def test_what_is_left_is_counted_in_records_that_may_not_wait(kafka: str, unique: str) -> None:
    now, later = f"{unique}-now", f"{unique}-later"
    admin = AdminClient({"bootstrap.servers": kafka})
    for made in admin.create_topics([NewTopic(now, 2, 1), NewTopic(later, 2, 1)]).values():
        made.result(30)
    reading = Reading("service", f"{unique}-group", (InputTopic(now), InputTopic(later, 1_000)))
    assert (by_offsets(kafka, reading), by_records(kafka, reading)) == (0, 0)

    write(kafka, unique, now, [5_000, 5_100])
    write(kafka, unique, later, [4_000, 4_050, 4_500])
    assert by_offsets(kafka, reading) == 3  # two records and a marker
    assert by_records(kafka, reading) == 4  # and two whose time has come

    commit(kafka, reading.group, now, 2)
    commit(kafka, reading.group, later, 2)
    assert by_offsets(kafka, reading) == 1
    assert by_records(kafka, reading) == 0

    write(kafka, unique, now, [9_000], commit=False)
    assert by_offsets(kafka, reading) >= 2
    assert by_records(kafka, reading) == 0
