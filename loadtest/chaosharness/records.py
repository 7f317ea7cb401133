"""What the audit decodes of each record, and which part of a record the next stage must carry on unchanged. Pure."""

import msgspec

BEFORE_FEATURES = b',"fs":"'
"""Where the first feature stage begins to write into an event."""
BEFORE_SCORE = b',"status":"'
"""Where inference begins to write into a vector's record."""
BEFORE_TRUTH = b',"label":'
"""Where the outcomes begin to write into a prediction."""


class Identified(msgspec.Struct, gc=False):
    """What every record behind ingest has."""

    id: str
    event_time: int
    customer: str
    terminal: str


class Event(Identified, gc=False):
    amount: float


class Label(Identified, gc=False):
    known_at: int
    fraud: int


class Vector(Identified, gc=False):
    features: list[float | None]


class Scored(Identified, gc=False):
    model_version: int | None
    outputs: dict[str, float]
    decision: str


class Judged(Identified, gc=False):
    label: int | None
    label_status: str
    known_at: int | None
    shadow: dict[str, float] | None


IDENTIFIED = msgspec.json.Decoder(Identified)
EVENT = msgspec.json.Decoder(Event)
LABEL = msgspec.json.Decoder(Label)
VECTOR = msgspec.json.Decoder(Vector)
SCORED = msgspec.json.Decoder(Scored)
JUDGED = msgspec.json.Decoder(Judged)


def before(value: bytes, member: bytes) -> int:
    """Hash of the record up to the last place of `member`, which a later stage wrote; 0, like no record's, without."""
    end = value.rfind(member)
    return hash(value[:end]) if end >= 0 else 0


def without_brace(value: bytes) -> int:
    """Hash of the record as a stage that writes into it must carry it on."""
    return hash(value[:-1])
