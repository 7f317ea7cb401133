"""The port of runtime/ports.py on a real Kafka: one group member and one transactional producer."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message, TopicPartition

from tidemill import clock
from tidemill.errors import Fenced, StateCorrupt
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka.changelog import read_changelog
from tidemill.runtime.kafka.offsets import STABLE_WITHIN_S, notes_of, stable_offsets
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.reader import partition_numbers
from tidemill.runtime.kafka.records import drain, harmless, serve_callbacks, sort_out
from tidemill.runtime.kafka.settings import (
    Settings,
    error_of,
    reading_settings,
    refused,
    writing_settings,
)
from tidemill.runtime.kafka.standby import Standby
from tidemill.runtime.kafka.watermarks import watermarks
from tidemill.runtime.logs import get_logger
from tidemill.runtime.ports import Partition, Polled, RebalanceListener, Watermarks
from tidemill.runtime.service import OutRecord

_LAST_AND_MARKER = 2
_SEEK_WITHIN_S = 10.0
_ANSWERED_WITHIN_S = 15.0
_log = get_logger("kafka")


@dataclass(frozen=True, slots=True)
class KafkaIdentity:
    """Who this process is to Kafka. `group` and `instance` make the transactional id, stable over restarts."""

    bootstrap_servers: str
    group: str
    instance: int = 0
    protocol: str = "classic"
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def transactional_id(self) -> str:
        return f"{self.group}-{self.instance}"


class KafkaClient:
    """Implements LogClient. Rebalance callbacks run inside `poll` and `close`, on the owner thread.

    With `standby_topic`, the changelog partitions that other instances own are copied as they grow.
    """

    def __init__(self, identity: KafkaIdentity, standby_topic: str | None = None) -> None:
        self._identity = identity
        writing = writing_settings(identity.bootstrap_servers, identity.options)
        self._producer = TransactionalProducer(writing, identity.transactional_id)
        self._consumer: Consumer | None = None
        self._probe: Consumer | None = None
        self._listener: RebalanceListener | None = None
        self._owned: set[Partition] = set()
        self._moved: set[Partition] = set()
        """Partitions that a rebalance has given, taken or given anew; emptied by each poll."""
        self._standby_topic = standby_topic
        self._standby: Standby | None = None
        self._failure: BaseException | None = None
        self._closing = self._assigning = False

    def start(self, topics: Sequence[str], listener: RebalanceListener) -> None:
        """Fence earlier producers of this identity (their open transaction is aborted) and join the group."""
        self._producer.start()
        self._listener = listener
        self._consumer = Consumer(_member_settings(self._identity))
        if self._standby_topic is not None:
            numbers = partition_numbers(self._consumer, self._standby_topic)
            self._standby = Standby(self._restoring_settings(), self._standby_topic, numbers)
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
        )

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        try:
            messages = drain(self._member, max_records, timeout_s, self._moved)
        except KafkaException as exception:
            self._raise_failure()
            raise refused("polling", error_of(exception)) from None
        self._raise_failure()
        polled = sort_out(messages, self._on_error)
        if len(polled.records) < max_records:
            self._note_ends(polled)
        return polled

    def _note_ends(self, polled: Polled) -> None:
        """Report an end at once where the newest fetch shows that hardly anything but a transaction's marker can
        follow: the broker itself says so only with its next answer, which it holds back for `fetch.wait.max.ms`. It may
        yet be a record, so reading has come no further than the last one."""
        last = {(record.topic, record.partition): record.offset for record in polled.records}
        for partition, high in self.high_watermarks(last.keys()).items():
            if high - last[partition] <= _LAST_AND_MARKER:
                polled.ends.setdefault(partition, last[partition] + 1)

    def owned(self) -> frozenset[Partition]:
        return frozenset(self._owned)

    def pause(self, partitions: Collection[Partition]) -> None:
        self._member.pause([TopicPartition(*partition) for partition in partitions])

    def resume(self, partitions: Collection[Partition]) -> None:
        self._member.resume([TopicPartition(*partition) for partition in partitions])

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Raises TidemillError when librdkafka does not take it within some seconds."""
        deadline = Deadline(_SEEK_WITHIN_S)
        for partition, offset in positions.items():
            while True:
                try:
                    self._member.seek(TopicPartition(*partition, offset))
                    break
                except KafkaException as exception:
                    error = error_of(exception)
                    # The partition's fetcher is still starting.
                    if error.code() not in (KafkaError._STATE, KafkaError._PREV_IN_PROGRESS) or deadline.passed:
                        # A fenced member has lost its partitions: its own error says so better than this one.
                        sort_out(drain(self._member, 1, 0), self._on_error)
                        raise refused(f"seeking {partition}", error) from None
                    clock.pause(0.005)

    def committed(self, partitions: Collection[Partition]) -> dict[Partition, int | None]:
        return stable_offsets(self._member, self._identity.group, partitions, self._answered_within_s)

    def committed_notes(self, partitions: Collection[Partition]) -> dict[Partition, str]:
        return notes_of(self._member, partitions, self._answered_within_s)

    @property
    def _answered_within_s(self) -> float:
        """In a rebalance this is a member for certain, and cannot be made to poll."""
        return STABLE_WITHIN_S if self._assigning else _ANSWERED_WITHIN_S

    def watermarks(self, partitions: Collection[Partition]) -> dict[Partition, Watermarks]:
        """The true high watermark, not the last stable offset that a read_committed consumer is told."""
        if self._probe is None:
            settings = reading_settings(self._identity.bootstrap_servers, self._identity.options)
            self._probe = Consumer(
                {**settings, "group.id": f"{self._identity.group}-probe", "isolation.level": "read_uncommitted"}
            )
        return watermarks(self._probe, list(partitions))

    def high_watermarks(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        found = {at: self._member.get_watermark_offsets(TopicPartition(*at), cached=True) for at in partitions}
        return {partition: marks[1] for partition, marks in found.items() if marks is not None and marks[1] >= 0}

    def read_changelog(
        self, topic: str, partitions: Collection[int], progress: Callable[[int, int], None], keep_on: Callable[[], bool]
    ) -> dict[int, dict[bytes, bytes]]:
        marks = self.watermarks([(topic, number) for number in partitions])
        copies = self._standby.take(partitions) if self._standby is not None else None
        return read_changelog(self._restoring_settings(), marks, progress, keep_on, copies)

    def _restoring_settings(self) -> Settings:
        settings = reading_settings(self._identity.bootstrap_servers, self._identity.options)
        return settings | {"group.id": f"{self._identity.group}-restore", "isolation.level": "read_committed"}

    def begin(self) -> None:
        self._producer.begin()

    def produce(self, records: Iterable[OutRecord]) -> None:
        self._producer.produce(records)

    def send_offsets(
        self, offsets: Mapping[Partition, int], deadline: Deadline, notes: Mapping[Partition, str] | None = None
    ) -> None:
        self._producer.send_offsets(offsets, self._member.consumer_group_metadata(), deadline, notes)

    def commit(self, deadline: Deadline) -> None:
        self._producer.commit(deadline)

    def abort(self) -> None:
        self._producer.abort()

    def recover(self) -> None:
        self._producer.recycle()

    def close(self) -> None:
        self._closing = True
        if self._consumer is not None:
            self._leave(self._consumer)
        if self._probe is not None:
            self._probe.close()
        self._consumer = self._probe = None
        if self._standby is not None:
            self._standby.close()
        self._producer.close()
        self._raise_failure()

    def _leave(self, member: Consumer) -> None:
        """Close the member with no rebalance under way. One that reaches a closing consumer has to be answered, and
        librdkafka loses the answer when its group is gone by then: the caller waits for ever and holds the interpreter
        (librdkafka #4884)."""
        serve_callbacks(member)
        # A static member with partitions stays in its group: a restart within its session finds them again.
        if self._incremental or not self._owned:
            with contextlib.suppress(KafkaException):
                member.unsubscribe()
            serve_callbacks(member)
        member.close()

    @property
    def _member(self) -> Consumer:
        assert self._consumer is not None, "start() comes first"
        return self._consumer

    @property
    def _incremental(self) -> bool:
        return self._identity.protocol == "consumer"

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        new = [(at.topic, at.partition) for at in partitions]
        self._moved.update(new)
        starts: Mapping[Partition, int] = {}
        if self._closing:
            # Joined too late: the assignment is accepted, for a rebalance must be answered, and given back at once.
            self._accept(consumer, partitions)
            return
        try:
            assert self._listener is not None
            if self._failure is None:
                self._assigning = True
                starts = self._listener.assigned(new)
        except BaseException as failure:
            # An exception inside a librdkafka callback cannot unwind: it is kept and raised from poll().
            self._failure = failure
            if self._incremental:
                self._accept(consumer, partitions)  # unassign() is an error there, and close() would raise it
            else:
                consumer.unassign()
            return
        finally:
            self._assigning = False
        self._owned.update(new)
        if self._standby is not None:
            self._standby.take({number for _, number in new})  # what was not restored needs no copy either
        at = [TopicPartition(*partition, starts.get(partition, int(OFFSET_BEGINNING))) for partition in new]
        self._accept(consumer, at)
        # librdkafka remembers a pause over a rebalance; the merge begins these partitions anew and paused none.
        consumer.resume(at)

    def _accept(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)

    def _on_revoke(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone(partitions, lost=False)

    def _on_lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._gone(partitions, lost=True)

    def _gone(self, partitions: list[TopicPartition], *, lost: bool) -> None:
        gone = [(at.topic, at.partition) for at in partitions if (at.topic, at.partition) in self._owned]
        self._moved.update(gone)
        try:
            if gone and self._listener is not None and self._failure is None:
                (self._listener.lost if lost else self._listener.revoked)(gone)
        except BaseException as failure:
            self._failure = failure
        finally:
            self._owned.difference_update(gone)
            if self._standby is not None and not self._closing:
                self._standby.follow({number for _, number in gone} - {number for _, number in self._owned})

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _on_error(self, error: KafkaError, message: Message) -> None:
        # A consumer's fatal error comes without its cause's code; only the text names it.
        if error.code() == KafkaError._FATAL and "group.instance.id" in error.str():
            raise Fenced(
                f"another process runs as instance {self._identity.instance} of {self._identity.group}",
                hint="give each process of a service its own TIDEMILL_INSTANCE",
            )
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise StateCorrupt(
                f"offset {message.offset()} of {message.topic()}/{message.partition()} is not in the log any more",
                hint="the topic was truncated or expired under the reader: records were lost before they were read",
            )
        if error.fatal() or not harmless(error):
            raise refused(f"reading {message.topic() or 'topics'}", error)
        _log.warning("kafka error, librdkafka goes on", error=error.name(), reason=error.str())


def _member_settings(identity: KafkaIdentity) -> Settings:
    settings: Settings = {
        "max.poll.interval.ms": 300_000,
        **reading_settings(identity.bootstrap_servers, identity.options),
        "group.id": identity.group,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "group.protocol": identity.protocol,
    }
    if identity.protocol == "consumer":
        # No instance id: the broker refuses a restarted one until the old session has timed out.
        settings["group.remote.assignor"] = "range"
        return settings
    # State is per partition number: range gives the same numbers of every input topic to the same member.
    return {
        "session.timeout.ms": 10_000,
        "heartbeat.interval.ms": 1_000,
        **settings,
        "partition.assignment.strategy": "range",
        "group.instance.id": identity.transactional_id,
    }
