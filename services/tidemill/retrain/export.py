"""A PyTorch module as ONNX bytes, and what can be measured on them before anyone loads them."""

import logging
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch

from tidemill import clock
from tidemill.domain.model import TensorSpec

INPUT = "features"
_TIMED_RUNS = 30
Matrix = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Exported:
    """A self-contained graph, `features` [batch, n] → `output` [batch]."""

    data: bytes
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def export(module: torch.nn.Module, example: Matrix, output: str) -> Exported:
    """Trace with `example` (at least two rows: a batch of one would be taken for a constant). Takes 1–3 s."""
    if len(example) < 2:
        raise ValueError("an example batch of one row would fix the batch size at 1")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of operators of libraries that are not there
    program = torch.onnx.export(
        module,
        (torch.from_numpy(example),),
        dynamo=True,
        input_names=[INPUT],
        output_names=[output],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return Exported(
        model.SerializeToString(deterministic=True),
        opset,
        tuple(_tensor(value) for value in model.graph.input),
        tuple(_tensor(value) for value in model.graph.output),
    )


class Session:
    """The bytes in ONNX Runtime as inference runs them on a CPU: one thread, no spinning."""

    def __init__(self, data: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def score(self, rows: Matrix) -> Scores:
        scores: Scores = self._session.run(None, {INPUT: rows})[0]
        return scores

    def milliseconds(self, rows: Matrix) -> float:
        """Median time of one batch, after a warm-up."""
        self.score(rows)
        times = []
        for _ in range(_TIMED_RUNS):
            began = clock.monotonic()
            self.score(rows)
            times.append(clock.monotonic() - began)
        return statistics.median(times) * 1_000


def parity_error(module: torch.nn.Module, session: Session, rows: Matrix) -> float:
    """Greatest difference between PyTorch and ONNX Runtime, at a batch of one and at all of `rows`."""
    worst = 0.0
    for batch in (rows[:1], rows):
        with torch.inference_mode():
            ours = module(torch.from_numpy(batch)).numpy()
        difference = np.abs(ours - session.score(batch))
        # A NaN must not pass as "no difference": max() of NaN is NaN, and NaN fails every comparison.
        worst = float(np.max(np.append(difference, worst)))
    return worst


def write_artefact(data: bytes, path: Path) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(data)
    part.replace(path)


def _strip(model: onnx.ModelProto) -> None:
    """Drop the exporter's notes: they name source files of this machine and would make equal graphs differ."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


def _tensor(value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(axis.dim_value if axis.HasField("dim_value") else -1 for axis in tensor.shape.dim)
    return TensorSpec(value.name, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape)
