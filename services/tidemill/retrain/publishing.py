"""Writes models and decisions, in the one order that leaves no reader with half of something:

1. the chunks of the artefact, acknowledged
2. the manifest that names them, acknowledged
3. the activation that names the version, acknowledged
4. the decision, which ends the matter

A crash between any two is finished by doing the rest again: keys, version and decision id are the same.
"""

from collections.abc import Callable

from tidemill.domain.model import (
    Activation,
    Manifest,
    activation_key,
    chunk_key,
    encode,
    manifest_key,
    split_chunks,
)
from tidemill.domain.pipeline import Pipeline
from tidemill.retrain.core.records import Decision
from tidemill.runtime.service import OutRecord

Write = Callable[[list[OutRecord]], None]
"""Writes records and returns once all are acknowledged; raises TidemillError otherwise."""


class Publisher:
    """All methods block until the broker has what they write. One thread at a time."""

    def __init__(self, pipeline: Pipeline, private_key: bytes, write: Write) -> None:
        self._name = pipeline.model.name
        self._models = pipeline.topic("models")
        self._chunks = pipeline.topic("model-chunks")
        self._decisions = pipeline.topic("decisions")
        self._key = private_key
        self._write = write

    def publish(self, manifest: Manifest, artefact: bytes, at: int) -> None:
        """Steps 1 and 2. `at` is the records' Kafka timestamp."""
        chunks = enumerate(split_chunks(artefact))
        self._write(
            [OutRecord(self._chunks, chunk_key(self._name, manifest.version, i), data, at) for i, data in chunks]
        )
        value = encode(manifest, self._key)
        self._write([OutRecord(self._models, manifest_key(self._name, manifest.version), value, at)])

    def activate(self, activation: Activation) -> None:
        """Step 3."""
        value = encode(activation, self._key)
        self._write([OutRecord(self._models, activation_key(self._name), value, activation.at)])

    def record(self, decision: Decision) -> None:
        """Step 4, or a decision that publishes nothing."""
        self._write([OutRecord(self._decisions, decision.id.encode(), decision.encode(), decision.at)])
