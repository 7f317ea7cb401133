"""The behavioural suite on a real Kafka, under both group protocols."""

import pytest

from support.broker_behaviour import BrokerBehaviour
from support.brokers import KafkaUnderTest

pytestmark = pytest.mark.kafka


class TestClassicProtocol(BrokerBehaviour):
    @pytest.fixture
    def broker(self, kafka: str) -> KafkaUnderTest:
        return KafkaUnderTest(kafka, "classic")


class TestConsumerProtocol(BrokerBehaviour):
    @pytest.fixture
    def broker(self, kafka: str) -> KafkaUnderTest:
        return KafkaUnderTest(kafka, "consumer")
