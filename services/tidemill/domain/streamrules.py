"""What must hold for second streams: fields that nothing else uses, the keys of the stages that join them, a source."""

from collections.abc import Iterator

from tidemill.domain.pipeline import Pipeline, StreamSpec
from tidemill.domain.pipelinerules import RESERVED_FIELDS, Mistake, Path, listed, number_mistakes, repeated

STREAM_FIELD = "stream"
"""What tells a stream's records from events and labels in a topic that carries all of them."""

RESERVED_STREAMS = frozenset(
    {"event", "label", "events", "labels", "features", "predictions", "shadow", "outcomes", "dlq", "state"}
)
"""Kinds of rows and roles of other topics, from which a stream could not be told where people name them."""


def stream_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong with `streams`, and with features that join them as far as keys go."""
    for name, stream in pipeline.streams.items():
        path: Path = ("streams", name)
        if name in RESERVED_STREAMS:
            yield Mistake(path, f"{name!r} is the role of another topic; choose another name")
        yield from _entities(pipeline, name, stream, (*path, "entities"))
        yield from _numbers(pipeline, stream, (*path, "numbers"))
        if not any(source.stream == name for source in pipeline.ingest.sources):
            yield Mistake(path, f"no source of kind stream gives records of {name!r}")
    if pipeline.streams:
        yield from _marker(pipeline)
    yield from _joins(pipeline)


def _entities(pipeline: Pipeline, name: str, stream: StreamSpec, path: Path) -> Iterator[Mistake]:
    known = pipeline.event.entities
    for position, entity in repeated(stream.entities):
        yield Mistake((*path, position), f"the entity {entity!r} is named twice")
    for position, entity in enumerate(stream.entities):
        if entity not in known:
            yield Mistake((*path, position), f"unknown entity {entity!r}; the event has {listed(known)}")
    if known[0] not in stream.entities:
        yield Mistake(path, f"records of {name!r} must carry {known[0]!r}, by which events are keyed: they enter there")


def _numbers(pipeline: Pipeline, stream: StreamSpec, path: Path) -> Iterator[Mistake]:
    taken = {*pipeline.event.entities, *stream.entities}
    for name, number in stream.numbers.items():
        if name in RESERVED_FIELDS or name == STREAM_FIELD:
            yield Mistake((*path, name), f"{name!r} is a field of every record; choose another name")
        if name in taken:
            yield Mistake((*path, name), f"{name!r} is an entity already")
        yield from number_mistakes(number, (*path, name))


def _marker(pipeline: Pipeline) -> Iterator[Mistake]:
    """A pipeline with streams tells records apart by a member that events and labels must not have."""
    message = f"{STREAM_FIELD!r} marks the records of second streams; choose another name"
    event = pipeline.event
    for part, names in (("entities", event.entities), ("categories", event.categories)):
        if STREAM_FIELD in names:
            yield Mistake(("event", part, list(names).index(STREAM_FIELD)), message)
    if STREAM_FIELD in event.numbers:
        yield Mistake(("event", "numbers", STREAM_FIELD), message)
    if pipeline.label.field == STREAM_FIELD:
        yield Mistake(("label", "field"), message)
    for position, source in enumerate(pipeline.ingest.sources):
        if STREAM_FIELD in source.fields:
            yield Mistake(("ingest", "sources", position, "fields", STREAM_FIELD), message)


def _joins(pipeline: Pipeline) -> Iterator[Mistake]:
    """A record passes every stage up to the last that joins its stream, keyed by the entity of each."""
    entities = [stage.entity for stage in pipeline.features.stages]
    for at, stage in enumerate(pipeline.features.stages):
        for position, feature in enumerate(stage.features):
            stream = pipeline.streams.get(feature.stream or "")
            lacking = [entity for entity in entities[: at + 1] if stream and entity not in stream.entities]
            if stream is None or not lacking:
                continue
            way = f"is keyed by {stage.entity!r}" if stage.entity in lacking else f"comes behind {listed(lacking)}"
            yield Mistake(
                ("features", "stages", at, "features", position, "stream"),
                f"records of {feature.stream!r} do not carry {listed(lacking)}, and this stage {way}; "
                f"streams.{feature.stream}.entities has {listed(stream.entities)}",
            )
