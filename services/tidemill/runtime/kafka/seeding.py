"""State and offsets for consumer groups that have not begun, in one transaction."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from confluent_kafka import Consumer

from tidemill.errors import TidemillError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.settings import reading_settings, writing_settings
from tidemill.runtime.ports import AbortedError, Partition, ProducerLostError
from tidemill.runtime.service import OutRecord

_TRANSACTION_TIMEOUT_S = 900.0
"""The most that a broker allows unless it is told otherwise (transaction.max.timeout.ms)."""

_COMMIT_WITHIN_S = 600.0


def abort_seeding(bootstrap_servers: str, options: Mapping[str, str], transactional_id: str) -> None:
    """End what a `seed_groups` of this id left pending when it was killed, and fence one that still runs. Until then
    the offsets of its groups cannot be had, for as long as a transaction may take."""
    producer = TransactionalProducer(
        writing_settings(bootstrap_servers, options), transactional_id, _TRANSACTION_TIMEOUT_S
    )
    try:
        producer.start()
    finally:
        producer.close()


def seed_groups(
    bootstrap_servers: str,
    options: Mapping[str, str],
    transactional_id: str,
    records: Iterable[OutRecord],
    offsets: Mapping[str, Mapping[Partition, int]],
) -> None:
    """Write `records` and commit `offsets` by group: all of it or nothing. Blocks for minutes where there is much.

    A group must have no member: the brokers take it all the same, and a member that runs does not notice. Raises
    TidemillError; then nothing was written.
    """
    producer = TransactionalProducer(
        writing_settings(bootstrap_servers, options), transactional_id, _TRANSACTION_TIMEOUT_S
    )
    try:
        producer.start()
        producer.begin()
        producer.produce(records)
        deadline = Deadline(_COMMIT_WITHIN_S)
        for group, positions in offsets.items():
            member = Consumer({**reading_settings(bootstrap_servers, options), "group.id": group})
            try:
                producer.send_offsets(positions, member.consumer_group_metadata(), deadline)
            finally:
                member.close()
        producer.commit(deadline)
    except (AbortedError, ProducerLostError) as error:
        if isinstance(error, AbortedError):  # who was fenced must not fence in turn
            with suppress(TidemillError):
                producer.abort()
        raise TidemillError(
            f"nothing was written for {', '.join(offsets)}: {error}",
            hint="is a process of one of these groups running? then it has begun without; otherwise try again",
        ) from None
    finally:
        producer.close()
