"""Committed records of a topic, read by aiokafka: another client than the one that the services use."""

import asyncio

from aiokafka import AIOKafkaConsumer, TopicPartition

from tidemill.errors import TidemillError

_WITHIN_S = 60.0
_POLL_MS = 500


def committed_values(bootstrap_servers: str, topic: str, partitions: int, last: bytes) -> list[bytes]:
    """Values of every committed record up to, and without, the value `last`, which ends each partition.

    Blocks. Raises TidemillError if a partition does not come to its last record: a transaction on it hangs.
    """
    return asyncio.run(_read(bootstrap_servers, topic, partitions, last))


async def _read(bootstrap_servers: str, topic: str, partitions: int, last: bytes) -> list[bytes]:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap_servers,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    values: list[bytes] = []
    open_ends = {TopicPartition(topic, number) for number in range(partitions)}
    try:
        async with asyncio.timeout(_WITHIN_S):
            while open_ends:
                for partition, records in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                    for record in records:
                        if record.value == last:
                            open_ends.discard(partition)
                        else:
                            values.append(record.value)
    except TimeoutError:
        raise TidemillError(
            f"{topic} could not be read to its end within {_WITHIN_S:g} s: still waiting for {sorted(open_ends)}",
            hint="a transaction on it hangs; `kafka-transactions.sh find-hanging` names it",
        ) from None
    finally:
        await consumer.stop()
    return values
