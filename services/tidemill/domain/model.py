"""The records that publish a model: signed manifests, activations, and the chunks of its bytes.

On `<pipeline>-models` (compacted) `{model}/{version}` holds a manifest and `{model}/activation` says which version
serves. On `<pipeline>-model-chunks` `{model}/{version}/{i}` holds raw bytes. Chunks are written before their manifest,
a manifest before an activation that names it. Readers tolerate unknown members; the signature covers those too.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tidemill.domain.signing import sign_record, verify_record
from tidemill.errors import RecordError

CHUNK_BYTES = 512 * 1024
QUANTILES = 101
"""Reference quantiles a feature: the 0th to the 100th percentile of the training rows."""

_MOST_DIGITS = 18

Vector = tuple[float | None, ...]


class TensorSpec(msgspec.Struct, frozen=True):
    """One graph input or output; `shape` has −1 for a dynamic axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class Training(msgspec.Struct, frozen=True, rename={"from_ms": "from", "to_ms": "to"}):
    """The rows that made the model: event times in [from, to), offsets `topic/partition` → [low, high)."""

    from_ms: int
    to_ms: int
    rows: int
    positives: int
    dataset_sha256: str
    offsets: dict[str, tuple[int, int]]
    seed: int
    policy: str
    trigger: str


class GateResult(msgspec.Struct, frozen=True):
    """What one gate measured, and the limit it was held to (None where the gate is a yes or no)."""

    name: str
    passed: bool
    value: float | None
    limit: float | None


class Reference(msgspec.Struct, frozen=True):
    """How the training rows looked, for drift: 101 quantiles a feature (nulls left out) and a seeded sample of rows."""

    quantiles: dict[str, tuple[float, ...]]
    sample: tuple[Vector, ...]


class Golden(msgspec.Struct, frozen=True):
    """Inputs with the outputs the graph must give within `tolerance` before it may serve."""

    inputs: tuple[Vector, ...]
    outputs: tuple[float, ...]
    tolerance: float


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a reader needs to check, load and watch one model version."""

    v: Literal[1] = 1
    kind: Literal["manifest"] = "manifest"
    name: str
    version: int
    sha256: str
    size: int
    chunks: int
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    feature_set: str
    features: tuple[str, ...]
    training: Training
    metrics: dict[str, Any]
    gates: tuple[GateResult, ...]
    reference: Reference
    golden: Golden
    created_at: int


class Activation(msgspec.Struct, frozen=True, kw_only=True):
    """Which versions serve from now on; the one with the greatest `epoch` holds. A rollback names an older version."""

    v: Literal[1] = 1
    kind: Literal["activation"] = "activation"
    name: str
    epoch: int
    champion: int | None
    challenger: int | None
    at: int
    reason: str
    decision: str


def encode(record: Manifest | Activation, private_key: bytes) -> bytes:
    """The signed value for the models topic."""
    return sign_record(msgspec.to_builtins(record), private_key)


def decode(value: bytes, public_key: bytes) -> Manifest | Activation:
    """The verified record of a models-topic value, told apart by its `kind`.

    Raises RecordError: `not_json`, `not_an_object`, `signature`, `unknown_version` or `schema`.
    """
    record = verify_record(value, public_key)
    if record.get("v") != 1:
        raise RecordError("unknown_version", f"v is {record.get('v')!r}, this reader knows 1")
    wanted: type[Manifest] | type[Activation] = Activation if record.get("kind") == "activation" else Manifest
    try:
        return msgspec.convert(record, wanted)
    except msgspec.ValidationError as error:
        raise RecordError("schema", str(error)) from error


def decode_manifest(value: bytes, public_key: bytes) -> Manifest:
    """As `decode`; an activation is refused as `schema`."""
    record = decode(value, public_key)
    if not isinstance(record, Manifest):
        raise RecordError("schema", f"expected a manifest, got an {record.kind}")
    return record


def decode_activation(value: bytes, public_key: bytes) -> Activation:
    """As `decode`; a manifest is refused as `schema`."""
    record = decode(value, public_key)
    if not isinstance(record, Activation):
        raise RecordError("schema", f"expected an activation, got a {record.kind}")
    return record


def manifest_key(name: str, version: int) -> bytes:
    return f"{name}/{version}".encode()


def activation_key(name: str) -> bytes:
    return f"{name}/activation".encode()


def chunk_key(name: str, version: int, index: int) -> bytes:
    return f"{name}/{version}/{index}".encode()


def parse_chunk_key(key: bytes) -> tuple[str, int, int]:
    """(model name, version, index). Raises RecordError `schema`."""
    name, _, rest = key.decode("utf-8", "replace").partition("/")
    version, _, index = rest.partition("/")
    if not (name and all(number.isdecimal() and len(number) <= _MOST_DIGITS for number in (version, index))):
        raise RecordError("schema", f"{key!r} is not a chunk key model/version/index")
    return name, int(version), int(index)


def digest(data: bytes) -> str:
    """SHA-256 as hex."""
    return hashlib.sha256(data).hexdigest()


def split_chunks(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[bytes]:
    """`data` in pieces of at most `chunk_bytes`, in order; their count is the manifest's `chunks`."""
    return [data[start : start + chunk_bytes] for start in range(0, len(data), chunk_bytes)]


def join_chunks(manifest: Manifest, chunks: Mapping[int, bytes]) -> bytes:
    """The artefact's bytes from its chunks by index. Raises RecordError `chunks`, `size` or `digest`."""
    absent = [index for index in range(manifest.chunks) if index not in chunks]
    if absent:
        raise RecordError("chunks", f"{manifest.name}/{manifest.version} lacks chunks {absent} of {manifest.chunks}")
    data = b"".join(chunks[index] for index in range(manifest.chunks))
    if len(data) != manifest.size:
        raise RecordError("size", f"{len(data)} bytes arrived, the manifest says {manifest.size}")
    if digest(data) != manifest.sha256:
        raise RecordError("digest", f"the bytes hash to {digest(data)}, the manifest says {manifest.sha256}")
    return data
