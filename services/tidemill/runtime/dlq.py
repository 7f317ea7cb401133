"""Dead letters: the original bytes, and headers that Kafka Connect's tools understand.

A letter that is put back where it came from (`tidemill dlq replay`) carries, behind its own headers, how often that was
done and for which stage: others that read the same topic took the record when it first came.
"""

import re
from collections.abc import Iterable, Sequence

from tidemill.runtime.service import DeadLetter, OutRecord, Record

PREFIX = "__connect.errors."
CODE = "tidemill.code"
SERVICE = "tidemill.service"
ATTEMPT = "tidemill.attempt"
"""How many times the record was put back, in decimal digits."""
ADDRESSEE = "tidemill.for"
"""The only stage that takes the record, as `stage_address` names it."""


def to_record(dead: DeadLetter, dlq_topic: str, service: str) -> OutRecord:
    """The record for the dead-letter topic: key, value, timestamp and headers of the original, plus its story."""
    original = dead.record
    story = {
        f"{PREFIX}topic": original.topic,
        f"{PREFIX}partition": str(original.partition),
        f"{PREFIX}offset": str(original.offset),
        f"{PREFIX}stage": service,
        f"{PREFIX}exception.class.name": f"tidemill.{dead.code}",
        f"{PREFIX}exception.message": dead.message,
        CODE: dead.code,
        SERVICE: service,
    }
    headers = (*original.headers, *((name, text.encode()) for name, text in story.items()))
    return OutRecord(dlq_topic, original.key, original.value, original.timestamp, headers=headers)


def to_letter(record: Record) -> tuple[DeadLetter, str]:
    """The letter inside a record of the dead-letter topic, and the service that wrote it.

    A record that was dead once before carries two stories; the last one counts. Raises KeyError if it carries none,
    ValueError if its partition or offset is no number.
    """
    last = {name: index for index, (name, _) in enumerate(record.headers)}
    story = {name: record.headers[index][1].decode(errors="replace") for name, index in last.items()}
    first = last[f"{PREFIX}topic"]
    original = Record(
        story[f"{PREFIX}topic"],
        int(story[f"{PREFIX}partition"]),
        int(story[f"{PREFIX}offset"]),
        record.timestamp,
        record.key,
        record.value,
        record.headers[:first],
    )
    return DeadLetter(original, story[CODE], story[f"{PREFIX}exception.message"]), story[SERVICE]


def stage_of(service: str) -> str:
    """`features-customer-v2` → `features-customer`: a later feature-set version does the work of the one before."""
    return re.sub(r"-v\d+$", "", service)


def stage_address(pipeline: str, service: str) -> str:
    """A stage of a pipeline, whatever its feature-set version; two pipelines may read one source topic."""
    return f"{pipeline}-{stage_of(service)}"


def for_stage(records: Sequence[Record], address: str) -> Sequence[Record]:
    """Those that are not addressed to another stage."""
    for record in records:
        if record.headers:
            return [record for record in records if not record.headers or _is_for(record.headers, address)]
    return records


def _is_for(headers: Iterable[tuple[str, bytes]], address: str) -> bool:
    return all(value == address.encode() for name, value in headers if name == ADDRESSEE)
