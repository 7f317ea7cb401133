"""Committed offsets of consumer groups."""

from collections.abc import Collection, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka.records import harmless
from tidemill.runtime.kafka.settings import CALL_TIMEOUT_S, error_of, reading_settings, refused
from tidemill.runtime.logs import get_logger
from tidemill.runtime.ports import Partition

_STABLE_WITHIN_S = 60.0
_log = get_logger("offsets")


def stable_offsets(consumer: Consumer, partitions: Collection[Partition]) -> dict[Partition, int | None]:
    """Committed offsets of the consumer's group once no transaction that holds one is pending; None where there is
    none. librdkafka asks for stable offsets under read_committed; UNSTABLE_OFFSET_COMMIT means a pending one."""
    wanted = [TopicPartition(*partition) for partition in partitions]
    deadline = Deadline(_STABLE_WITHIN_S)
    while True:
        try:
            found = consumer.committed(wanted, timeout=deadline.at_most(CALL_TIMEOUT_S))
            failed = next((at.error for at in found if at.error is not None), None)
            if failed is None:
                return {(at.topic, at.partition): at.offset if at.offset >= 0 else None for at in found}
        except KafkaException as exception:
            failed = error_of(exception)
        if deadline.passed or not (harmless(failed) or failed.code() == KafkaError.UNSTABLE_OFFSET_COMMIT):
            raise refused("asking for committed offsets", failed)
        _log.info("waiting for stable offsets", error=failed.name())


def group_offsets(
    bootstrap_servers: str, options: Mapping[str, str], group: str, partitions: Collection[Partition]
) -> dict[Partition, int]:
    """The same of any group, without joining it; partitions without an offset are left out.

    By a consumer, because librdkafka 2.16's admin request for them crashes the process when a coordinator answers with
    an error.
    """
    settings = reading_settings(bootstrap_servers, options)
    consumer = Consumer({**settings, "group.id": group, "isolation.level": "read_committed"})
    try:
        found = stable_offsets(consumer, partitions)
    finally:
        consumer.close()
    return {partition: offset for partition, offset in found.items() if offset is not None}
