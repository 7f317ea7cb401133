"""What must hold between a pipeline file and the contracts in schemas/: the record schemas and the topics."""

import re
from collections.abc import Iterator

from tidemill.domain.pipeline import Pipeline, SourceSpec
from tidemill.domain.pipelinerules import Mistake, listed
from tidemill.runtime.topics import USER, TopicDefinition, plan
from tidemill_schemas import Document, SchemaNotFoundError, load_schema

_VERSIONED = re.compile(r"-v([1-9][0-9]{0,5})$")


def contract_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything in a well-formed `pipeline` that its contracts do not allow."""
    schemas: dict[str, Document] = {}
    for kind, name in (("event", pipeline.event.schema_name), ("label", pipeline.label.schema_name)):
        try:
            schemas[kind] = load_schema(name)
        except SchemaNotFoundError as error:
            yield Mistake((kind, "schema"), str(error))
    yield from _topics(pipeline)
    for position, source in enumerate(pipeline.ingest.sources):
        if source.kind in schemas:
            yield from _fields(position, source, schemas[source.kind])


def _topics(pipeline: Pipeline) -> Iterator[Mistake]:
    """Two uses of one topic: each would read the other's records, and one would have the wrong clean-up.

    Another version of the features has topics of its own beside these while it takes over, or is taken over from.
    """
    planned = sorted(plan(pipeline), key=_order)
    taken: dict[str, TopicDefinition] = {}
    for topic in planned:
        other = taken.setdefault(topic.name, topic)
        # Of two sources of one topic it is said where sources are checked.
        if other is not topic and other.owner != USER:
            yield Mistake(topic.place, _shared(topic, f"{other.role}, which {other.owner} writes"))
    ours = {(topic.name, topic.role) for topic in planned}
    numbers = {1, *(int(match[1]) for match in map(_VERSIONED.search, taken) if match)} - {pipeline.features.version}
    for number in sorted(numbers):
        features = pipeline.features.model_copy(update={"version": number})
        theirs = {(topic.name, topic.role) for topic in plan(pipeline.model_copy(update={"features": features}))}
        roles = dict(theirs - ours)
        for topic in planned:
            if topic.name in roles:
                version = f"{roles[topic.name]} of version {number} of the features"
                yield Mistake(topic.place, _shared(topic, version))


def _order(topic: TopicDefinition) -> tuple[bool, list[int]]:
    """Sources last, and else as in the file: of two, the later is the one to change."""
    return topic.owner == USER, [part for part in topic.place if isinstance(part, int)]


def _shared(topic: TopicDefinition, other: str) -> str:
    if topic.owner == USER:
        return f"{topic.name!r} is the topic {other}; a source needs one of its own"
    return f"the topic {topic.name} would be both {topic.role} and {other}; choose another name"


def _fields(position: int, source: SourceSpec, schema: Document) -> Iterator[Mistake]:
    known = [name for name in schema.get("properties", {}) if name != "v"]
    if schema.get("additionalProperties") is False:
        for name in source.fields:
            if name not in known and name != "v":
                yield Mistake(
                    ("ingest", "sources", position, "fields", name),
                    f"the {source.kind}'s schema has no field {name!r}; it has {listed(known)}",
                )
