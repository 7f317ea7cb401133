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
    at = [record.offset for record in read(reader, 30)]
    before = [-1, *at]
    for number in (0, 1, 2, 3, 14, 15, 28, 29):
        for moment in (START + 1_000 * number, START + 1_000 * number - 999):
            found = reader.offsets_for_time(moment)[log.topic, 0]
            assert before[number] < found <= at[number], "a marker may stand before the record, another record not"
    beyond = reader.offsets_for_time(START + 30_000)[log.topic, 0]
    assert at[-1] < beyond <= reader.end_offsets()[log.topic, 0], "markers are newer, but they are no records"
    assert [record.value for record in read(reader, 30)][:2] == [b"0", b"1"], "afterwards it begins again"


def test_an_end_that_was_seen_before_more_was_written_is_no_end(log: Log) -> None:
    reader = log.reader(**{"fetch.min.bytes": "1000000", "fetch.wait.max.ms": "1000"})
    log.write(1)
    read(reader, 3)
    eventually(lambda: reader.poll() or reader.at_end())
    log.write(1)
    ends = reader.end_offsets()
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


def test_watermarks_of_topics_that_were_made_this_moment_are_waited_for(kafka: str, unique: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka})
    names = [f"{unique}-{number}" for number in range(10)]
    for made in admin.create_topics([NewTopic(name, 4, 1) for name in names]).values():
        made.result(30)
    fresh = TopicReader(kafka, names)
    assert set(fresh.watermarks().values()) == {(0, 0)}
    fresh.close()
