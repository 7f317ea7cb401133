"""Reading topics outside a group: ends, and offsets by stream time, among transaction markers."""

import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from support.polling import eventually
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.service import Record

pytestmark = pytest.mark.kafka

START = 1_522_540_800_000  # stream time, years before the broker's clock that markers carry


class Log:
    """One topic of one partition, written in transactions of three records, a second of stream time apart."""

    def __init__(self, servers: str, name: str) -> None:
        self.servers, self.topic, self.written = servers, name, 0
        admin = AdminClient({"bootstrap.servers": servers})  # it must live until the answer is there
        made = admin.create_topics([NewTopic(name, 1, 1)])
        made[name].result(30)
        self._producer = Producer({"bootstrap.servers": servers, "transactional.id": uuid.uuid4().hex})
        self._producer.init_transactions(30)

    def write(self, transactions: int) -> None:
        for _ in range(transactions):
            self._producer.begin_transaction()
            for _ in range(3):
                value = b"%d" % self.written
                self._producer.produce(self.topic, value, timestamp=START + 1_000 * self.written)
                self.written += 1
            self._producer.commit_transaction(30)

    def reader(self, **options: str) -> TopicReader:
        return TopicReader(self.servers, [self.topic], options=options)


@pytest.fixture
def log(kafka: str, unique: str) -> Log:
    return Log(kafka, f"{unique}-log")


@pytest.fixture
def reader(log: Log) -> Iterator[TopicReader]:
    made = log.reader()
    yield made
    made.close()


def read(reader: TopicReader, wanted: int) -> list[Record]:
    found: list[Record] = []

    def enough() -> bool:
        found.extend(reader.poll())
        return len(found) >= wanted

    eventually(enough)
    return found


def test_offsets_by_stream_time_are_those_of_the_records(log: Log, reader: TopicReader) -> None:
    log.write(10)
    at = {record.timestamp: record.offset for record in read(reader, 30)}
    partition = (log.topic, 0)
    for number in (0, 1, 2, 3, 14, 15, 28, 29):
        moment = START + 1_000 * number
        assert reader.offsets_for_time(moment) == {partition: at[moment]}
        assert reader.offsets_for_time(moment - 999)[partition] == at[moment]
    assert reader.offsets_for_time(START + 30_000) == reader.end_offsets(), "markers are newer, but they are no records"
    assert [record.value for record in read(reader, 30)][:2] == [b"0", b"1"], "afterwards it begins again"


def test_an_end_that_was_seen_before_more_was_written_is_no_end(log: Log) -> None:
    reader = log.reader(**{"fetch.min.bytes": "1000000", "fetch.wait.max.ms": "1000"})
    log.write(1)
    read(reader, 3)
    eventually(lambda: reader.poll() or reader.at_end())
    log.write(1)
    ends = reader.end_offsets()
    reader.recheck_ends()
    assert not reader.has_passed(ends)
    found: list[Record] = []

    def passed() -> bool:
        found.extend(reader.poll())
        return reader.has_passed(ends)

    eventually(passed)
    assert [record.value for record in found] == [b"3", b"4", b"5"]
    reader.close()


def test_a_reader_passes_an_end_behind_which_the_stream_flows_on(log: Log, reader: TopicReader) -> None:
    log.write(2)
    ends = reader.end_offsets()
    log.write(2)
    assert not reader.has_passed(ends)
    read(reader, 12)
    assert reader.has_passed(ends)
