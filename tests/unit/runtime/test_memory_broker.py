"""The memory broker behaves as the real one, and does what only it can."""

import pytest

from support.broker_behaviour import BrokerBehaviour, event
from support.brokers import MemoryUnderTest, join, soon, take
from tidemill.errors import Fenced
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.ports import AbortedError, ProducerLostError


class TestMemoryBroker(BrokerBehaviour):
    @pytest.fixture
    def broker(self) -> MemoryUnderTest:
        return MemoryUnderTest()


@pytest.fixture
def broker() -> MemoryBroker:
    broker = MemoryBroker()
    broker.create_topic("in", 2)
    broker.create_topic("out", 1)
    return broker


def test_a_member_expelled_from_its_group_cannot_commit_offsets(broker: MemoryBroker) -> None:
    broker.append(event("in", "a"))
    zombie = broker.client("g")
    owner = join(zombie, "in")
    take(zombie, 1)
    zombie.expel()
    zombie.begin()
    with pytest.raises(AbortedError):
        zombie.send_offsets({("in", 0): 1}, soon())
    zombie.abort()
    zombie.poll(1, 0)
    assert [what for what, _ in owner.told] == ["assigned", "lost", "assigned"]


def test_a_second_process_with_the_same_instance_ends_the_first(broker: MemoryBroker) -> None:
    first, second = broker.client("g"), broker.client("g")
    join(first, "in")
    first.poll(1, 0)
    join(second, "in")
    with pytest.raises(Fenced):
        first.poll(1, 0)


def test_an_open_transaction_times_out_and_its_producer_is_fenced(broker: MemoryBroker) -> None:
    client = broker.client("group")
    join(client, "in")
    client.begin()
    with pytest.raises(ProducerLostError, match="open already"):
        client.begin()
    client.produce([event("out", "orphan")])
    broker.time_out_transactions("another")
    assert broker.stable_end(("out", 0)) == 0, "it holds readers up"
    broker.time_out_transactions("group")
    assert broker.stable_end(("out", 0)) == 2, "behind it stands its marker"
    assert broker.read("out") == []
    with pytest.raises(ProducerLostError, match="EPOCH"):
        client.commit(soon())
