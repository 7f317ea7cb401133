"""Whether a published model may be loaded at all, from its bytes and its manifest alone.

Each refusal is a RecordError whose `code` is one of `REFUSALS`; the first rule that fails decides. What can only be
known by running the graph (golden outputs, warm-up) is checked by `trial`.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from tidemill.domain.model import Golden, Manifest
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError
from tidemill.inference.core.model import Matrix, Model, ModelError

REFUSALS = {
    "not_json": "the value on the models topic is not JSON",
    "not_an_object": "the value on the models topic is not a JSON object",
    "signature": "the record is unsigned, changed, or signed with another key",
    "unknown_version": "the record has a format version that this service does not know",
    "schema": "the record lacks a member or has one of a wrong type",
    "wrong_key": "the record's key does not name what the value holds",
    "wrong_model": "the record is about a model that this pipeline does not serve",
    "old_epoch": "an activation older than the one that holds was published again",
    "old_version": "a version below the newest one was published after it",
    "version_reused": "the bytes of a known version were changed: versions are immutable",
    "not_published": "an activation names a version without a manifest",
    "too_large": "the artefact exceeds the pipeline's model.max_bytes",
    "chunks": "chunks of the artefact are missing on the model-chunks topic",
    "size": "the bytes are not as many as the manifest says",
    "digest": "the bytes do not have the manifest's SHA-256",
    "not_onnx": "the bytes are not an ONNX graph",
    "external_data": "the graph keeps tensors in files outside itself",
    "foreign_domain": "the graph uses operators outside the ONNX standard",
    "opset": "the opset is unknown here or not the manifest's",
    "features": "the model was trained on another list of features",
    "feature_set": "the model was trained on another feature-set version than this service is fed",
    "inputs": "the graph's input is not the one that the pipeline feeds",
    "outputs": "the graph lacks the output that the pipeline reads",
    "session": "the runtime cannot execute the graph",
    "golden": "the graph does not reproduce the manifest's golden outputs",
    "warm_up": "the graph fails at a batch size that the pipeline uses",
}
"""Reason → what it means. Operators see the reason in the log, the metric and `GET /v2/models`."""

INPUT = "features"
_STANDARD_DOMAINS = {"", "ai.onnx", "ai.onnx.ml"}
_FLOAT = onnx.TensorProto.FLOAT


class Expectation(NamedTuple):
    """What a model must be to serve this pipeline."""

    name: str
    feature_set: str
    features: tuple[str, ...]
    output: str
    max_bytes: int


def expectation(pipeline: Pipeline, feature_set: str) -> Expectation:
    model = pipeline.model
    return Expectation(model.name, feature_set, pipeline.feature_names, model.output, model.max_bytes)


def check_manifest(manifest: Manifest, expected: Expectation) -> None:
    """What can be refused before a byte of the artefact is fetched. Raises RecordError."""
    if manifest.name != expected.name:
        raise RecordError("wrong_model", f"the manifest is of {manifest.name}, the pipeline serves {expected.name}")
    if manifest.size > expected.max_bytes:
        raise RecordError("too_large", f"{manifest.size} bytes, the pipeline allows {expected.max_bytes}")
    if manifest.feature_set != expected.feature_set:
        raise RecordError("feature_set", f"trained on {manifest.feature_set}, the pipeline is {expected.feature_set}")
    if manifest.features != expected.features:
        raise RecordError("features", f"trained on {list(manifest.features)}, the pipeline has {expected.features}")


def check_graph(data: bytes, manifest: Manifest, expected: Expectation) -> None:
    """Structure of the graph, without executing it. Raises RecordError."""
    graph_model = _parse(data)
    _check_self_contained(graph_model)
    _check_opset(graph_model, manifest)
    initial = {tensor.name for tensor in graph_model.graph.initializer}
    inputs = [_tensor(value) for value in graph_model.graph.input if value.name not in initial]
    _check_input(inputs, len(expected.features))
    _check_output([_tensor(value) for value in graph_model.graph.output], expected.output)


def trial(model: Model, golden: Golden, buckets: Iterable[int]) -> None:
    """Execute the golden inputs, then every bucket once, so that none is slow later. Raises RecordError."""
    inputs = np.array(golden.inputs, np.float32).reshape(len(golden.inputs), -1)
    wanted = np.array(golden.outputs, np.float32)
    if not len(inputs) or len(inputs) != len(wanted):
        raise RecordError("golden", f"{len(inputs)} golden inputs for {len(wanted)} golden outputs")
    try:
        scores = model.score(inputs)
    except ModelError as error:
        raise RecordError("golden", f"the golden inputs cannot be scored: {error}") from error
    if scores.shape != wanted.shape:
        raise RecordError("golden", f"{len(inputs)} rows give an output of shape {scores.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise RecordError("golden", "a golden output is not a number in [0, 1]")
    worst = float(np.abs(scores - wanted).max())
    if not worst <= golden.tolerance:
        raise RecordError("golden", f"an output is {worst:.3g} away from its golden value, {golden.tolerance} allowed")
    for bucket in buckets:
        try:
            shape = model.score(np.resize(inputs, (bucket, inputs.shape[1]))).shape
        except ModelError as error:
            raise RecordError("warm_up", f"a batch of {bucket} fails: {error}") from error
        if shape != (bucket,):
            raise RecordError("warm_up", f"a batch of {bucket} gives an output of shape {shape}")


def probe_row(golden: Golden) -> Matrix:
    """The first golden input, as the row that tells a bad record from a broken model."""
    return np.array(golden.inputs[:1], np.float32)


def _parse(data: bytes) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise RecordError("not_onnx", f"the bytes do not parse: {error}") from error
    if not model.graph.node:
        raise RecordError("not_onnx", "the bytes hold no graph")
    return model


def _check_self_contained(model: onnx.ModelProto) -> None:
    if model.functions:
        _check_domains(node for function in model.functions for node in function.node)
    for graph in _graphs(model.graph):
        _check_domains(graph.node)
        constants = [a.t for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
        for tensor in [*graph.initializer, *constants]:
            if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
                raise RecordError("external_data", f"tensor {tensor.name or '(constant)'} lies outside the artefact")


def _check_domains(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        if node.domain not in _STANDARD_DOMAINS:
            raise RecordError("foreign_domain", f"operator {node.op_type} is of domain {node.domain}")


def _graphs(graph: onnx.GraphProto) -> Iterable[onnx.GraphProto]:
    """The graph and every graph nested in its control flow."""
    pending = [graph]
    while pending:
        current = pending.pop()
        yield current
        for node in current.node:
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.GRAPH:
                    pending.append(attribute.g)
                pending.extend(attribute.graphs)


def _check_opset(model: onnx.ModelProto, manifest: Manifest) -> None:
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    newest = onnx.defs.onnx_opset_version()
    if opset != manifest.opset:
        raise RecordError("opset", f"the graph has opset {opset}, the manifest says {manifest.opset}")
    if not 1 <= opset <= newest:
        raise RecordError("opset", f"opset {opset} is newer than the {newest} known here")


class _Tensor(NamedTuple):
    name: str
    dtype: int
    shape: tuple[int, ...]


def _tensor(value: onnx.ValueInfoProto) -> _Tensor:
    """Shape with −1 for an axis without a fixed size."""
    tensor = value.type.tensor_type
    dims = (dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
    return _Tensor(value.name, tensor.elem_type, tuple(dims))


def _check_input(inputs: list[_Tensor], width: int) -> None:
    wanted = _Tensor(INPUT, _FLOAT, (-1, width))
    if inputs != [wanted]:
        raise RecordError("inputs", f"the graph takes {_describe(inputs)}, the pipeline feeds {_describe([wanted])}")


def _check_output(outputs: list[_Tensor], name: str) -> None:
    wanted = _Tensor(name, _FLOAT, (-1,))
    if wanted not in outputs:
        raise RecordError("outputs", f"the graph gives {_describe(outputs)}, the pipeline reads {_describe([wanted])}")


def _describe(tensors: list[_Tensor]) -> str:
    return ", ".join(f"{tensor.name} {_type(tensor)}{list(tensor.shape)}" for tensor in tensors) or "nothing"


def _type(tensor: _Tensor) -> str:
    """The type's name, or its number where ONNX has no name for it."""
    known: dict[int, str] = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
    return known.get(tensor.dtype, f"type {tensor.dtype} ")
