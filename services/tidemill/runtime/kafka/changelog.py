"""Reads a compacted changelog from its low watermark past every record below its high one.

Position = high watermark never comes true by records alone, because control records sit at the end; and the first end
of a partition under read_committed is the last stable offset, behind which a former owner's transaction may still be
open. So the end counts only once its offset has reached the high watermark.
"""

from collections.abc import Callable, Mapping

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from tidemill import clock
from tidemill.errors import StateCorrupt
from tidemill.runtime.kafka.records import drain, harmless, sort_out
from tidemill.runtime.kafka.settings import Settings, refused
from tidemill.runtime.kafka.standby import Copy
from tidemill.runtime.ports import Partition, Watermarks

_SILENCE_S = 60.0
"""Longer than any transaction's time-out: if nothing moves for so long, nothing will."""


def read_changelog(
    settings: Settings,
    marks: Mapping[Partition, Watermarks],
    progress: Callable[[int, int], None],
    keep_on: Callable[[], bool],
    copies: Mapping[int, Copy] | None = None,
) -> dict[int, dict[bytes, bytes]]:
    """Latest value of each key, by partition number; deleted keys are left out. All partitions are of one topic.

    `copies` holds what a standby has read of some of them already; it is used up.
    """
    held: dict[Partition, Copy] = {}
    for partition, mark in marks.items():
        copy = (copies or {}).get(partition[1])
        usable = copy is not None and mark.low <= copy.position <= mark.high  # else of a topic that was made anew
        held[partition] = copy if copy is not None and usable else Copy(position=mark.low)
    latest = {number: copy.latest for (_, number), copy in held.items()}
    waiting = {partition: mark for partition, mark in marks.items() if mark.high > held[partition].position}
    begins = {partition: held[partition].position for partition in waiting}
    total = sum(marks[partition].high - begin for partition, begin in begins.items())
    if not waiting:
        return latest
    consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
    try:
        consumer.assign([TopicPartition(*partition, begin) for partition, begin in begins.items()])
        last_news = clock.monotonic()
        while waiting:
            if not keep_on():
                raise InterruptedError
            polled = sort_out(drain(consumer, 5_000, 0.2), _raise_unless_harmless)
            if polled.records or polled.ends:
                last_news = clock.monotonic()
            elif clock.monotonic() - last_news > _SILENCE_S:
                raise StateCorrupt(
                    f"the changelog ends before its high watermark: {_describe(waiting, held)}",
                    hint="a transaction on it never ends; see the broker's log and kafka-transactions.sh find-hanging",
                )
            for record in polled.records:
                held[record.topic, record.partition].apply(record)
            for partition, offset in polled.ends.items():
                held[partition].reach(offset)
            for partition in [p for p, mark in waiting.items() if held[p].position >= mark.high]:
                del waiting[partition]
            progress(sum(min(held[p].position, marks[p].high) - begin for p, begin in begins.items()), total)
    finally:
        consumer.close()
    return latest


def _describe(waiting: Mapping[Partition, Watermarks], held: Mapping[Partition, Copy]) -> str:
    return ", ".join(
        f"{topic}/{number} at {held[topic, number].position} of {mark.high}"
        for (topic, number), mark in waiting.items()
    )


def _raise_unless_harmless(error: KafkaError, message: Message) -> None:
    if not harmless(error):
        raise refused(f"restoring from {message.topic()}", error)
