"""Where partitions begin and end, asked of their leaders."""

from collections.abc import Sequence

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from tidemill import clock
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka.records import harmless
from tidemill.runtime.kafka.settings import CALL_TIMEOUT_S, error_of, refused
from tidemill.runtime.ports import Partition, Watermarks

_ASK_AGAIN_S = 0.05
_LEADERS_MOVE = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.OFFSET_NOT_AVAILABLE,
        KafkaError.REPLICA_NOT_AVAILABLE,
        KafkaError.KAFKA_STORAGE_ERROR,
    }
)
"""Pass by themselves as well, such as right after a topic was created or a broker started."""


def watermarks(consumer: Consumer, partitions: Sequence[Partition]) -> dict[Partition, Watermarks]:
    """Asks the leaders, for all partitions at once: an answer may have to wait for a fetch on the same connection.

    Under read_committed the high one is the last stable offset.
    """
    low, high = (_logical(consumer, partitions, end) for end in (OFFSET_BEGINNING, OFFSET_END))
    return {partition: Watermarks(low[partition], high[partition]) for partition in partitions}


def _logical(consumer: Consumer, partitions: Sequence[Partition], logical: int) -> dict[Partition, int]:
    """The offsets that OFFSET_BEGINNING or OFFSET_END stand for: the protocol's look-up by time has both."""
    if not partitions:
        return {}
    deadline = Deadline(CALL_TIMEOUT_S)
    while True:
        try:
            asked = [TopicPartition(*at, logical) for at in partitions]
            found = consumer.offsets_for_times(asked, timeout=max(0.1, deadline.remaining))
            for at in found:
                if at.error is not None:
                    raise KafkaException(at.error)
        except KafkaException as exception:
            error = error_of(exception)
            if not (harmless(error) or error.code() in _LEADERS_MOVE) or deadline.passed:
                raise refused("asking for watermarks", error) from None
            clock.pause(_ASK_AGAIN_S)
        else:
            return {(at.topic, at.partition): at.offset for at in found}
