"""One source's whole path in one object: bytes → decoded → cleaned → valid → the record to append."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from tidemill.domain.pipeline import Pipeline, SourceSpec
from tidemill.domain.streamrules import STREAM_FIELD
from tidemill.errors import ConfigurationError
from tidemill.ingest.core.cleaning import compile_cleaner
from tidemill.ingest.core.decoding import Decoder
from tidemill.ingest.core.faults import FieldError
from tidemill.ingest.core.validation import CanonicalSchema


class Accepted(NamedTuple):
    """A canonical record, ready to append to `topic` with its key and Kafka timestamp."""

    topic: str
    key: bytes
    value: bytes
    timestamp: int


class Intake:
    """Takes records of one source. Pure: the clock's value is passed in; safe to share between threads."""

    def __init__(
        self, pipeline: Pipeline, source: SourceSpec, schema: CanonicalSchema, *, refuse_duplicate_keys: bool = False
    ) -> None:
        _check_agreement(pipeline, source, schema)
        self.name = source.name
        self.decoder = Decoder(
            pipeline.ingest.max_record_bytes,
            source.version_field,
            source.versions,
            refuse_duplicate_keys=refuse_duplicate_keys,
        )
        optional = source.fields.keys() - schema.required if schema.required else ()
        self._cleaner = compile_cleaner(pipeline, source, optional)
        self._schema = schema
        self._sources = {name: field.source or name for name, field in source.fields.items()}
        self._topic = _topic(pipeline, source)
        self._entity = pipeline.primary_entity
        self._time = "known_at" if source.kind == "label" else "event_time"

    def take(self, raw: bytes | None, now_ms: int) -> Accepted:
        """The record to append. Raises RecordError for the first fault."""
        record = self._cleaner.clean(self.decoder.decode(raw), now_ms)
        if not self._schema.is_valid(record):
            raise self._schema.faults(record, self._sources)[0]
        return self._accepted(record)

    def inspect(self, document: object, now_ms: int) -> Accepted | list[FieldError]:
        """The record to append, or every fault of a record that is parsed already."""
        try:
            known = self.decoder.check_object(document)
        except FieldError as fault:
            return [fault]
        faults = self._cleaner.faults(known, now_ms)
        if faults:
            return faults
        record = self._cleaner.clean(known, now_ms)
        return self._accepted(record) if self._schema.is_valid(record) else self._schema.faults(record, self._sources)

    def _accepted(self, record: Mapping[str, Any]) -> Accepted:
        return Accepted(self._topic, record[self._entity].encode(), orjson.dumps(record), record[self._time])


def _topic(pipeline: Pipeline, source: SourceSpec) -> str:
    if source.stream is not None:
        return pipeline.stream_topic(source.stream)
    return pipeline.topic("events" if source.kind == "event" else "labels")


def _check_agreement(pipeline: Pipeline, source: SourceSpec, schema: CanonicalSchema) -> None:
    """A mapping that cannot give one valid record is a mistake to tell at start, not once a record."""
    unknown = sorted(source.fields.keys() - schema.properties) if schema.closed else []
    absent = sorted(schema.required - source.fields.keys() - {"v", STREAM_FIELD})
    said = [f"the schema {schema.name} knows no field {name}" for name in unknown]
    said += [f"the schema {schema.name} requires {name}" for name in absent]
    if said:
        raise ConfigurationError(
            f"source {source.name} of pipeline {pipeline.name} cannot be used: {'; '.join(said)}",
            hint="Make the source's fields and the schema agree.",
        )
