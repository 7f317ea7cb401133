"""What each stage has not processed yet, by its group's committed offsets and the ends of its input topics.

The services' own gauges are up to a second old and know nothing of a service that stands still. Offsets alone say too
much: the markers of transactions have offsets too, and a record that waits for its time (outcomes are written when
their predictions have matured) is not behind. So where little is left by offsets, the records that are left are read.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass

from tidemill.domain.pipeline import Pipeline
from tidemill.features.config import OUTCOMES_STAGE
from tidemill.features.process import service_spec as features_spec
from tidemill.inference.process import service_spec as inference_spec
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.kafka import TopicReader, group_offsets
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import Record

Offsets = Mapping[Partition, int]
_FEW = 5_000
_TAIL = 100
"""Offsets at a partition's end; they hold a record whatever markers there are, and the newest by a little."""


@dataclass(frozen=True)
class Reading:
    """The consumer group of one service, and what it reads."""

    service: str
    group: str
    inputs: tuple[InputTopic, ...]


def readings(pipeline: Pipeline) -> list[Reading]:
    """Of every service but retraining, each behind those that write what it reads."""
    sources = dict.fromkeys(source.topic for source in pipeline.ingest.sources if source.topic)
    stages = [stage.entity for stage in pipeline.features.stages]
    of_features = {stage: features_spec(pipeline, stage) for stage in [*stages, OUTCOMES_STAGE]}
    inference = inference_spec(pipeline)
    outcomes = of_features.pop(OUTCOMES_STAGE)
    drift = InputTopic(pipeline.topic("predictions")), InputTopic(pipeline.topic("outcomes"))
    return [
        Reading("ingest", f"{pipeline.name}-ingest", tuple(map(InputTopic, sources))),
        *(Reading(f"features-{stage}", spec.group, spec.inputs) for stage, spec in of_features.items()),
        Reading("inference", inference.group, inference.inputs),
        Reading(f"features-{OUTCOMES_STAGE}", outcomes.group, outcomes.inputs),
        Reading("drift", f"{pipeline.name}-drift", drift),
    ]


def by_offsets(bootstrap_servers: str, reading: Reading) -> int:
    """Offsets between what is committed and the ends, of topics whose records need not wait. Never less than the
    records that are left: markers count, and so does what is written while this asks, for it asks for the ends last."""
    topics = [topic.name for topic in reading.inputs if topic.delay_ms == 0]
    with closing(TopicReader(bootstrap_servers, topics, start="latest")) as reader:
        low = {at: mark.low for at, mark in reader.watermarks().items()}
        done = low | group_offsets(bootstrap_servers, {}, reading.group, list(low))
        return sum(distances(done, reader.end_offsets()).values())


def first_behind(bootstrap_servers: str, pipeline: Pipeline) -> tuple[str, int] | None:
    """The first service, in the order of the stream, that has not processed all that it may, and how much is left;
    None where all have. Once nothing is sent, behind a stage that is through nothing new comes but what its last
    transaction's markers, written within moments of its offsets', make visible: None counts when it is said twice."""
    for reading in readings(pipeline):
        left = by_offsets(bootstrap_servers, reading)
        if left <= _FEW:
            left = by_records(bootstrap_servers, reading)
        if left:
            return reading.service, left
    return None


def by_records(bootstrap_servers: str, reading: Reading) -> int:
    """Records that are left and whose time has come. Reads all that is left, so ask when it is little. Meant for a
    stream that has ended: what is written meanwhile is not counted."""
    topics = [topic.name for topic in reading.inputs]
    low, ends = _bounds(bootstrap_servers, topics)
    done = low | group_offsets(bootstrap_servers, {}, reading.group, list(ends))
    left = distances(done, ends)
    if not any(left.values()):
        return 0
    clocks = [at for at in ends if at[0] in {topic.name for topic in reading.inputs if topic.delay_ms == 0}]
    tails = {at: max(low[at], ends[at] - _TAIL) for at in clocks}
    newest = max((record.timestamp for record in _between(bootstrap_servers, tails, ends)), default=None)
    rest = _between(bootstrap_servers, {at: done[at] for at, count in left.items() if count}, ends)
    return due(rest, {topic.name: topic.delay_ms for topic in reading.inputs}, newest)


def distances(done: Offsets, ends: Offsets) -> dict[Partition, int]:
    """Offsets from where each partition is done to its end."""
    return {at: max(0, end - done[at]) for at, end in ends.items()}


def due(records: Iterable[Record], delays_ms: Mapping[str, int], newest_ms: int | None) -> int:
    """How many of `records`, each partition's in order, may not wait any longer. One of a delayed topic waits until a
    timestamp that is newer than the newest of its partition so far, and the delay, has come: `newest_ms`, of all
    undelayed partitions."""
    latest: dict[Partition, int] = {}
    count = 0
    for record in records:
        at, delay_ms = (record.topic, record.partition), delays_ms[record.topic]
        latest[at] = max(record.timestamp, latest.get(at, record.timestamp))
        count += delay_ms == 0 or (newest_ms is not None and latest[at] + delay_ms < newest_ms)
    return count


def _bounds(bootstrap_servers: str, topics: list[str]) -> tuple[dict[Partition, int], dict[Partition, int]]:
    """Where each partition begins and ends. The reader stands at the end: elsewhere it would fetch in vain."""
    with closing(TopicReader(bootstrap_servers, topics, start="latest")) as reader:
        marks = reader.watermarks()
    return {at: mark.low for at, mark in marks.items()}, {at: mark.high for at, mark in marks.items()}


def _between(bootstrap_servers: str, starts: Offsets, ends: Offsets) -> Iterator[Record]:
    """The committed records from `starts` to `ends`, of the partitions of `starts`."""
    for topic in sorted({topic for topic, _ in starts}):
        chosen = {at: start for at, start in starts.items() if at[0] == topic}
        upto = {at: ends[at] for at in chosen}
        numbers = [number for _, number in chosen]
        with closing(TopicReader(bootstrap_servers, [topic], start=chosen, only=numbers)) as reader:
            while not reader.has_passed(upto):
                yield from (record for record in reader.poll(10_000) if record.offset < upto[topic, record.partition])
