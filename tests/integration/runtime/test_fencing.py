"""What protects the log from a process that has lost its place, on a real Kafka."""

import pytest

from support.brokers import KafkaUnderTest, commit, join, soon, take, visible
from support.polling import eventually
from tidemill.errors import ConfigurationError
from tidemill.runtime.kafka import check_not_replaced, group_offsets, mark_replaced
from tidemill.runtime.ports import AbortedError
from tidemill.runtime.service import OutRecord

pytestmark = pytest.mark.kafka


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_zombie_with_a_stale_generation_aborts(kafka: str, unique: str, protocol: str) -> None:
    broker = KafkaUnderTest(kafka, protocol)
    source, out = f"{unique}-in", f"{unique}-out"
    for topic in (source, out):
        broker.create_topic(topic, 1)
    broker.append(OutRecord(source, b"k", b"a", 1_000, 0))
    broker.options = {"max.poll.interval.ms": "6000", "session.timeout.ms": "6000"} if protocol == "classic" else {
        "max.poll.interval.ms": "6000"
    }  # fmt: skip
    zombie = broker.client(unique, 0)
    join(zombie, source)
    take(zombie, 1)
    heir = broker.client(unique, 1)
    join(heir, source)
    assert [record.value for record in take(heir, 1)] == [b"a"], "the zombie polls no more, so the heir gets its work"
    zombie.begin()
    zombie.produce([OutRecord(out, b"k", b"zombie", 1_000, 0)])
    with pytest.raises(AbortedError):
        zombie.send_offsets({(source, 0): 1}, soon())
    zombie.abort()
    commit(heir, [OutRecord(out, b"k", b"heir", 1_000, 0)], {(source, 0): 1})
    assert visible(broker, out, 1) == [b"heir"]
    heir.close()
    zombie.close()


def test_committed_offsets_wait_for_a_pending_transaction_and_so_does_the_restore(kafka: str, unique: str) -> None:
    """The former owner is dead with its transaction prepared: nobody with its id comes back to abort it."""
    broker = KafkaUnderTest(kafka)
    source, state = f"{unique}-in", f"{unique}-state"
    broker.create_topic(source, 1)
    broker.create_topic(state, 1, compacted=True)
    broker.append(OutRecord(source, b"k", b"a", 1_000, 0))
    former = broker.client(unique, 0)
    join(former, source)
    take(former, 1)
    commit(former, [OutRecord(state, b"k", b"1", 1_000, 0)], {(source, 0): 1})
    former.begin()
    former.produce([OutRecord(state, b"k", b"2", 1_000, 0)])
    former.send_offsets({(source, 0): 1}, soon())
    heir = broker.client(f"{unique}", 1)
    owner = join(heir, source)
    seen: list[tuple[int, int]] = []

    def decide(read: int, total: int) -> None:
        seen.append((read, total))
        if len(seen) == 3:
            former.commit(soon())

    latest = heir.read_changelog(state, [0], decide, lambda: True)
    assert latest == {0: {b"k": b"2"}}, "the restore read on until the pending transaction was decided"
    assert len(seen) >= 3
    eventually(lambda: (former.poll(1, 0.01), heir.poll(1, 0.01), owner.told)[2] is not None)
    heir.close()
    former.close()


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_group_is_marked_as_replaced_only_without_members_and_then_lets_none_begin(
    kafka: str, unique: str, protocol: str
) -> None:
    broker = KafkaUnderTest(kafka, protocol)
    source = f"{unique}-in"
    broker.create_topic(source, 1)
    broker.append(OutRecord(source, b"k", b"a", 1_000, 0))
    broker.options = {"session.timeout.ms": "6000"} if protocol == "classic" else {}
    member = broker.client(unique)
    join(member, source)
    take(member, 1)
    commit(member, [], {(source, 0): 1})
    assert not mark_replaced(kafka, {}, unique, "successor", {(source, 0): 0}), "it has a member"
    assert group_offsets(kafka, {}, unique, [(source, 0)]) == {(source, 0): 1}
    member.close()
    eventually(lambda: mark_replaced(kafka, {}, unique, "successor", {(source, 0): 1}), every_s=0.2)
    late = broker.client(unique)
    join(late, source)  # it looked for the mark just before there was one
    with pytest.raises(ConfigurationError, match="replaced by successor"):
        take(late, 1)
    late.close()


def test_whether_a_group_was_replaced_is_answered_while_its_offsets_are_pending(kafka: str, unique: str) -> None:
    """By a process that was killed in a transaction, before it aborts that."""
    broker = KafkaUnderTest(kafka)
    source = f"{unique}-in"
    broker.create_topic(source, 1)
    broker.append(OutRecord(source, b"k", b"a", 1_000, 0))
    member = broker.client(unique)
    join(member, source)
    take(member, 1)
    member.begin()
    member.send_offsets({(source, 0): 1}, soon())
    check_not_replaced(kafka, {}, unique, [(source, 0)])
    member.commit(soon())  # still open: nobody has waited for it to time out
    assert group_offsets(kafka, {}, unique, [(source, 0)]) == {(source, 0): 1}
    member.close()
