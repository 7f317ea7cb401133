"""Plays the retrain service's part: publishes signed models and activates them, many times in one run.

What each says depends on its version and on the row (`scoring`), so a prediction itself tells which model made it of
what.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from chaosharness.scoring import MISSING, TOLERANCE, scores, share, weights
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import Activation, Golden, Manifest, Reference, TensorSpec, Training, digest, split_chunks
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import PRIVATE_KEY_FILE, read_key
from tidemill.retrain.publishing import Publisher
from tidemill.runtime.kafka import PlainProducer
from tidemill.runtime.service import OutRecord

_OPSET = 20
_IR_VERSION = 10


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
        artefact = graph_of(self.version, len(self._pipeline.feature_names), self._pipeline.model.output)
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
        rows = np.stack([np.full(width, 0.5), np.arange(1.0, width + 1)])
        outputs = scores([self.version] * len(rows), rows)
        golden = Golden(tuple(map(tuple, rows.tolist())), tuple(outputs.tolist()), TOLERANCE)
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


def graph_of(version: int, width: int, output: str) -> bytes:
    """An ONNX graph of the pipeline's signature that computes `scoring.scores` of `version`."""
    nodes = [
        helper.make_node("Cast", ["features"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("IsNaN", ["wide"], ["gaps"]),
        helper.make_node("Where", ["gaps", "missing", "wide"], ["filled"]),
        helper.make_node("MatMul", ["filled", "weights"], ["place"]),
        helper.make_node("Floor", ["place"], ["below"]),
        helper.make_node("Sub", ["place", "below"], ["part"]),
        helper.make_node("Mul", ["part", "two"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["around"]),
        helper.make_node("Abs", ["around"], ["distance"]),
        helper.make_node("Sub", ["one", "distance"], ["wave"]),
        helper.make_node("Add", ["wave", "share"], ["sum"]),
        helper.make_node("Div", ["sum", "two"], ["half"]),
        helper.make_node("Cast", ["half"], [output], to=TensorProto.FLOAT),
    ]
    constants = {"missing": MISSING, "weights": weights(width), "one": 1.0, "two": 2.0, "share": share(version)}
    made = helper.make_graph(
        nodes,
        "wave",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch"])],
        [numpy_helper.from_array(np.asarray(value, np.float64), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", _OPSET)]
    data: bytes = helper.make_model(made, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()
    return data
