"""Every answer that a broker can give has the reaction of support/errorcells.py, on librdkafka's mock cluster."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from confluent_kafka import Consumer

from support.brokers import Owner, join
from support.errorcells import COMMITTING, JOINING, READING, STARTING, Cell, Reaction
from support.mockcluster import MockCluster
from support.polling import eventually
from tidemill.errors import Fenced, StateCorrupt, TidemillError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka import KafkaClient, KafkaIdentity, PlainProducer
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.settings import reading_settings, writing_settings
from tidemill.runtime.ports import AbortedError, ProducerLostError
from tidemill.runtime.service import OutRecord

SOURCE, OUT = "source", "out"
MEMBER_OPTIONS = {"session.timeout.ms": "1500", "max.poll.interval.ms": "1500", "heartbeat.interval.ms": "100"}
RAISES: dict[Reaction, type[Exception]] = {
    Reaction.ABORTS: AbortedError,
    Reaction.LOSES_PRODUCER: ProducerLostError,
    Reaction.ENDS: TidemillError,
    Reaction.ENDS_FENCED: Fenced,
    Reaction.ENDS_CORRUPT: StateCorrupt,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[MockCluster]:
    with MockCluster() as cluster:
        cluster.create_topic(SOURCE)
        cluster.create_topic(OUT)
        yield cluster


@pytest.fixture(scope="module")
def membership(cluster: MockCluster) -> Iterator[Any]:
    consumer = Consumer({**reading_settings(cluster.bootstrap_servers, {}), "group.id": "readers"})
    yield consumer.consumer_group_metadata()
    consumer.close()


@pytest.fixture(autouse=True)
def no_error_is_left_over(cluster: MockCluster) -> Iterator[None]:
    yield
    cluster.clear()


class Producing:
    """The runtime's producer, and what it did."""

    def __init__(self, cluster: MockCluster, membership: Any, name: str) -> None:
        self.producer = TransactionalProducer(writing_settings(cluster.bootstrap_servers, {}), name)
        self.went_on = False
        self._membership = membership

    def transact(self, *, then: Callable[[], None] = lambda: None) -> None:
        """A whole transaction; `then` runs once it is open."""
        self.producer.begin()
        then()
        self.producer.produce([OutRecord(OUT, b"k", b"v", 1_000, 0)])
        self.producer.send_offsets({(SOURCE, 0): 1}, self._membership, soon())
        self.producer.commit(soon())

    def recover(self, error: AbortedError | ProducerLostError) -> None:
        """As the loop does."""
        if isinstance(error, AbortedError):
            self.producer.abort()
        else:
            self.producer.recycle()

    @property
    def handle(self) -> object:
        return self.producer._producer


@pytest.fixture
def starting(cluster: MockCluster, membership: Any, unique: str) -> Iterator[Producing]:
    made = Producing(cluster, membership, unique)
    yield made
    made.producer.close()


@pytest.fixture(scope="module")
def started(cluster: MockCluster, membership: Any) -> Iterator[Producing]:
    made = Producing(cluster, membership, "shared")
    made.producer.start()
    yield made
    made.producer.close()


@pytest.fixture
def producing(cluster: MockCluster, started: Producing) -> Iterator[Producing]:
    """To start one takes longer than a transaction: it is shared, and each test ends with a committed transaction."""
    started.went_on = False
    yield started
    if not started.went_on:
        cluster.clear()
        started.producer.recycle()


class Reading:
    """A member of a group of its own on a topic of its own; its producer plays no part."""

    def __init__(self, cluster: MockCluster, name: str, writer: PlainProducer) -> None:
        self.topic = name
        cluster.create_topic(name)
        self.client = KafkaClient(KafkaIdentity(cluster.bootstrap_servers, name, 0, "classic", MEMBER_OPTIONS))
        self._owner: Owner | None = None
        self._writer = writer
        self._values: list[bytes | None] = []

    @property
    def told(self) -> list[str]:
        return [what for what, _ in self._owner.told] if self._owner else []

    def write(self, value: bytes) -> None:
        self._writer.send(OutRecord(self.topic, b"k", value, 1_000, 0))
        self._writer.flush()

    def join(self) -> None:
        self._owner = join(self.client, self.topic)
        eventually(lambda: self.poll() or self.client.owned(), every_s=0.0)

    def take_over(self) -> None:
        """Join, and ask what a restore asks."""
        self.join()
        self.client.watermarks([(self.topic, 0)])

    def poll(self) -> None:
        self._values += [record.value for record in self.client.poll(100, 0.02).records]

    def values(self, count: int) -> list[bytes | None]:
        """The next so many values that were polled."""
        eventually(lambda: self.poll() or len(self._values) >= count, every_s=0.0)
        taken, self._values = self._values, []
        return taken


