"""What the first stage reads, from its topics: a range of offsets a partition, in the order of the first stage."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.features.offline.bounds import Bound
from tidemill.features.offline.items import Item, lane, merged
from tidemill.features.offline.reach import look_back_ms, reaches_beginning, reads_labels, whole_from
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

DISORDER_MS = DAY_MS
"""A log whose timestamps step back further than this is read wrongly from a start that is found by time."""

_POLL_RECORDS = 5_000
_POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class Connection:
    """Which Kafka, with further librdkafka settings."""

    bootstrap_servers: str
    options: Mapping[str, str] = field(default_factory=dict)

    def reader(
        self, topics: Sequence[str], start: Mapping[Partition, int] | None = None, only: int | None = None
    ) -> TopicReader:
        return TopicReader(
            self.bootstrap_servers,
            topics,
            options=self.options,
            start="earliest" if start is None else start,
            only=None if only is None else {only},
        )


@dataclass(frozen=True, slots=True)
class LaneRange:
    """What to read of one partition of one topic: from `start`, to before `end` or the first record of `until`.

    Records from `wanted_from` on, or from the first one of `wanted_since`, are wanted; those before fill windows.
    """

    topic: str
    role: str
    partition: int
    start: int
    end: int
    wanted_from: int = 0
    wanted_since: int | None = None
    until: int | None = None

    @property
    def name(self) -> str:
        return f"{self.role}/{self.partition}"


@dataclass(frozen=True, slots=True)
class TopicInput:
    """The first stage's input: by partition number, one range a topic. Small; travels to other processes.

    `whole_from` is the event time from which vectors have all that they look back to, as `reach.whole_from` says.
    """

    connection: Connection
    ranges: tuple[tuple[LaneRange, ...], ...]
    whole_from: int | None = 0

    @property
    def partitions(self) -> int:
        return len(self.ranges)

    def open(self, partition: int, stopped_at: dict[str, int]) -> Iterator[Item]:
        """The merged input of one partition; while it is read, `stopped_at` gets the offset behind each range."""
        lanes = []
        for rank, wanted in enumerate(self.ranges[partition]):
            lanes.append(lane(_read(self.connection, wanted, stopped_at), rank, partition))
        return merged(lanes)


def topic_input(pipeline: Pipeline, connection: Connection, start: Bound | None, end: Bound | None) -> TopicInput:
    """Settles the ranges: the ends are those of this moment. Raises ConfigurationError for offsets outside the logs.

    A start by time begins to read as much earlier as the longest look-back, where the look-back ends; that and one by
    offsets else from the beginning.
    """
    topics = {topic: role for role, topic in pipeline.first_topics().items()}
    with closing(connection.reader(list(topics))) as reader:
        marks = reader.watermarks()
        early: Mapping[Partition, int] = {}
        firsts = reader.first_timestamps()
        if start is not None and start.time is not None and not reaches_beginning(pipeline):
            early = reader.offsets_for_time(start.time - look_back_ms(pipeline) - DISORDER_MS)
    numbers = {topic: sorted(number for name, number in marks if name == topic) for topic in topics}
    if len({tuple(of_topic) for of_topic in numbers.values()}) > 1:
        raise ConfigurationError(
            f"{' and '.join(topics)} have different numbers of partitions",
            hint="A stage joins partitions by number; `tidemill topics plan` shows what they should be.",
        )
    names = {f"{topics[topic]}/{number}": (topic, number) for topic, number in marks}
    for option, bound in (("--from", start), ("--to", end)):
        if bound is not None and bound.offsets:
            _check_offsets(option, bound, names, {name: marks[at] for name, at in names.items()})
    ranges: list[list[LaneRange]] = [[] for _ in next(iter(numbers.values()))]
    for topic, role in topics.items():
        for number in numbers[topic]:
            name, (low, high) = f"{role}/{number}", marks[topic, number]
            ranges[number].append(
                LaneRange(
                    topic=topic,
                    role=role,
                    partition=number,
                    start=early.get((topic, number), low),
                    end=high if end is None else end.offsets.get(name, high),
                    wanted_from=0 if start is None else start.offsets.get(name, 0),
                    wanted_since=None if start is None else start.time,
                    until=None if end is None else end.time,
                )
            )
    asked = [first for (topic, _), first in firsts.items() if topics[topic] != "labels" or reads_labels(pipeline)]
    return TopicInput(connection, tuple(tuple(lanes) for lanes in ranges), whole_from(pipeline, asked))


def _check_offsets(
    option: str, bound: Bound, names: Mapping[str, Partition], marks: Mapping[str, tuple[int, int]]
) -> None:
    missing = sorted(names.keys() - bound.offsets.keys())
    unknown = sorted(bound.offsets.keys() - names.keys())
    if missing or unknown:
        said = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"names {', '.join(unknown)}"] * bool(unknown)
        raise ConfigurationError(
            f"{option} {' and '.join(said)}", hint=f"Give one offset for each of {', '.join(sorted(names))}."
        )
    for name, offset in bound.offsets.items():
        low, high = marks[name]
        if not low <= offset <= high:
            raise ConfigurationError(
                f"{option}: {name}={offset} lies outside the log, which holds {low} to {high}",
                hint="Offsets are exclusive ends and inclusive starts, as a backfill prints its position.",
            )


def _read(connection: Connection, wanted: LaneRange, stopped_at: dict[str, int]) -> Iterator[Item]:
    at = (wanted.topic, wanted.partition)
    passed = False
    stopped_at[wanted.name] = wanted.end
    if wanted.start >= wanted.end:
        return
    with closing(connection.reader([wanted.topic], {at: wanted.start}, wanted.partition)) as reader:
        for record in _until(reader.poll, lambda: reader.at_end() or reader.has_passed({at: wanted.end})):
            if record.offset >= wanted.end:
                return
            if wanted.until is not None and record.timestamp >= wanted.until:
                stopped_at[wanted.name] = record.offset
                return
            passed = passed or (
                record.offset >= wanted.wanted_from
                and (wanted.wanted_since is None or record.timestamp >= wanted.wanted_since)
            )
            yield Item(0, 0, 0, passed, record.timestamp, record.key, record.value)


def _until(poll: Callable[[int, float], list[Record]], over: Callable[[], bool]) -> Iterator[Record]:
    while True:
        records = poll(_POLL_RECORDS, _POLL_S)
        yield from records
        if not records and over():
            return
