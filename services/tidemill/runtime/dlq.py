"""Dead letters: the original bytes, and headers that Kafka Connect's tools understand."""

from tidemill.runtime.service import DeadLetter, OutRecord, Record

PREFIX = "__connect.errors."
CODE = "tidemill.code"
SERVICE = "tidemill.service"


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

    A record that was dead once before carries two stories; the last one counts. Raises KeyError if it carries none.
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
