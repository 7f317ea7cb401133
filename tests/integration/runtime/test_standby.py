"""A standby's copy of a changelog: committed values only, and a restore that goes on where it ends."""

import uuid
from collections.abc import Collection, Iterator, Mapping

import pytest
from confluent_kafka import Producer

from support.brokers import KafkaUnderTest
from support.polling import eventually
from tidemill.runtime.kafka import KafkaClient, KafkaIdentity
from tidemill.runtime.kafka.changelog import read_changelog
from tidemill.runtime.kafka.settings import Settings, reading_settings
from tidemill.runtime.kafka.standby import Copy, Standby
from tidemill.runtime.ports import Partition, Watermarks

pytestmark = pytest.mark.kafka

NUMBERS = (0, 1)


class Changelog:
    def __init__(self, servers: str, topic: str) -> None:
        self.servers, self.topic = servers, topic
        KafkaUnderTest(servers).create_topic(topic, len(NUMBERS), compacted=True)
        self._producer = Producer({"bootstrap.servers": servers, "transactional.id": uuid.uuid4().hex})
        self._producer.init_transactions(30)

    @property
    def settings(self) -> Settings:
        return reading_settings(self.servers, {}) | {"group.id": self.topic, "isolation.level": "read_committed"}

    def write(self, entries: Mapping[bytes, bytes | None], partition: int = 0, *, commit: bool = True) -> None:
        self._producer.begin_transaction()
        for key, value in entries.items():
            self._producer.produce(self.topic, value, key, partition)
        self._producer.flush(30)
        (self._producer.commit_transaction if commit else self._producer.abort_transaction)(30)

    def read(self, copies: Mapping[int, Copy] | None = None) -> tuple[dict[int, dict[bytes, bytes]], int]:
        """What a restore finds, and how many offsets it had to read."""
        totals = [0]
        client = KafkaUnderTest(self.servers).client("unused")
        marks: dict[tuple[str, int], Watermarks] = dict(client.watermarks([(self.topic, number) for number in NUMBERS]))
        client.close()
        latest = read_changelog(self.settings, marks, lambda _, total: totals.append(total), lambda: True, copies)
        return latest, totals[-1]


@pytest.fixture
def changelog(kafka: str, unique: str) -> Changelog:
    return Changelog(kafka, f"{unique}-state")


@pytest.fixture
def standby(changelog: Changelog) -> Iterator[Standby]:
    made = Standby(changelog.settings, changelog.topic, NUMBERS)
    yield made
    made.close()


def test_a_takeover_reads_only_what_the_standby_has_not_copied(changelog: Changelog, standby: Standby) -> None:
    changelog.write({b"a": b"1", b"b": b"1", b"c": b"1"})
    changelog.write({b"a": b"2", b"b": None})
    changelog.write({b"c": b"aborted", b"d": b"aborted"}, commit=False)
    changelog.write({b"x": b"1"}, partition=1)
    eventually(lambda: standby.positions() == {0: 10, 1: 2})  # with the three markers, and with one
    changelog.write({b"a": b"3", b"c": None, b"e": b"1"})
    copies = standby.take(NUMBERS)
    latest, offsets = changelog.read(copies)
    whole, all_offsets = changelog.read()
    assert latest == whole == {0: {b"a": b"3", b"e": b"1"}, 1: {b"x": b"1"}}
    assert offsets <= 4 < all_offsets


def test_partitions_that_others_took_over_are_followed_from_their_beginning(
    changelog: Changelog, standby: Standby
) -> None:
    changelog.write({b"a": b"1"})
    eventually(lambda: standby.positions()[0] == 2)
    assert standby.take([0]).keys() == {0}
    changelog.write({b"a": None, b"b": b"1"})
    changelog.write({b"y": b"1"}, partition=1)
    eventually(lambda: standby.positions() == {1: 2})
    standby.follow([0])
    eventually(lambda: standby.positions() == {0: 5, 1: 2})
    assert {number: copy.latest for number, copy in standby.take(NUMBERS).items()} == {0: {b"b": b"1"}, 1: {b"y": b"1"}}


def test_a_copy_of_a_topic_that_was_made_anew_is_not_used(changelog: Changelog) -> None:
    changelog.write({b"a": b"1"})
    latest, _ = changelog.read({0: Copy({b"old": b"1"}, 1_000)})
    assert latest == {0: {b"a": b"1"}, 1: {}}


class Member:
    """A group member that restores what it is assigned, partition by partition."""

    def __init__(self, changelog: Changelog, group: str, instance: int) -> None:
        self._changelog = changelog
        self.latest: dict[int, dict[bytes, bytes]] = {}
        self.offsets_read: dict[int, int] = {}
        identity = KafkaIdentity(changelog.servers, group, instance)
        self.client = KafkaClient(identity, changelog.topic)

    def assigned(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        for _, number in partitions:
            totals = [0]
            found = self.client.read_changelog(
                self._changelog.topic, [number], lambda _, total, totals=totals: totals.append(total), lambda: True
            )
            self.latest[number], self.offsets_read[number] = found[number], totals[-1]
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions: Collection[Partition]) -> None:
        for _, number in partitions:
            self.latest.pop(number)

    lost = revoked


def test_a_member_takes_over_the_partition_of_one_that_left_from_its_copy(changelog: Changelog, unique: str) -> None:
    KafkaUnderTest(changelog.servers).create_topic(f"{unique}-in", len(NUMBERS))
    for number in NUMBERS:
        changelog.write({b"%d" % key: b"1" for key in range(100)}, number)
    first, second = (Member(changelog, unique, instance) for instance in (0, 1))
    for member in (first, second):
        member.client.start([f"{unique}-in"], member)

    def shared() -> bool:
        for member in (first, second):
            member.client.poll(10, 0.02)
        return len(first.latest) == len(second.latest) == 1

    eventually(shared, within_s=60, every_s=0.0)
    (number,) = first.latest
    standby = second.client._standby
    assert standby is not None
    eventually(lambda: standby.positions() == {number: 101}, within_s=30)
    first.client.close()
    eventually(lambda: second.client.poll(10, 0.02) is not None and len(second.latest) == 2, within_s=60, every_s=0.0)
    assert second.latest[number].keys() == {b"%d" % key for key in range(100)}
    assert second.offsets_read[number] == 0, "everything was copied before"
    second.client.close()
