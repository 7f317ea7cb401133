"""What must hold between a pipeline file and the contracts in schemas/: the record schemas and the topics."""

from collections.abc import Iterator

from tidemill.domain.pipeline import Pipeline, SourceSpec
from tidemill.domain.pipelinerules import Mistake, listed
from tidemill.runtime.topics import USER, plan
from tidemill_schemas import Document, SchemaNotFoundError, load_schema


def contract_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything in a well-formed `pipeline` that its contracts do not allow."""
    schemas: dict[str, Document] = {}
    for kind, name in (("event", pipeline.event.schema_name), ("label", pipeline.label.schema_name)):
        try:
            schemas[kind] = load_schema(name)
        except SchemaNotFoundError as error:
            yield Mistake((kind, "schema"), str(error))
    written = {topic.name: topic.owner for topic in plan(pipeline) if topic.owner != USER}
    for position, source in enumerate(pipeline.ingest.sources):
        if source.topic in written:
            yield Mistake(
                ("ingest", "sources", position, "topic"),
                f"{source.topic!r} is a topic that {written[source.topic]} writes; a source needs one of its own",
            )
        if source.kind in schemas:
            yield from _fields(position, source, schemas[source.kind])


def _fields(position: int, source: SourceSpec, schema: Document) -> Iterator[Mistake]:
    known = [name for name in schema.get("properties", {}) if name != "v"]
    if schema.get("additionalProperties") is False:
        for name in source.fields:
            if name not in known and name != "v":
                yield Mistake(
                    ("ingest", "sources", position, "fields", name),
                    f"the {source.kind}'s schema has no field {name!r}; it has {listed(known)}",
                )
