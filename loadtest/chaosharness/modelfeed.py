"""Plays the retrain service's part: publishes signed models and activates them, many times in one run.

Model n says `score_of(n)` of every row, so a prediction itself tells which model made it.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from chaosharness.auditor import score_of
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import Activation, Golden, Manifest, Reference, TensorSpec, Training, digest, split_chunks
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import PRIVATE_KEY_FILE, read_key
from tidemill.retrain.publishing import Publisher
from tidemill.runtime.kafka import PlainProducer
from tidemill.runtime.service import OutRecord

_OPSET = 20
_IR_VERSION = 10
_GOLDEN_ROWS = 2


class ModelFeed:
    """Publishes version after version; each is active from its publication on. Blocks until Kafka has the records."""

    def __init__(self, bootstrap_servers: str, pipeline: Pipeline, keys_dir: Path) -> None:
        self._pipeline = pipeline
        self._producer = PlainProducer(bootstrap_servers)
        self._publisher = Publisher(pipeline, read_key(keys_dir / PRIVATE_KEY_FILE), self._write)
        self.version = 0

    def publish(self, at: int = 0) -> int:
        """The next version's number, which is its epoch as well."""
        self.version += 1
        artefact = constant_model(
            score_of(self.version), len(self._pipeline.feature_names), self._pipeline.model.output
        )
        self._publisher.publish(self._manifest(artefact), artefact, at)
        name = self._pipeline.model.name
        activation = Activation(
            name=name,
            epoch=self.version,
            champion=self.version,
            challenger=None,
            at=at,
            reason="chaos",
            decision="chaos",
        )
        self._publisher.activate(activation)
        return self.version

    def _manifest(self, artefact: bytes) -> Manifest:
        pipeline, width = self._pipeline, len(self._pipeline.feature_names)
        golden = Golden(
            tuple((0.5,) * width for _ in range(_GOLDEN_ROWS)), (score_of(self.version),) * _GOLDEN_ROWS, tolerance=1e-6
        )
        return Manifest(
            name=pipeline.model.name,
            version=self.version,
            sha256=digest(artefact),
            size=len(artefact),
            chunks=len(split_chunks(artefact)),
            opset=_OPSET,
            inputs=(TensorSpec("features", "float32", (-1, width)),),
            outputs=(TensorSpec(pipeline.model.output, "float32", (-1,)),),
            feature_set=feature_set_hash(pipeline),
            features=pipeline.feature_names,
            training=Training(0, 1, 1, 1, "", {}, 7, "initial", ""),
            metrics={},
            gates=(),
            reference=Reference({}, ()),
            golden=golden,
            created_at=0,
        )

    def _write(self, records: list[OutRecord]) -> None:
        for record in records:
            self._producer.send(record)
        self._producer.flush()


def constant_model(score: float, width: int, output: str) -> bytes:
    """An ONNX graph of the pipeline's signature that gives `score` for every row."""
    nodes = [
        helper.make_node("Gather", ["features", "column"], ["first"], axis=1),
        helper.make_node("IsNaN", ["first"], ["missing"]),
        helper.make_node("Where", ["missing", "zero", "first"], ["filled"]),
        helper.make_node("Mul", ["filled", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "score_value"], [output]),
    ]
    constants = {"column": np.array(0, np.int64), "zero": np.float32(0), "score_value": np.float32(score)}
    made = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    data: bytes = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()
    return data
