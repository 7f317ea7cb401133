"""The intakes of a pipeline's sources, by the topic that they read and by the name that HTTP clients use."""

from collections.abc import Mapping
from typing import NamedTuple

from tidemill.domain.pipeline import Pipeline
from tidemill.ingest.core.intake import Intake
from tidemill.ingest.core.validation import CanonicalSchema
from tidemill_schemas import load_schema

STREAM_SCHEMA = "stream-record"
"""The schema of the records of every second stream; what else they hold, the pipeline file says."""


class Intakes(NamedTuple):
    by_topic: Mapping[str, Intake]
    by_name: Mapping[str, Intake]
    """Of the sources that accept HTTP."""


def open_intakes(pipeline: Pipeline, *, refuse_duplicate_keys: bool = False) -> Intakes:
    """Compile every source. Raises ConfigurationError if a mapping and its schema cannot work together."""
    names = {"event": pipeline.event.schema_name, "label": pipeline.label.schema_name, "stream": STREAM_SCHEMA}
    schemas = {kind: CanonicalSchema(name, load_schema(name, 1)) for kind, name in names.items()}
    by_topic: dict[str, Intake] = {}
    by_name: dict[str, Intake] = {}
    for source in pipeline.ingest.sources:
        intake = Intake(pipeline, source, schemas[source.kind], refuse_duplicate_keys=refuse_duplicate_keys)
        if source.topic is not None:
            by_topic[source.topic] = intake
        if source.http:
            by_name[source.name] = intake
    return Intakes(by_topic, by_name)