@pytest.fixture(scope="module")
def writer(cluster: MockCluster) -> Iterator[PlainProducer]:
    made = PlainProducer(cluster.bootstrap_servers)
    yield made
    made.close()


@pytest.fixture
def reading(
    cluster: MockCluster, writer: PlainProducer, unique: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Reading]:
    monkeypatch.setattr(TransactionalProducer, "start", lambda _: None)
    made = Reading(cluster, unique, writer)
    yield made
    cluster.clear()
    with suppress(TidemillError):  # what ended it is told once more
        made.client.close()


def soon() -> Deadline:
    return Deadline(20.0)


def cells(table: list[Cell]) -> Any:
    return pytest.mark.parametrize("cell", table, ids=lambda cell: cell.id)


def repeated(cluster: MockCluster, cell: Cell) -> bool:
    """The request that failed was made again: so it did fail."""
    return cluster.asked(cell.request) >= 2


@cells(STARTING)
def test_an_answer_to_a_producer_that_starts(cluster: MockCluster, starting: Producing, cell: Cell) -> None:
    cluster.fail_next(cell.request, cell.code)
    if cell.reaction is Reaction.GOES_ON:
        starting.producer.start()
        assert repeated(cluster, cell)
        starting.transact()
    else:
        with pytest.raises(RAISES[cell.reaction]) as ended:
            starting.producer.start()
        names_cause_and_next_step(ended.value, cell)


@cells(COMMITTING)
def test_an_answer_in_a_transaction(cluster: MockCluster, producing: Producing, cell: Cell) -> None:
    before = producing.handle
    fail = partial(cluster.fail_next, cell.request, cell.code)
    if cell.reaction in (Reaction.GOES_ON, Reaction.IS_DONE):
        producing.transact(then=fail)
        if cell.reaction is Reaction.IS_DONE:
            return  # The mock cluster has not written what it says it has: it does not count on from there.
        assert repeated(cluster, cell)
        producing.transact()
        assert producing.handle is before, "nothing speaks against the producer or its epoch"
    else:
        with pytest.raises(RAISES[cell.reaction]) as failed:
            producing.transact(then=fail)
        cluster.clear()
        producing.recover(failed.value)
        producing.transact()
        assert producing.handle is not before, "the next transaction has a new epoch"
    producing.went_on = True


@cells(JOINING)
def test_an_answer_to_a_member_that_joins(cluster: MockCluster, reading: Reading, cell: Cell) -> None:
    reading.write(b"a")
    cluster.fail_next(cell.request, cell.code)
    if cell.reaction is Reaction.GOES_ON:
        reading.take_over()
        assert reading.values(1) == [b"a"]
        assert repeated(cluster, cell)
    else:
        with pytest.raises(RAISES[cell.reaction]) as ended:
            reading.take_over()
        names_cause_and_next_step(ended.value, cell)


@cells(READING)
def test_an_answer_to_a_member_that_reads(cluster: MockCluster, reading: Reading, cell: Cell) -> None:
    reading.write(b"a")
    reading.join()
    assert reading.values(1) == [b"a"]
    cluster.fail_next(cell.request, cell.code)
    if cell.reaction in (Reaction.ENDS, Reaction.ENDS_FENCED, Reaction.ENDS_CORRUPT):
        with pytest.raises(RAISES[cell.reaction]) as ended:
            eventually(reading.poll, every_s=0.0)
        names_cause_and_next_step(ended.value, cell)
        return
    told = {Reaction.GOES_ON: [], Reaction.REBALANCES: ["revoked"], Reaction.LOSES_PARTITIONS: ["lost"]}[cell.reaction]
    eventually(lambda: reading.poll() or repeated(cluster, cell), every_s=0.0)
    eventually(lambda: reading.poll() or len(reading.told) >= len(["assigned", *told]), every_s=0.0)
    reading.write(b"b")
    # Nothing was committed, so a member that joins again reads from the beginning.
    expected = [b"b"] if cell.reaction is Reaction.GOES_ON else [b"a", b"b"]
    assert reading.values(len(expected)) == expected
    assert reading.told == ["assigned", *(again for event in told for again in (event, "assigned"))]


def names_cause_and_next_step(error: Exception, cell: Cell) -> None:
    assert isinstance(error, TidemillError)
    assert error.hint
    assert "AUTHORIZATION" not in cell.error or "kafka-acls" in error.hint
    if cell.reaction is Reaction.ENDS:
        assert cell.error in error.message
    else:
        assert type(error) is RAISES[cell.reaction]
