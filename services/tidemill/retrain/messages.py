"""Jobs for the training process and its reports: one JSON object a line over its standard input and output."""

from typing import Any

import msgspec

from tidemill.domain.model import Golden, Reference, TensorSpec
from tidemill.retrain.core.gates import Measurements


class TrainJob(msgspec.Struct, frozen=True, kw_only=True, tag="train"):
    """Train on outcomes of events in [train_from, train_to), hold out [train_to, holdout_to)."""

    version: int
    train_from: int
    train_to: int
    holdout_to: int
    seed: int


class StoredModel(msgspec.Struct, frozen=True):
    """A published artefact, to be fetched from the model-chunks topic."""

    version: int
    sha256: str
    size: int
    chunks: int


class CompareJob(msgspec.Struct, frozen=True, kw_only=True, tag="compare"):
    """Compare a challenger with the scores that `incumbent` (None: the rule) gave live, on outcomes of events in
    [from_ms, to_ms).

    The challenger's scores are those of its shadow phase; or, with `rescore`, what that model says of the same rows
    now. With `span_ms`, exactly so much time from the first row on is compared, or nothing yet.
    """

    challenger: int
    incumbent: int | None
    from_ms: int
    to_ms: int
    span_ms: int | None
    limit: float
    seed: int
    rescore: StoredModel | None = None


Job = TrainJob | CompareJob


class Artefact(msgspec.Struct, frozen=True):
    """A trained model as a file of the data folder, with what a manifest says of it."""

    path: str
    sha256: str
    size: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: Golden
    reference: Reference


class TrainReport(msgspec.Struct, frozen=True, kw_only=True, tag="trained"):
    """What training found. Without an artefact the data did not allow a training at all."""

    rows: int
    positives: int
    dataset_sha256: str
    offsets: dict[str, tuple[int, int]]
    measured: Measurements
    metrics: dict[str, Any]
    artefact: Artefact | None


class CompareReport(msgspec.Struct, frozen=True, kw_only=True, tag="compared"):
    """`comparison` is None while rows do not span the wanted time; `complete_at` is then the watermark to ask again at,
    if a first row was there."""

    comparison: dict[str, Any] | None
    complete_at: int | None = None


class JobRefused(msgspec.Struct, frozen=True, tag="refused"):
    """The job cannot be done, for a known cause; asking again may help (Kafka was away) or not."""

    reason: str


Report = TrainReport | CompareReport | JobRefused

_JOBS: msgspec.json.Decoder[Job] = msgspec.json.Decoder(Job)
_REPORTS: msgspec.json.Decoder[Report] = msgspec.json.Decoder(Report)


def encode_line(message: Job | Report) -> bytes:
    return msgspec.json.encode(message) + b"\n"


def decode_job(line: bytes) -> Job:
    return _JOBS.decode(line)


def decode_report(line: bytes) -> Report:
    return _REPORTS.decode(line)
