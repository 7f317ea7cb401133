"""What inference reads: feature records, HTTP requests, published models, its own state."""

import io
from typing import Any

import msgspec
import numpy as np
import onnx
import orjson
from onnx import TensorProto, helper, numpy_helper

from fuzzing import pipelines
from fuzzing.target import Target, example_values, pair, stateless, unpaired
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import (
    Manifest,
    activation_key,
    decode,
    digest,
    join_chunks,
    manifest_key,
    parse_chunk_key,
)
from tidemill.domain.signing import public_key_of, sign_record
from tidemill.errors import RecordError, StateCorrupt
from tidemill.inference.core.active import decode_active
from tidemill.inference.core.artefact import check_graph, check_manifest, expectation
from tidemill.inference.core.openinference import RequestRefusedError, parse
from tidemill.inference.core.registry import Registry
from tidemill.inference.core.rows import RowReader
from tidemill.runtime.service import Record

_PRIVATE = bytes(range(32))
_PUBLIC = public_key_of(_PRIVATE)
_OPSET = 20


def rows() -> Target:
    """A record that becomes a row becomes one of finite numbers or NaN."""
    pipeline = pipelines.fraud()
    feature_set = feature_set_hash(pipeline)
    reader = RowReader(pipeline, feature_set)
    seeds = []
    for value in example_values("fraud-features"):
        document = orjson.loads(value)
        if isinstance(document, dict):
            document["fs"] = feature_set
        seeds.append(orjson.dumps(document))

    def read(data: bytes) -> object:
        good, dead = reader.read([Record("fraud-features", 0, 0, 0, b"c-1", data)])
        if len(good.records) + len(dead) != 1 or np.isinf(good.matrix).any():
            raise AssertionError("neither a row nor a dead letter")
        return good

    return stateless(seeds, read)


def http() -> Target:
    pipeline = pipelines.fraud()
    width = len(pipeline.feature_names)
    tensor = {"name": "features", "shape": [2, width], "datatype": "FP32", "data": [1.5, None, *[0] * (2 * width - 2)]}
    nested = {**tensor, "data": [[1.5] * width, [None] * width]}
    seeds = [
        orjson.dumps({"id": "r-1", "inputs": [tensor], "parameters": {"deadline_ms": 50}}),
        orjson.dumps({"inputs": [nested], "outputs": [{"name": "score"}]}),
    ]
    return stateless(seeds, lambda data: parse(data, "features", width, "score"), RequestRefusedError)


def selection() -> Target:
    seeds = [b'{"v":1,"champion":2,"challenger":null,"epoch":3,"from_offset":120}', b"{}"]
    return stateless(seeds, decode_active, StateCorrupt)


def _records() -> list[bytes]:
    pipeline = pipelines.fraud()
    named = {"name": pipeline.model.name, "feature_set": feature_set_hash(pipeline)}
    found = []
    for value in example_values("model-manifest", "model-activation"):
        document = orjson.loads(value)
        if isinstance(document, dict):
            document |= {name: member for name, member in named.items() if name in document}
            found.append(orjson.dumps(document))
    return found


def models() -> Target:
    """The bytes as they come; nearly all fail at the signature."""
    seeds = [sign_record(orjson.loads(value), _PRIVATE) for value in _records()]
    return stateless(seeds, lambda data: decode(data, _PUBLIC), RecordError)


def signed_models() -> Target:
    """What somebody with the key might publish: any object, signed, then folded and checked."""
    pipeline = pipelines.fraud()
    expected = expectation(pipeline, feature_set_hash(pipeline))

    def publish(data: bytes) -> object:
        try:
            signed = sign_record(orjson.loads(data), _PRIVATE)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            return None  # nothing that can be signed
        record = decode(signed, _PUBLIC)
        registry = Registry(pipeline.model.name)
        name = pipeline.model.name
        if isinstance(record, Manifest):
            registry.fold(manifest_key(name, record.version), record, live=True)
            check_manifest(record, expected)
        else:
            registry.fold(activation_key(name), record, live=True)
        return record

    return stateless(_records(), publish, RecordError)


def chunks() -> Target:
    """Chunks of an artefact that a manifest describes."""
    whole = bytes(range(256)) * 4
    made = _manifest(whole)
    seeds = [pair(bytes([at]), whole[at * 256 : at * 256 + 256]) for at in range(4)]

    def join(data: bytes) -> object:
        found = {at: whole[at * 256 : at * 256 + 256] for at in range(4)}
        key, value = unpaired(data)
        found[key[0] % 4 if key else 0] = value
        joined = join_chunks(made, found)
        if joined != whole:
            raise AssertionError("other bytes were taken for the artefact")
        return joined

    return stateless(seeds, join, RecordError)


def chunk_keys() -> Target:
    return stateless([b"fraud/12/0", b"fraud-score/3/17"], parse_chunk_key, RecordError)


def artefact() -> Target:
    """The bytes of a graph, checked without running it."""
    pipeline = pipelines.fraud()
    expected = expectation(pipeline, feature_set_hash(pipeline))
    data = _graph(len(expected.features))
    made = _manifest(data)
    return stateless([data], lambda data: check_graph(data, made, expected), RecordError)


def _manifest(data: bytes) -> Manifest:
    document: dict[str, Any] = orjson.loads(example_values("model-manifest", invalid=False)[0])
    document |= {"sha256": digest(data), "size": len(data), "chunks": 4, "opset": _OPSET}
    return msgspec.convert(document, Manifest)


def _graph(width: int) -> bytes:
    weights = numpy_helper.from_array(np.ones((width, 1), np.float32), "weights")
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    nodes = [
        helper.make_node("MatMul", ["features", "weights"], ["column"]),
        helper.make_node("Sigmoid", ["column"], ["share"]),
        helper.make_node("Squeeze", ["share", "axes"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "score",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", width])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows"])],
        [weights, axes],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=10)
    held = io.BytesIO()
    onnx.save_model(model, held)
    return held.getvalue()
