"""The memory broker behaves as the real one, and does what only it can."""

import pytest

from support.broker_behaviour import BrokerBehaviour, event
from support.brokers import MemoryUnderTest, join, soon, take
from tidemill.errors import Fenced
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.ports import AbortedError


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
    zombie.abort(soon())
    zombie.poll(1, 0)
    assert [what for what, _ in owner.told] == ["assigned", "lost", "assigned"]


def test_a_second_process_with_the_same_instance_ends_the_first(broker: MemoryBroker) -> None:
    first, second = broker.client("g"), broker.client("g")
    join(first, "in")
    first.poll(1, 0)
    join(second, "in")
    with pytest.raises(Fenced):
        first.poll(1, 0)
