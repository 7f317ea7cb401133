"""Puts events on topics so that a reader of committed records sees a whole backlog from one moment on.

Everything is produced inside one transaction that stays open until the caller commits. So no contestant is measured
while it waits for the feeder, and each reads the same backlog however fast it is.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Producer

_TIMEOUT_S = 120.0
_CHUNK = 10_000


class Fed(NamedTuple):
    """One record for a topic; the key chooses the partition as it does for all producers of the pipeline."""

    topic: str
    key: bytes
    value: bytes
    timestamp: int


class Feeder:
    """One transactional producer. Not thread-safe."""

    def __init__(self, bootstrap_servers: str, name: str, compression: str) -> None:
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "transactional.id": name,
                "transaction.timeout.ms": 600_000,
                "message.timeout.ms": 300_000,
                "linger.ms": 20,
                "batch.num.messages": 10_000,
                "compression.type": compression,
                "partitioner": "murmur2_random",
                "queue.buffering.max.messages": 200_000,
                "retry.backoff.ms": 5,
                "log_level": 2,
            }
        )
        self._producer.init_transactions(_TIMEOUT_S)

    @contextmanager
    def backlog(self, records: Iterable[Fed]) -> Iterator[None]:
        """Write `records`, then run the block, then let them be seen. An error in the block aborts them."""
        producer = self._producer
        producer.begin_transaction()
        try:
            for number, (topic, key, value, timestamp) in enumerate(records):
                while True:
                    try:
                        producer.produce(topic, value, key, timestamp=timestamp)
                        break
                    except BufferError:
                        producer.poll(0.05)
                if number % _CHUNK == 0:
                    producer.poll(0)
            producer.flush(_TIMEOUT_S)
            yield
        except BaseException:
            producer.abort_transaction(_TIMEOUT_S)
            raise
        producer.commit_transaction(_TIMEOUT_S)

    def feed(self, records: Iterable[Fed]) -> None:
        """Write and commit."""
        with self.backlog(records):
            pass
