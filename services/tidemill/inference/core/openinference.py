"""The Open Inference Protocol's bodies, version 2: requests in, tensors out. Pure.

https://github.com/open-inference/open-inference-protocol, with the binary tensor extension: raw little-endian tensors
behind the JSON, whose length a header names. JSON has neither NaN nor infinity, so an undefined feature is written
`null` there, and is NaN in a binary tensor; everything else must be a finite number that float32 can hold.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from tidemill.inference.core.model import Matrix, Model, Scores

DATATYPE = "FP32"
DEADLINE_PARAMETER = "deadline_ms"
PRIORITY_PARAMETER = "priority"
LOWEST_PRIORITY = 9
JSON_LENGTH_HEADER = "Inference-Header-Content-Length"
_BINARY_SIZE = "binary_data_size"
_LITTLE_ENDIAN = np.dtype("<f4")


class RequestRefusedError(Exception):
    """The request cannot be served; `status` is the HTTP status, the message goes into `error`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class InferRequest(NamedTuple):
    """A parsed request. `deadline_ms` counts from its arrival; None where the client names none. `binary`: the scores
    are to go back as a binary tensor."""

    id: str | None
    rows: Matrix
    deadline_ms: float | None
    priority: int = 0
    binary: bool = False


class InferAnswer(NamedTuple):
    """A response's body; `json_length` is that of its JSON where a binary tensor follows."""

    body: bytes
    json_length: int | None


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[_Output] | None = None


_decoder = msgspec.json.Decoder(_Request)


def parse(body: bytes, input_name: str, width: int, output_name: str, json_length: int | None = None) -> InferRequest:
    """`json_length`: what the header of the binary extension says, None without it. Raises RequestRefusedError (400)
    naming the first thing that is wrong."""
    if json_length is not None and not 0 <= json_length <= len(body):
        raise RequestRefusedError(400, f"{JSON_LENGTH_HEADER} is {json_length}, the body has {len(body)} bytes")
    binary = b"" if json_length is None else memoryview(body)[json_length:]
    try:
        request = _decoder.decode(body[:json_length])
    except msgspec.DecodeError as error:
        raise RequestRefusedError(400, f"the body is not an inference request: {error}") from error
    except UnicodeDecodeError as error:
        raise RequestRefusedError(400, "the body is not UTF-8") from error
    if [tensor.name for tensor in request.inputs] != [input_name]:
        names = [tensor.name for tensor in request.inputs]
        raise RequestRefusedError(400, f"inputs are {names}, the model takes exactly one, {input_name!r}")
    unknown = [output.name for output in request.outputs or () if output.name != output_name]
    if unknown:
        raise RequestRefusedError(400, f"outputs {unknown} do not exist, the model gives {output_name!r}")
    tensor = request.inputs[0]
    _check_kind(tensor, width)
    rows = _matrix(tensor, width) if _BINARY_SIZE not in tensor.parameters else _binary_matrix(tensor, binary)
    if binary and _BINARY_SIZE not in tensor.parameters:
        raise RequestRefusedError(400, f"{len(binary)} bytes follow the JSON and no input has {_BINARY_SIZE}")
    if np.isinf(rows).any():
        raise RequestRefusedError(400, "data holds a number that is not finite in float32")
    parameters = request.parameters
    return InferRequest(request.id, rows, _deadline_ms(parameters), _priority(parameters), _wants_binary(request))


def _check_kind(tensor: _Tensor, width: int) -> None:
    if tensor.datatype != DATATYPE:
        raise RequestRefusedError(400, f"datatype is {tensor.datatype!r}, the model takes {DATATYPE}")
    if len(tensor.shape) != 2 or tensor.shape[1] != width or tensor.shape[0] < 1:
        raise RequestRefusedError(
            400, f"shape is {tensor.shape}, the model takes [rows, {width}] with at least one row"
        )


def _binary_matrix(tensor: _Tensor, binary: bytes | memoryview) -> Matrix:
    size = tensor.parameters[_BINARY_SIZE]
    needed = _LITTLE_ENDIAN.itemsize * tensor.shape[0] * tensor.shape[1]
    if tensor.data is not None:
        raise RequestRefusedError(400, f"an input has data or {_BINARY_SIZE}, not both")
    if size is True or size != needed or len(binary) != needed:
        raise RequestRefusedError(
            400, f"{_BINARY_SIZE} is {size!r} and {len(binary)} bytes follow, shape {tensor.shape} has {needed}"
        )
    return np.frombuffer(binary, _LITTLE_ENDIAN).reshape(tensor.shape).astype(np.float32, copy=False)


def _matrix(tensor: _Tensor, width: int) -> Matrix:
    if tensor.data is None:
        raise RequestRefusedError(400, f"the input has neither data nor {_BINARY_SIZE}")
    nested = bool(tensor.data) and isinstance(tensor.data[0], list)
    try:
        if nested:
            values = [value for row in msgspec.convert(tensor.data, list[list[float | None]]) for value in row]
            lengths = {len(row) for row in tensor.data}
        else:
            values = msgspec.convert(tensor.data, list[float | None])
            lengths = {width}
    except msgspec.ValidationError as error:
        raise RequestRefusedError(400, f"data: {error}") from error
    if len(values) != tensor.shape[0] * width or lengths != {width}:
        raise RequestRefusedError(400, f"data holds {len(values)} numbers, shape {tensor.shape} needs another count")
    with np.errstate(over="ignore"):  # an overflow becomes an infinity, refused below
        return np.array(values, np.float32).reshape(tensor.shape)


def _deadline_ms(parameters: dict[str, Any]) -> float | None:
    value = parameters.get(DEADLINE_PARAMETER)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise RequestRefusedError(400, f"parameter {DEADLINE_PARAMETER} is {value!r}, it must be a number above 0")
    return float(value)


def _priority(parameters: dict[str, Any]) -> int:
    value = parameters.get(PRIORITY_PARAMETER, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= LOWEST_PRIORITY:
        raise RequestRefusedError(
            400, f"parameter {PRIORITY_PARAMETER} is {value!r}, it must be 0 (highest) to {LOWEST_PRIORITY}"
        )
    return value


def _wants_binary(request: _Request) -> bool:
    wanted = request.parameters.get("binary_data_output", False)
    for output in request.outputs or ():
        wanted = output.parameters.get("binary_data", wanted)
    return wanted is True


def answer(request: InferRequest, model: Model, output_name: str, scores: Scores) -> InferAnswer:
    """The response. Scores must be finite: JSON would turn anything else into null."""
    output: dict[str, Any] = {"name": output_name, "datatype": DATATYPE, "shape": [len(scores)]}
    blob = b""
    if request.binary:
        blob = scores.astype(_LITTLE_ENDIAN, copy=False).tobytes()
        output["parameters"] = {_BINARY_SIZE: len(blob)}
    else:
        output["data"] = scores
    document: dict[str, Any] = {
        "model_name": model.name,
        "model_version": str(model.version),
        "parameters": {"provider": model.provider},
        "outputs": [output],
    }
    if request.id is not None:
        document["id"] = request.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return InferAnswer(text + blob, len(text) if request.binary else None)


def metadata(name: str, versions: Sequence[int], input_name: str, width: int, output_name: str) -> dict[str, Any]:
    """What `GET /v2/models/{m}` answers."""
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": input_name, "datatype": DATATYPE, "shape": [-1, width]}],
        "outputs": [{"name": output_name, "datatype": DATATYPE, "shape": [-1]}],
    }
