"""Real ONNX graphs and signed records for the tests of inference, good ones and bad ones."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import (
    Activation,
    Golden,
    Manifest,
    Reference,
    TensorSpec,
    Training,
    activation_key,
    chunk_key,
    digest,
    encode,
    manifest_key,
    split_chunks,
)
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.signing import public_key_of
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

WIDTH = 15
OPSET = 20
PRIVATE_KEY = bytes(range(32))
PUBLIC_KEY = public_key_of(PRIVATE_KEY)
OTHER_KEY = bytes(range(1, 33))
_SESSION_ERRORS = (
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NotImplemented,
    errors.RuntimeException,
)


@cache
def fraud_pipeline() -> Pipeline:
    return load_pipeline("fraud")


def graph(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    input_name: str = "features",
    output_name: str = "score",
    width: int = WIDTH,
    output_shape: Sequence[str | int] = ("batch",),
    domains: Sequence[str] = (),
) -> bytes:
    """A model of `nodes` with the pipeline's signature unless told otherwise."""
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(input_name, TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info(output_name, TensorProto.FLOAT, list(output_shape))],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", OPSET), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(made, opset_imports=opsets, ir_version=10).SerializeToString()


def mlp(seed: int = 1, **signature: Any) -> bytes:
    """15 → 16 → 1 with imputation of NaN inside the graph."""
    rng = np.random.default_rng(seed)
    width = signature.get("width", WIDTH)
    weights = {
        "means": np.zeros(width, np.float32),
        "w1": rng.normal(size=(width, 16)).astype(np.float32) / 8,
        "b1": rng.normal(size=16).astype(np.float32),
        "w2": rng.normal(size=(16, 1)).astype(np.float32),
        "b2": rng.normal(size=1).astype(np.float32),
        "axis": np.array([1], np.int64),
    }
    source, target = signature.get("input_name", "features"), signature.get("output_name", "score")
    nodes = [
        helper.make_node("IsNaN", [source], ["missing"]),
        helper.make_node("Where", ["missing", "means", source], ["filled"]),
        helper.make_node("Gemm", ["filled", "w1", "b1"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["a1"]),
        helper.make_node("Gemm", ["a1", "w2", "b2"], ["h2"]),
        helper.make_node("Sigmoid", ["h2"], ["p"]),
        helper.make_node("Squeeze", ["p", "axis"], [target]),
    ]
    return graph(nodes, [numpy_helper.from_array(array, name) for name, array in weights.items()], **signature)


def constant(score: float) -> bytes:
    """Every row scores `score`, so a prediction tells which version made it."""
    return _first_column(
        [
            helper.make_node("IsNaN", ["x"], ["missing"]),
            helper.make_node("Where", ["missing", "zero", "x"], ["filled"]),
            helper.make_node("Mul", ["filled", "zero"], ["nothing"]),
            helper.make_node("Add", ["nothing", "value"], ["score"]),
        ],
        {"zero": np.float32(0), "value": np.float32(score)},
    )


def nan_below_zero() -> bytes:
    """The square root of the first feature: NaN for a negative one, above 1 for one above 1."""
    return _first_column([helper.make_node("Sqrt", ["x"], ["score"])], {})


def raises_above(limit: int) -> bytes:
    """Looks its score up by the first feature; an index beyond the table makes the whole batch raise."""
    table = np.linspace(0, 1, limit + 1, dtype=np.float32)
    return _first_column(
        [
            helper.make_node("Cast", ["x"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["score"], axis=0),
        ],
        {"table": table},
    )


def foreign_operator() -> bytes:
    return graph(
        [
            helper.make_node("FusedGemm", ["features", "w"], ["h"], domain="com.microsoft"),
            helper.make_node("Squeeze", ["h", "axis"], ["score"]),
        ],
        [
            numpy_helper.from_array(np.zeros((WIDTH, 1), np.float32), "w"),
            numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
        domains=["com.microsoft"],
    )


def external_weights() -> bytes:
    model = onnx.load_model_from_string(mlp())
    tensor = model.graph.initializer[1]
    onnx.external_data_helper.set_external_data(tensor, location="../../etc/passwd")
    tensor.ClearField("raw_data")
    return model.SerializeToString()


def unknown_operator() -> bytes:
    return graph([helper.make_node("NoSuchOperator", ["features"], ["score"])])


def wrong_opset() -> bytes:
    model = onnx.load_model_from_string(mlp())
    model.opset_import[0].version = OPSET - 1
    return model.SerializeToString()


def run_graph(data: bytes, rows: np.ndarray[Any, np.dtype[np.float32]]) -> tuple[float, ...]:
    """What the graph gives, or zeros where it cannot be run: a bad graph needs some golden outputs too."""
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return tuple(float(x) for x in session.run(["score"], {"features": rows})[0])
    except (*_SESSION_ERRORS, ValueError):
        return (0.0,) * len(rows)


def manifest(pipeline: Pipeline, version: int, data: bytes, **changes: Any) -> Manifest:
    """A manifest that tells the truth about `data`, but for `changes`."""
    inputs = np.linspace(0, 1, 4 * WIDTH, dtype=np.float32).reshape(4, WIDTH)
    golden = Golden(tuple(tuple(float(x) for x in row) for row in inputs), run_graph(data, inputs), tolerance=1e-4)
    made = Manifest(
        name=pipeline.model.name,
        version=version,
        sha256=digest(data),
        size=len(data),
        chunks=len(split_chunks(data)),
        opset=OPSET,
        inputs=(TensorSpec("features", "float32", (-1, WIDTH)),),
        outputs=(TensorSpec("score", "float32", (-1,)),),
        feature_set=feature_set_hash(pipeline),
        features=pipeline.feature_names,
        training=Training(0, 1, 1, 1, "", {}, 7, "initial", ""),
        metrics={},
        gates=(),
        reference=Reference({}, ()),
        golden=golden,
        created_at=0,
    )
    return msgspec.structs.replace(made, **changes)


def activation(pipeline: Pipeline, epoch: int, champion: int | None, challenger: int | None = None) -> Activation:
    return Activation(
        name=pipeline.model.name,
        epoch=epoch,
        champion=champion,
        challenger=challenger,
        at=0,
        reason="test",
        decision="d",
    )


def manifest_record(made: Manifest, key: bytes = PRIVATE_KEY) -> Record:
    return Record("fraud-models", 0, 0, 0, manifest_key(made.name, made.version), encode(made, key))


def activation_record(made: Activation, key: bytes = PRIVATE_KEY) -> Record:
    return Record("fraud-models", 0, 0, 0, activation_key(made.name), encode(made, key))


def chunk_records(made: Manifest, data: bytes) -> list[tuple[bytes, bytes]]:
    return [(chunk_key(made.name, made.version, i), chunk) for i, chunk in enumerate(split_chunks(data))]


def write_public_key(folder: Path) -> Path:
    path = folder / "signing.pub"
    path.write_text(PUBLIC_KEY.hex() + "\n", encoding="ascii")
    return path


def _first_column(nodes: list[onnx.NodeProto], values: dict[str, Any]) -> bytes:
    pick = helper.make_node("Gather", ["features", "column"], ["x"], axis=1)
    arrays = {"column": np.array(0, np.int64), **{name: np.asarray(value) for name, value in values.items()}}
    return graph([pick, *nodes], [numpy_helper.from_array(array, name) for name, array in arrays.items()])
