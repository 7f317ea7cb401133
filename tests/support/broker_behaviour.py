"""What any LogClient must do. Run on the memory broker as a unit test and on a real Kafka as an integration test."""

import pytest

from support.brokers import BrokerUnderTest, commit, join, soon, take, visible
from support.polling import eventually
from tidemill.errors import Fenced, TidemillError
from tidemill.runtime.ports import AbortedError, LogClient, ProducerLostError
from tidemill.runtime.service import OutRecord


def event(topic: str, value: str, *, partition: int = 0, timestamp: int = 1_600_000_000_000) -> OutRecord:
    return OutRecord(topic, b"key", value.encode(), timestamp, partition)


class BrokerBehaviour:
    """Subclasses give the fixture `broker`. Topics: `in` and `other` with two partitions, `out` and `state` too."""

    @pytest.fixture
    def names(self, broker: BrokerUnderTest, unique: str) -> dict[str, str]:
        names = {role: f"{unique}-{role}" for role in ("in", "other", "out", "state")}
        for role, name in names.items():
            broker.create_topic(name, 2, compacted=role == "state")
        return {**names, "group": unique}

    def test_records_come_back_as_they_were_written(self, broker: BrokerUnderTest, names: dict[str, str]) -> None:
        written = OutRecord(names["in"], None, b"\x00\xff", 1_600_000_000_123, 1, (("h", b"\x01"), ("h", b"")))
        broker.append(written, OutRecord(names["in"], b"gone", None, 1_600_000_000_124, 1))
        client = broker.client(names["group"])
        join(client, names["in"])
        first, second = take(client, 2)
        assert first == (names["in"], 1, 0, 1_600_000_000_123, None, b"\x00\xff", (("h", b"\x01"), ("h", b"")))
        assert (second.offset, second.key, second.value) == (1, b"gone", None)
        client.close()

    def test_the_end_of_each_partition_is_reported_once_it_is_reached(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        broker.append(event(names["in"], "a"))
        client = broker.client(names["group"])
        join(client, names["in"])
        ends: dict[tuple[str, int], int] = {}

        def both() -> bool:
            ends.update(client.poll(10, 0.05).ends)
            return len(ends) == 2

        eventually(both, every_s=0.0)
        assert ends == {(names["in"], 0): 1, (names["in"], 1): 0}
        client.close()

    def test_an_end_lies_behind_markers_but_never_behind_a_record_to_come(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        at = (names["in"], 0)
        writer, reader = broker.client(f"{names['group']}-writer"), broker.client(names["group"])
        join(writer, names["other"])
        eventually(lambda: writer.poll(1, 0.05) is not None and writer.owned(), every_s=0.0)
        join(reader, names["in"])
        ends: list[int] = []

        def ended_at(offset: int) -> bool:
            ends.extend(end for partition, end in reader.poll(10, 0.05).ends.items() if partition == at)
            return ends[-1:] == [offset]

        commit(writer, [event(names["in"], "a")], {})
        eventually(lambda: ended_at(2), every_s=0.0)
        writer.begin()
        broker.append(event(names["in"], "b"))
        writer.produce([event(names["in"], "c")])
        eventually(lambda: len(broker.read(names["in"], committed=False)) == 3)
        reader.seek({at: 0})
        eventually(lambda: ended_at(3), every_s=0.0)
        assert max(ends) == 3, "c stands there, and may yet be committed"
        writer.commit(soon())
        eventually(lambda: ended_at(5), every_s=0.0)
        writer.close()
        reader.close()

    def test_a_committed_transaction_is_visible_whole_and_moves_the_offsets(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        broker.append(event(names["in"], "a"), event(names["in"], "b"))
        client = broker.client(names["group"])
        join(client, names["in"])
        take(client, 2)
        commit(client, [event(names["out"], "A"), event(names["out"], "B", partition=1)], {(names["in"], 0): 2})
        assert visible(broker, names["out"], 2) == [b"A", b"B"]
        assert client.committed([(names["in"], 0), (names["in"], 1)]) == {(names["in"], 0): 2, (names["in"], 1): None}
        client.close()

    def test_notes_are_kept_beside_the_offsets(self, broker: BrokerUnderTest, names: dict[str, str]) -> None:
        broker.append(event(names["in"], "a"), event(names["in"], "b"))
        client = broker.client(names["group"])
        join(client, names["in"])
        take(client, 2)
        both = [(names["in"], 0), (names["in"], 1)]
        assert client.committed_notes(both) == {}
        for offset, notes in ((1, {both[0]: "newest 5 commit a-1"}), (2, {both[0]: "ü"}), (2, {})):
            client.begin()
            client.send_offsets({both[0]: offset}, soon(), notes)
            client.commit(soon())
            assert client.committed(both) == {both[0]: offset, both[1]: None}
            assert client.committed_notes(both) == notes
        client.close()

    def test_an_aborted_transaction_leaves_nothing_visible_and_no_offset(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        broker.append(event(names["in"], "a"))
        client = broker.client(names["group"])
        join(client, names["in"])
        take(client, 1)
        client.begin()
        client.produce([event(names["out"], "A")])
        client.send_offsets({(names["in"], 0): 1}, soon())
        eventually(lambda: broker.read(names["out"], committed=False))  # an abort purges what was not sent yet
        client.abort()
        assert client.committed([(names["in"], 0)]) == {(names["in"], 0): None}
        commit(client, [event(names["out"], "B")], {(names["in"], 0): 1})
        assert visible(broker, names["out"], 1) == [b"B"]
        assert len(broker.read(names["out"], committed=False)) == 2
        client.close()

    def test_an_open_transaction_is_not_visible(self, broker: BrokerUnderTest, names: dict[str, str]) -> None:
        client = broker.client(names["group"])
        join(client, names["in"])
        client.begin()
        client.produce([event(names["out"], "A")])
        assert broker.read(names["out"]) == []
        client.abort()
        client.close()

    def test_a_client_that_is_closed_while_it_joins_closes(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        for instance in range(3):
            client = broker.client(names["group"], instance)
            join(client, names["in"])
            client.close()

    def test_a_restart_goes_on_behind_the_committed_offset(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        broker.append(event(names["in"], "a"), event(names["in"], "b"))
        client = broker.client(names["group"])
        join(client, names["in"])
        take(client, 2)
        commit(client, [event(names["out"], "A")], {(names["in"], 0): 1})
        client.close()
        again = broker.client(names["group"])
        join(again, names["in"])
        assert [record.value for record in take(again, 1)] == [b"b"]
        again.close()

    def test_a_rewind_brings_the_same_records_again(self, broker: BrokerUnderTest, names: dict[str, str]) -> None:
        broker.append(*(event(names["in"], str(number)) for number in range(50)))
        client = broker.client(names["group"])
        join(client, names["in"])
        first = take(client, 50)
        client.seek({(names["in"], 0): 20})
        assert take(client, 30) == first[20:]
        client.close()

    def test_a_paused_partition_brings_nothing_until_it_is_resumed(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        client = broker.client(names["group"])
        join(client, names["in"])
        broker.append(event(names["in"], "first", partition=1))
        take(client, 1)
        client.pause([(names["in"], 0)])
        broker.append(event(names["in"], "held"), event(names["in"], "free", partition=1))
        assert [record.value for record in take(client, 1)] == [b"free"]
        client.resume([(names["in"], 0)])
        assert [record.value for record in take(client, 1)] == [b"held"]
        client.close()

    def test_a_successor_aborts_its_orphan_and_fences_it(self, broker: BrokerUnderTest, names: dict[str, str]) -> None:
        broker.append(event(names["in"], "a"))
        dead = broker.client(names["group"])
        join(dead, names["in"])
        take(dead, 1)
        dead.begin()
        dead.produce([event(names["out"], "orphan")])
        dead.send_offsets({(names["in"], 0): 1}, soon())
        successor = broker.client(names["group"])
        join(successor, names["in"])
        with pytest.raises(ProducerLostError):
            dead.commit(soon())
        _close_fenced(dead)
        assert [record.value for record in take(successor, 1)] == [b"a"], "the orphan's offset must not count"
        commit(successor, [event(names["out"], "successor")], {(names["in"], 0): 1})
        assert visible(broker, names["out"], 1) == [b"successor"]
        successor.close()

    def test_two_members_share_partition_numbers_across_topics(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        first, second = broker.client(names["group"], 0), broker.client(names["group"], 1)
        topics = (names["in"], names["other"])
        join(first, *topics)
        take_none = [first]
        eventually(lambda: first.poll(10, 0.05) is not None and len(first.owned()) == 4, every_s=0.0)
        join(second, *topics)
        take_none.append(second)

        def shared() -> bool:
            for client in take_none:
                client.poll(10, 0.02)
            return len(first.owned()) == len(second.owned()) == 2

        eventually(shared, every_s=0.0, within_s=40.0)
        for client in (first, second):
            assert len({number for _, number in client.owned()}) == 1
            assert {topic for topic, _ in client.owned()} == set(topics)
        assert first.owned().isdisjoint(second.owned())
        second.close()
        first.close()

    def test_work_can_still_be_committed_while_partitions_are_revoked(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        broker.append(event(names["in"], "a"))
        first, second = broker.client(names["group"], 0), broker.client(names["group"], 1)
        owner = join(first, names["in"])
        take(first, 1)
        owner.before_giving_up = lambda: commit(first, [event(names["out"], "A")], {(names["in"], 0): 1})
        join(second, names["in"])

        def moved() -> bool:
            first.poll(10, 0.02)
            second.poll(10, 0.02)
            return bool(second.owned())

        eventually(moved, every_s=0.0, within_s=40.0)
        assert visible(broker, names["out"], 1) == [b"A"]
        owner.before_giving_up = lambda: None
        second.close()
        first.close()

    def test_a_changelog_gives_the_latest_committed_value_of_each_key(
        self, broker: BrokerUnderTest, names: dict[str, str]
    ) -> None:
        client = broker.client(names["group"])
        join(client, names["in"])
        eventually(lambda: client.poll(1, 0.05) is not None and client.owned(), every_s=0.0)
        state = names["state"]

        def write(key: bytes, value: bytes | None, partition: int = 0) -> OutRecord:
            return OutRecord(state, key, value, 0, partition)

        commit(client, [write(b"a", b"1"), write(b"b", b"1"), write(b"a", b"2"), write(b"c", b"1", 1)], {})
        commit(client, [write(b"b", None)], {})
        client.begin()
        client.produce([write(b"a", b"aborted"), write(b"d", b"aborted", 1)])
        client.abort()
        seen: list[tuple[int, int]] = []
        latest = client.read_changelog(state, [0, 1], lambda read, total: seen.append((read, total)), lambda: True)
        assert latest == {0: {b"a": b"2"}, 1: {b"c": b"1"}}
        assert seen
        assert seen[-1][0] == seen[-1][1]
        client.close()

    def test_a_restore_can_be_called_off(self, broker: BrokerUnderTest, names: dict[str, str]) -> None:
        broker.append(event(names["state"], "x"))
        client = broker.client(names["group"])
        join(client, names["in"])
        with pytest.raises(InterruptedError):
            client.read_changelog(names["state"], [0], lambda *_: None, lambda: False)
        client.close()


def _close_fenced(client: LogClient) -> None:
    """A fenced client may say so once more when it closes."""
    try:
        client.close()
    except (Fenced, AbortedError, TidemillError):
        return
