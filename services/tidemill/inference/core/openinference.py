"""The Open Inference Protocol's JSON, version 2: requests in, tensors out. Pure.

https://github.com/open-inference/open-inference-protocol. JSON has neither NaN nor infinity, so an undefined feature
is written `null`; everything else must be a finite number that float32 can hold.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from tidemill.inference.core.model import Matrix, Model, Scores

DATATYPE = "FP32"
DEADLINE_PARAMETER = "deadline_ms"


class RequestRefusedError(Exception):
    """The request cannot be served; `status` is the HTTP status, the message goes into `error`."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


class InferRequest(NamedTuple):
    """A parsed request. `deadline_ms` counts from its arrival; None where the client names none."""

    id: str | None
    rows: Matrix
    deadline_ms: float | None


class _Tensor(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Output(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    inputs: list[_Tensor]
    id: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    outputs: list[_Output] | None = None


_decoder = msgspec.json.Decoder(_Request)


def parse(body: bytes, input_name: str, width: int, output_name: str) -> InferRequest:
    """Raises RequestRefusedError (400) naming the first thing that is wrong."""
    try:
        request = _decoder.decode(body)
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
    return InferRequest(request.id, _matrix(request.inputs[0], width), _deadline_ms(request.parameters))


def _matrix(tensor: _Tensor, width: int) -> Matrix:
    if tensor.datatype != DATATYPE:
        raise RequestRefusedError(400, f"datatype is {tensor.datatype!r}, the model takes {DATATYPE}")
    if len(tensor.shape) != 2 or tensor.shape[1] != width or tensor.shape[0] < 1:
        raise RequestRefusedError(
            400, f"shape is {tensor.shape}, the model takes [rows, {width}] with at least one row"
        )
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
        rows = np.array(values, np.float32).reshape(tensor.shape)
    if np.isinf(rows).any():
        raise RequestRefusedError(400, "data holds a number that is not finite in float32")
    return rows


def _deadline_ms(parameters: dict[str, Any]) -> float | None:
    value = parameters.get(DEADLINE_PARAMETER)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise RequestRefusedError(400, f"parameter {DEADLINE_PARAMETER} is {value!r}, it must be a number above 0")
    return float(value)


def answer(request: InferRequest, model: Model, output_name: str, scores: Scores) -> bytes:
    """The response's body. Scores must be finite: JSON would turn anything else into null."""
    document: dict[str, Any] = {
        "model_name": model.name,
        "model_version": str(model.version),
        "parameters": {"provider": model.provider},
        "outputs": [{"name": output_name, "datatype": DATATYPE, "shape": [len(scores)], "data": scores}],
    }
    if request.id is not None:
        document["id"] = request.id
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)


def metadata(name: str, versions: Sequence[int], input_name: str, width: int, output_name: str) -> dict[str, Any]:
    """What `GET /v2/models/{m}` answers."""
    return {
        "name": name,
        "versions": [str(version) for version in versions],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": input_name, "datatype": DATATYPE, "shape": [-1, width]}],
        "outputs": [{"name": output_name, "datatype": DATATYPE, "shape": [-1]}],
    }
