"""Fixtures for every test. A Kafka that does not start is a failure, not a skip."""

import os
import uuid
from collections.abc import Iterator

import pytest

from tidemill.local.kafka import LocalKafka

for name in [name for name in os.environ if name.startswith("TIDEMILL_") and name != "TIDEMILL_TEST_DATA"]:
    del os.environ[name]


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of one real broker for the whole run."""
    with LocalKafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker.bootstrap_servers


@pytest.fixture
def unique() -> str:
    """A prefix for topics and groups that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"
