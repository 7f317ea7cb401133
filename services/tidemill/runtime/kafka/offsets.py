"""Committed offsets of consumer groups."""

from collections.abc import Collection, Mapping

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from tidemill.errors import ConfigurationError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka.records import harmless
from tidemill.runtime.kafka.settings import CALL_TIMEOUT_S, error_of, reading_settings, refused
from tidemill.runtime.logs import get_logger
from tidemill.runtime.ports import NotAnsweredError, Partition

STABLE_WITHIN_S = 60.0
"""More than any transaction may stay open."""
_ASKING = "asking for committed offsets"
_REPLACED_BY = "replaced by "
_NOT_WITHOUT_ITS_MEMBERS = frozenset(
    {
        KafkaError.UNKNOWN_MEMBER_ID,
        KafkaError.ILLEGAL_GENERATION,
        KafkaError.REBALANCE_IN_PROGRESS,
        KafkaError.STALE_MEMBER_EPOCH,
    }
)
_log = get_logger("offsets")


def stable_offsets(
    consumer: Consumer, group: str, partitions: Collection[Partition], answered_within_s: float = STABLE_WITHIN_S
) -> dict[Partition, int | None]:
    """Committed offsets of the consumer's group once no transaction that holds one is pending; None where there is
    none. Raises ConfigurationError where another group has taken this one's place, and NotAnsweredError after
    `answered_within_s` without an answer."""
    found = _stable(consumer, partitions, answered_within_s)
    _check_unmarked(group, found)
    return {(at.topic, at.partition): at.offset if at.offset >= 0 else None for at in found}


def notes_of(
    consumer: Consumer, partitions: Collection[Partition], answered_within_s: float = STABLE_WITHIN_S
) -> dict[Partition, str]:
    """What stands beside the committed offsets of the consumer's group, where anything does. Raises as the other."""
    found = _stable(consumer, partitions, answered_within_s)
    return {(at.topic, at.partition): at.metadata for at in found if at.offset >= 0 and at.metadata}


def group_offsets(
    bootstrap_servers: str, options: Mapping[str, str], group: str, partitions: Collection[Partition]
) -> dict[Partition, int]:
    """The same of any group, replaced or not, without joining it; partitions without an offset are left out.

    By a consumer, because librdkafka 2.16's admin request for them crashes the process when a coordinator answers with
    an error.
    """
    found = _ask(bootstrap_servers, options, group, partitions)
    return {(at.topic, at.partition): at.offset for at in found if at.offset >= 0}


def check_not_replaced(
    bootstrap_servers: str, options: Mapping[str, str], group: str, partitions: Collection[Partition]
) -> None:
    """Raises ConfigurationError where `mark_replaced` has marked this group and nobody has reset its offsets since.

    Does not wait for stable offsets: a process that was killed in a transaction asks this before it has aborted that,
    so it would wait for its own transaction to time out. The mark is never in a transaction.
    """
    _check_unmarked(group, _ask(bootstrap_servers, options, group, partitions, isolation="read_uncommitted"))


def mark_replaced(
    bootstrap_servers: str, options: Mapping[str, str], group: str, successor: str, offsets: Mapping[Partition, int]
) -> bool:
    """Commit these offsets of a group without members as they are, marked; False where it has a member after all.

    The coordinator decides: it takes a commit from outside only while the group is empty. Resetting the group's
    offsets, even to what they are, removes the mark.
    """
    marked = [TopicPartition(*at, offset, metadata=_REPLACED_BY + successor) for at, offset in offsets.items()]
    deadline = Deadline(STABLE_WITHIN_S)
    consumer = Consumer({**reading_settings(bootstrap_servers, options), "group.id": group})
    try:
        while True:
            try:
                answers = consumer.commit(offsets=marked, asynchronous=False) or []
                failed = next((at.error for at in answers if at.error is not None), None)
            except KafkaException as exception:
                failed = error_of(exception)
            if failed is None:
                return True
            if failed.code() in _NOT_WITHOUT_ITS_MEMBERS:
                return False
            if deadline.passed or not harmless(failed):
                raise refused(f"marking group {group} as replaced", failed)
    finally:
        consumer.close()


def _check_unmarked(group: str, found: Collection[TopicPartition]) -> None:
    mark = next((at.metadata for at in found if (at.metadata or "").startswith(_REPLACED_BY)), None)
    if mark is not None:
        raise ConfigurationError(
            f"{group} was {mark}, which answers in its place",
            hint="stop what starts it again. To go back to its features, give them the next version, which `replaces` "
            "the present one. To run it nevertheless, stop that one and reset this group's offsets to what they are: "
            f"`kafka-consumer-groups.sh --bootstrap-server … --group {group} --all-topics --reset-offsets "
            "--to-current --execute`; what was answered since is answered again",
        )


def _ask(
    bootstrap_servers: str,
    options: Mapping[str, str],
    group: str,
    partitions: Collection[Partition],
    isolation: str = "read_committed",
) -> list[TopicPartition]:
    settings = reading_settings(bootstrap_servers, options)
    consumer = Consumer({**settings, "group.id": group, "isolation.level": isolation})
    try:
        return _stable(consumer, partitions)
    finally:
        consumer.close()


def _stable(
    consumer: Consumer, partitions: Collection[Partition], answered_within_s: float = STABLE_WITHIN_S
) -> list[TopicPartition]:
    """librdkafka asks for stable offsets under read_committed; UNSTABLE_OFFSET_COMMIT means a pending one."""
    wanted = [TopicPartition(*partition) for partition in partitions]
    deadline, answer = Deadline(STABLE_WITHIN_S), Deadline(answered_within_s)
    while True:
        try:
            found = consumer.committed(wanted, timeout=deadline.at_most(CALL_TIMEOUT_S))
            failed = next((at.error for at in found if at.error is not None), None)
            if failed is None:
                return found
        except KafkaException as exception:
            failed = error_of(exception)
        pending, error = failed.code() == KafkaError.UNSTABLE_OFFSET_COMMIT, refused(_ASKING, failed)
        if pending:
            answer = Deadline(answered_within_s)
        if deadline.passed or not (harmless(failed) or pending):
            raise error
        if answer.passed:
            raise NotAnsweredError(error.message, hint=error.hint)
        _log.info("waiting for stable offsets", error=failed.name())
