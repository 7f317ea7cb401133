"""A member that closes while the group hands it partitions, on a real Kafka."""

import pytest
from confluent_kafka import ConsumerGroupState
from confluent_kafka.admin import AdminClient

from support.brokers import KafkaUnderTest, join
from support.polling import eventually

pytestmark = pytest.mark.kafka

_MEMBERS = 24
"""librdkafka loses the answer to an assignment in one close of about thirty, when the answer is given too late."""


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_with_an_assignment_that_they_never_saw_close(kafka: str, unique: str, protocol: str) -> None:
    """A member that never returns also holds the interpreter: only the run's own time limit would end this test."""
    broker = KafkaUnderTest(kafka, protocol)
    groups = [f"{unique}-{number}" for number in range(_MEMBERS)]
    broker.create_topic(f"{unique}-in", 2)
    members = [broker.client(group) for group in groups]
    owners = [join(member, f"{unique}-in") for member in members]
    admin = AdminClient({"bootstrap.servers": kafka})

    def all_assigned() -> bool:
        described = [found.result(10.0) for found in admin.describe_consumer_groups(groups).values()]
        return all(group.state is ConsumerGroupState.STABLE for group in described)

    eventually(all_assigned)
    for member in members:
        member.close()
    assert [owner.told for owner in owners] == [[]] * _MEMBERS, "nobody restored what they gave back at once"
