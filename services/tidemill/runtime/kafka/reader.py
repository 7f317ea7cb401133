"""Reads topics outside any consumer group: tools, audits, models, and whoever keeps positions elsewhere."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from tidemill.errors import TidemillError
from tidemill.runtime.kafka.records import drain, harmless, sort_out
from tidemill.runtime.kafka.settings import CALL_TIMEOUT_S, error_of, reading_settings, refused
from tidemill.runtime.kafka.watermarks import watermarks
from tidemill.runtime.ports import Partition, Watermarks
from tidemill.runtime.service import Record

Start = Literal["earliest", "latest"] | Mapping[Partition, int]


class TopicReader:
    """All partitions of `topics`, or those numbered `only`, from `start`. One thread at a time.

    Blocks at construction for the metadata. A partition missing from a mapping `start` is read from its beginning.
    Raises TidemillError if a topic is missing or Kafka does not answer.
    """

    def __init__(
        self,
        bootstrap_servers: str,
        topics: Sequence[str],
        *,
        isolation: Literal["read_committed", "read_uncommitted"] = "read_committed",
        options: Mapping[str, str] | None = None,
        start: Start = "earliest",
        only: Collection[int] | None = None,
    ) -> None:
        settings = reading_settings(bootstrap_servers, options or {})
        settings |= {
            "group.id": f"tidemill-reader-{uuid.uuid4().hex}",
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
        }
        self._consumer = Consumer(settings)
        self._ended: set[Partition] = set()
        self._ends_seen: dict[Partition, int] = {}
        self._start = start
        try:
            self.partitions: tuple[Partition, ...] = tuple(
                partition for partition in self._all(topics) if only is None or partition[1] in only
            )
            self._assign()
        except BaseException:
            self._consumer.close()
            raise

    def poll(self, max_records: int = 1_000, timeout_s: float = 0.1) -> list[Record]:
        """Up to `max_records`, waiting up to `timeout_s` for the first."""
        polled = sort_out(drain(self._consumer, max_records, timeout_s), self._on_error)
        if polled.records and self._ended:
            self._ended -= {(record.topic, record.partition) for record in polled.records}
        self._ended.update(polled.ends)
        self._ends_seen.update(polled.ends)
        return polled.records

    def at_end(self) -> bool:
        """Whether the last polls reached the end of every partition; true at once for no partitions."""
        return len(self._ended) == len(self.partitions)

    def has_passed(self, ends: Mapping[Partition, int]) -> bool:
        """Whether everything before these offsets was polled. A stream that flows on may never show its end, and what
        stands before an end may be markers, which are not polled."""
        try:
            reached = self._consumer.position([TopicPartition(*partition) for partition in ends])
        except KafkaException as exception:
            raise refused("asking for positions", error_of(exception)) from None
        return all(
            max(at.offset, self._ends_seen.get((at.topic, at.partition), 0)) >= ends[at.topic, at.partition]
            for at in reached
        )

    def seek(self, positions: Mapping[Partition, int]) -> None:
        """Go on reading there."""
        try:
            for partition, offset in positions.items():
                self._consumer.seek(TopicPartition(*partition, offset))
                self._ended.discard(partition)
                self._ends_seen.pop(partition, None)
        except KafkaException as exception:
            raise refused("seeking", error_of(exception)) from None

    def end_offsets(self) -> dict[Partition, int]:
        """The offset after the last one of each partition, as this reader's isolation level sees it."""
        return {partition: marks.high for partition, marks in self.watermarks().items()}

    def watermarks(self) -> dict[Partition, Watermarks]:
        """Low and high watermark of each partition."""
        return watermarks(self._consumer, self.partitions)

    def offsets_for_time(self, timestamp_ms: int) -> dict[Partition, int]:
        """For each partition an offset from which the first record is the first that is at least so new; its end if
        there is none.

        Found by bisection, so it is exact where timestamps ascend and near where they almost do. Kafka's own look-up
        will not do: it also matches transaction markers, which carry the broker's clock and not stream time. Blocks
        for about 20 fetches a partition; afterwards the reader begins at its `start` again.
        """
        try:
            return {
                partition: self._bisect(partition, marks, timestamp_ms)
                for partition, marks in self.watermarks().items()
            }
        except KafkaException as exception:
            raise refused("looking up offsets by time", error_of(exception)) from None
        finally:
            self._assign()

    def first_timestamps(self) -> dict[Partition, int | None]:
        """Of each partition that has lost its beginning: the timestamp of the first record there is, None where none
        is. Afterwards the reader begins at its `start` again."""
        lost = {partition: marks.low for partition, marks in self.watermarks().items() if marks.low > 0}
        try:
            found = {partition: self._first_from(partition, low) for partition, low in lost.items()}
        except KafkaException as exception:
            raise refused("reading the first records", error_of(exception)) from None
        finally:
            self._assign()
        return {partition: None if first is None else first.timestamp for partition, first in found.items()}

    def _bisect(self, partition: Partition, marks: Watermarks, timestamp_ms: int) -> int:
        low, high = marks
        answer = high
        while low < high:
            middle = (low + high) // 2
            found = self._first_from(partition, middle)
            if found is None or found.timestamp >= timestamp_ms:
                # What is found may stand behind `middle`: there are offsets of markers, which are no records.
                high, answer = middle, marks.high if found is None else found.offset
            else:
                low = found.offset + 1
        return answer

    def _first_from(self, partition: Partition, offset: int) -> Record | None:
        """The first record at or after `offset`; None where only markers follow."""
        self._consumer.assign([TopicPartition(*partition, offset)])
        while True:
            messages = drain(self._consumer, 1, CALL_TIMEOUT_S)
            polled = sort_out(messages, self._on_error)
            if polled.records:
                return polled.records[0]
            if polled.ends:
                return None
            if not messages:
                raise TidemillError(
                    f"reading {partition[0]}: no answer within {CALL_TIMEOUT_S:g} s", hint="check that Kafka runs"
                )

    def close(self) -> None:
        self._consumer.close()

    def _assign(self) -> None:
        self._ended.clear()
        self._ends_seen.clear()
        self._consumer.assign(
            [TopicPartition(*partition, _first(self._start, partition)) for partition in self.partitions]
        )

    def _all(self, topics: Sequence[str]) -> tuple[Partition, ...]:
        return tuple((topic, number) for topic in topics for number in partition_numbers(self._consumer, topic))

    def _on_error(self, error: KafkaError, message: Message) -> None:
        if not harmless(error):
            raise refused(f"reading {message.topic() or 'topics'}", error)


def partition_numbers(consumer: Consumer, topic: str) -> list[int]:
    """The partitions of one topic. Raises TidemillError if it does not exist."""
    try:
        metadata = consumer.list_topics(topic, timeout=CALL_TIMEOUT_S).topics[topic]
    except KafkaException as exception:
        raise refused(f"asking for topic {topic}", error_of(exception)) from None
    if metadata.error is not None:
        raise TidemillError(f"topic {topic} does not exist", hint="`tidemill topics apply` creates a pipeline's topics")
    return sorted(metadata.partitions)


def _first(start: Start, partition: Partition) -> int:
    if start == "earliest":
        return int(OFFSET_BEGINNING)
    if start == "latest":
        return int(OFFSET_END)
    return start.get(partition, int(OFFSET_BEGINNING))
