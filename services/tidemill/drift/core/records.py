"""The records this service reads, as far as it reads them, and the ones it writes."""

from typing import Annotated, Literal, TypeVar

import msgspec

from tidemill.errors import RecordError

Time = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)]
Version = Annotated[int, msgspec.Meta(ge=0, le=1 << 52)] | None
_Read = TypeVar("_Read")


class Prediction(msgspec.Struct, frozen=True, gc=False):
    """The members of a prediction that are compared; the others are skipped unread."""

    v: Literal[1]
    event_time: Time
    fs: str
    features: list[float | None]
    status: Literal["ok", "no_model"]
    model_version: Version
    outputs: dict[str, float]


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The members of an outcome that performance is measured by; `label` None is censored."""

    v: Literal[1]
    event_time: Time
    status: Literal["ok", "no_model"]
    model_version: Version
    outputs: dict[str, float]
    label: Annotated[int, msgspec.Meta(ge=0, le=1)] | None


class Alarm(msgspec.Struct, frozen=True, kw_only=True, tag="alarm", tag_field="kind"):
    """A detector found a change worth an alarm; `rows` live values of this generation led to it."""

    v: Literal[1] = 1
    id: str
    at: int
    policy: Literal["drift", "performance"]
    detector: str
    generation: int
    model_version: Version
    reference: float
    current: float
    effect: float
    rows: int
    reason: str


class Window(msgspec.Struct, frozen=True, rename={"from_ms": "from", "to_ms": "to"}):
    """How what was live ranked the labelled outcomes with event times in [from, to)."""

    from_ms: int
    to_ms: int
    rows: int
    positives: int
    average_precision: float | None


class Statistics(msgspec.Struct, frozen=True, kw_only=True, tag="statistics", tag_field="kind"):
    """The learning loop's clock: outcomes with event_time < `watermark` have matured.

    `outcomes` and `positives` count labelled ones since the stream began; `alarms` those of this generation so far.
    """

    v: Literal[1] = 1
    id: str
    at: int
    watermark: int
    outcomes: int
    positives: int
    model_version: Version
    window: Window
    alarms: int


class Generation(msgspec.Struct, frozen=True, kw_only=True, tag="generation", tag_field="kind"):
    """Every detector began anew; `watched` is how many there are."""

    v: Literal[1] = 1
    id: str
    at: int
    generation: int
    model_version: Version
    watched: int
    reason: str


Drift = Alarm | Statistics | Generation

_predictions = msgspec.json.Decoder(Prediction)
_outcomes = msgspec.json.Decoder(Outcome)
_encoder = msgspec.json.Encoder()


def decode_prediction(value: bytes | None) -> Prediction:
    """Raises RecordError `bad_record`."""
    return _decode(_predictions, value)


def decode_outcome(value: bytes | None) -> Outcome:
    """Raises RecordError `bad_record`."""
    return _decode(_outcomes, value)


def encode_drift(record: Drift) -> bytes:
    """The value for the drift topic. Every number in it is finite."""
    return _encoder.encode(record)


def _decode(decoder: msgspec.json.Decoder[_Read], value: bytes | None) -> _Read:
    try:
        return decoder.decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise RecordError("bad_record", str(error)) from error
