"""A backfill as a whole: settle the input, run the chain, hand out vectors and say where the stream takes over."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.features.offline.bounds import Bound, refuse_backwards
from tidemill.features.offline.chain import Chain, Input
from tidemill.features.offline.items import blocks
from tidemill.features.offline.spill import spill_folder
from tidemill.features.offline.stagerun import StageReport
from tidemill.features.offline.topicinput import Connection, topic_input
from tidemill.runtime.topics import plan


@dataclass(frozen=True, slots=True)
class Request:
    """What to compute. `stage` None means all stages; a stage means those up to and including it."""

    pipeline: Pipeline
    stage: str | None = None
    start: Bound | None = None
    end: Bound | None = None
    workers: int = 1
    temp_dir: Path | None = None

    @property
    def last(self) -> int:
        """Index of the last stage to run. Raises ConfigurationError for one that the pipeline does not have."""
        entities = [stage.entity for stage in self.pipeline.features.stages]
        if self.stage is None:
            return len(entities) - 1
        if self.stage not in entities:
            raise ConfigurationError(
                f"pipeline {self.pipeline.name} has no feature stage {self.stage!r}",
                hint=f"its stages are: {', '.join(entities)}",
            )
        return entities.index(self.stage)

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the vector in its order, as far as the stages run."""
        stages = self.pipeline.features.stages[: self.last + 1]
        return tuple(name for stage in stages for feature in stage.features for name in feature.columns)


class Vector(msgspec.Struct, frozen=True, gc=False):
    """One event with its features, as a stage wrote it; None is null."""

    id: str
    event_time: int
    features: list[float | None]
    entities: tuple[str, ...] = ()


@dataclass(slots=True)
class Result:
    """`position` is exclusive: offsets by `role/partition` of a topic, rows by file. `feature_set` is the vectors'.
    Those before the event time `whole_from` may lack what has expired from the topics: 0 none, None all."""

    feature_set: str
    position: Mapping[str, int]
    reports: Mapping[str, StageReport]
    vectors: Iterator[Vector] = field(repr=False)
    whole_from: int | None = 0


Say = Callable[[str, int], None]
Prepare = Callable[[int, Path], tuple[Input, Mapping[str, int]]]
"""(partitions, folder) → the first stage's input, and where it ends if that is known before."""


@contextmanager
def backfill_topics(request: Request, connection: Connection, say: Say) -> Iterator[Result]:
    """From the events and labels of a Kafka. The result's vectors can be read once, inside the context."""
    pipeline = request.pipeline
    refuse_backwards(request.start, request.end)
    source = topic_input(pipeline, connection, request.start, request.end)
    partitions = [source.partitions]
    for index in range(1, request.last + 1):
        with closing(connection.reader([pipeline.topic(pipeline.stage_input_role(index))])) as reader:
            partitions.append(len(reader.partitions))
    with _run(request, partitions, lambda *_: (source, {}), say, source.whole_from) as result:
        yield result


@contextmanager
def backfill_files(request: Request, prepare: Prepare, say: Say) -> Iterator[Result]:
    """From records that `prepare` lays out by partition: the numbers of partitions are those that are planned."""
    refuse_backwards(request.start, request.end)
    planned = {topic.name: topic.partitions for topic in plan(request.pipeline)}
    roles = [request.pipeline.stage_input_role(index) for index in range(request.last + 1)]
    with _run(request, [planned[request.pipeline.topic(role)] for role in roles], prepare, say) as result:
        yield result


@contextmanager
def _run(
    request: Request, partitions: list[int], prepare: Prepare, say: Say, whole_from: int | None = 0
) -> Iterator[Result]:
    stages = [stage.entity for stage in request.pipeline.features.stages]
    with spill_folder("backfill", request.temp_dir) as folder:
        source, position = prepare(partitions[0], folder)
        chain = Chain(request.pipeline, request.last, partitions, folder, request.workers)
        reports, stopped_at = chain.run(source, say)
        yield Result(
            feature_set=feature_set_hash(request.pipeline),
            position={**position, **stopped_at},
            reports=dict(zip(stages, reports, strict=False)),
            vectors=_vectors(request.pipeline, chain),
            whole_from=whole_from,
        )


def _vectors(pipeline: Pipeline, chain: Chain) -> Iterator[Vector]:
    entities = pipeline.event.entities
    # Attributes are numbered because a field of the pipeline may be a Python keyword.
    members: list[tuple[str, Any]] = [("id", str), ("event_time", int), ("features", list[float | None])]
    members += [(f"entity_{at}", str) for at in range(len(entities))]
    rename = {f"entity_{at}": name for at, name in enumerate(entities)}
    decode: Any = msgspec.json.Decoder(msgspec.defstruct("Row", members, rename=rename, gc=False)).decode
    attributes = tuple(rename)
    for item in chain.vectors():
        row = decode(item.value)
        yield Vector(row.id, row.event_time, row.features, tuple(getattr(row, name) for name in attributes))


def columns_of(
    vectors: Iterator[Vector], entities: tuple[str, ...], names: tuple[str, ...], rows: int
) -> Iterator[dict[str, list[Any]]]:
    """Blocks of columns for a file: id, event_time, the entities, then the features."""
    for block in blocks(vectors, rows):
        columns: dict[str, list[Any]] = {
            "id": [vector.id for vector in block],
            "event_time": [vector.event_time for vector in block],
        }
        columns |= zip(entities, map(list, zip(*(vector.entities for vector in block), strict=True)), strict=True)
        columns |= zip(names, map(list, zip(*(vector.features for vector in block), strict=True)), strict=True)
        yield columns
