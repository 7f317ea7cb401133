"""One face for the brokers that the behavioural suite runs on: the real one and the one in memory."""

from collections.abc import Callable, Collection, Mapping
from typing import Literal, Protocol

from support.polling import eventually
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka import Admin, KafkaClient, KafkaIdentity, PlainProducer, TopicReader
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.ports import LogClient, Partition
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.topics import TopicDefinition


class BrokerUnderTest(Protocol):
    """What a test does to a broker from outside."""

    def create_topic(self, name: str, partitions: int, *, compacted: bool = False) -> None: ...

    def client(self, group: str, instance: int = 0) -> LogClient: ...

    def append(self, *records: OutRecord) -> None: ...

    def read(self, topic: str, *, committed: bool = True) -> list[Record]: ...


class MemoryUnderTest:
    def __init__(self) -> None:
        self.broker = MemoryBroker()

    def create_topic(self, name: str, partitions: int, *, compacted: bool = False) -> None:
        self.broker.create_topic(name, partitions)

    def client(self, group: str, instance: int = 0) -> LogClient:
        return self.broker.client(group, instance)

    def append(self, *records: OutRecord) -> None:
        for record in records:
            self.broker.append(record)

    def read(self, topic: str, *, committed: bool = True) -> list[Record]:
        return self.broker.read(topic, committed=committed)


class KafkaUnderTest:
    def __init__(self, bootstrap_servers: str, protocol: str = "classic") -> None:
        self.bootstrap_servers = bootstrap_servers
        self._protocol = protocol
        self.options: dict[str, str] = {}

    def create_topic(self, name: str, partitions: int, *, compacted: bool = False) -> None:
        # Records are dated in the past: the broker would delete them within minutes.
        configs = {"retention.ms": "-1"} | ({"cleanup.policy": "compact"} if compacted else {})
        Admin(self.bootstrap_servers).create_topics([TopicDefinition(name, partitions, 1, configs, "test", "test")])

    def client(self, group: str, instance: int = 0) -> LogClient:
        return KafkaClient(KafkaIdentity(self.bootstrap_servers, group, instance, self._protocol, self.options))

    def append(self, *records: OutRecord) -> None:
        producer = PlainProducer(self.bootstrap_servers)
        for record in records:
            producer.send(record)
        producer.flush()

    def read(self, topic: str, *, committed: bool = True) -> list[Record]:
        return read_all(self.bootstrap_servers, topic, committed=committed)


def read_all(bootstrap_servers: str, topic: str, *, committed: bool = True) -> list[Record]:
    """Everything in a topic up to its end, partition by partition."""
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed" if committed else "read_uncommitted"
    reader = TopicReader(bootstrap_servers, [topic], isolation=isolation)
    records: list[Record] = []

    def at_end() -> bool:
        records.extend(reader.poll(1_000, 0.1))
        return reader.at_end()

    try:
        eventually(at_end, every_s=0.0)
    finally:
        reader.close()
    return sorted(records, key=lambda record: (record.partition, record.offset))


class Owner:
    """A listener that starts partitions at their committed offsets and remembers what it was told."""

    def __init__(self, client: LogClient) -> None:
        self._client = client
        self.told: list[tuple[str, list[Partition]]] = []
        self.before_giving_up: Callable[[], None] = lambda: None

    def assigned(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        self.told.append(("assigned", sorted(partitions)))
        return {at: offset or 0 for at, offset in self._client.committed(partitions).items()}

    def revoked(self, partitions: Collection[Partition]) -> None:
        self.before_giving_up()
        self.told.append(("revoked", sorted(partitions)))

    def lost(self, partitions: Collection[Partition]) -> None:
        self.told.append(("lost", sorted(partitions)))


def join(client: LogClient, *topics: str) -> Owner:
    """Start and poll until partitions are assigned."""
    owner = Owner(client)
    client.start(topics, owner)
    return owner


def take(client: LogClient, count: int) -> list[Record]:
    """Poll until `count` records have come."""
    records: list[Record] = []

    def enough() -> bool:
        records.extend(client.poll(1_000, 0.05).records)
        return len(records) >= count

    eventually(enough, every_s=0.0)
    return records


def commit(client: LogClient, outputs: list[OutRecord], offsets: Mapping[Partition, int]) -> None:
    """A whole transaction."""
    client.begin()
    client.produce(outputs)
    client.send_offsets(offsets, soon())
    client.commit(soon())


def visible(broker: BrokerUnderTest, topic: str, count: int) -> list[bytes | None]:
    """Values of a topic once `count` are visible. A commit is definite before its markers are in every partition, so
    that a reader may see it a moment later."""

    def enough() -> list[Record]:
        records = broker.read(topic)
        return records if len(records) >= count else []

    return [record.value for record in eventually(enough)]


def soon() -> Deadline:
    return Deadline(20.0)
