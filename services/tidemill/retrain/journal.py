"""Reads what was decided, published and alarmed so far: the truth that the service starts from."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from tidemill.domain.model import decode
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError
from tidemill.retrain.catalogue import Catalogue
from tidemill.retrain.core.records import decode_decision, decode_drift
from tidemill.retrain.core.situation import Situation
from tidemill.retrain.outcomes import OpenReader
from tidemill.runtime.logs import get_logger
from tidemill.runtime.service import Record


@dataclass(slots=True)
class Journal:
    """The folded topics, and how many records of each were unusable."""

    situation: Situation = field(default_factory=Situation)
    catalogue: Catalogue = field(default_factory=Catalogue)
    unusable: dict[str, int] = field(default_factory=dict)


def read_journal(pipeline: Pipeline, public_key: bytes, open_reader: OpenReader) -> Journal:
    """Decisions, models and drift to their ends. Blocks. An unreadable record is logged, counted and passed over."""
    journal = Journal()
    log = get_logger("journal")

    def pass_over(record: Record, error: RecordError) -> None:
        journal.unusable[record.topic] = journal.unusable.get(record.topic, 0) + 1
        log.warning("unusable_record", topic=record.topic, offset=record.offset, reason=str(error))

    def each(role: str) -> Iterator[Record]:
        return _to_the_end(open_reader, pipeline.topic(role))

    for record in each("decisions"):
        try:
            journal.situation.fold_decision(decode_decision(record.value or b""))
        except RecordError as error:
            pass_over(record, error)
    for record in each("models"):
        if record.value is None:
            continue
        try:
            journal.catalogue.fold(decode(record.value, public_key))
        except RecordError as error:
            pass_over(record, error)
    for record in each("drift"):
        try:
            journal.situation.fold_drift(decode_drift(record.value or b""), record.offset)
        except RecordError as error:
            pass_over(record, error)
    journal.situation.known_version = max(journal.situation.known_version, journal.catalogue.newest_version)
    return journal


def _to_the_end(open_reader: OpenReader, topic: str) -> Iterator[Record]:
    with closing(open_reader(topic)) as reader:
        while not reader.at_end():
            yield from reader.poll(1_000, 0.2)
