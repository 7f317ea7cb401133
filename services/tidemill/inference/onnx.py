"""ONNX Runtime behind the core's `Model`: sessions from bytes, on CUDA where there is a device, else on the CPU."""

from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as errors

from tidemill.domain.model import Manifest
from tidemill.errors import RecordError
from tidemill.inference.core.artefact import INPUT, Expectation, check_graph, check_manifest, probe_row, trial
from tidemill.inference.core.model import Device, Matrix, ModelError, Scores

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
_SESSION_ERRORS = (
    errors.EPFail,
    errors.EngineError,
    errors.Fail,
    errors.InvalidArgument,
    errors.InvalidGraph,
    errors.InvalidProtobuf,
    errors.NoModel,
    errors.NoSuchFile,
    errors.NotImplemented,
    errors.RuntimeException,
)


class OnnxModel:
    """One version in one session. On CUDA each bucket keeps its input and output on the device (IO binding)."""

    def __init__(self, manifest: Manifest, session: onnxruntime.InferenceSession, output: str) -> None:
        self.name = manifest.name
        self.version = manifest.version
        self.provider = session.get_providers()[0]
        self.probe = probe_row(manifest.golden)
        self._session = session
        self._outputs = [output]
        self._bindings: dict[int, BucketBinding] = {}

    def bind(self, buckets: Sequence[int], device: str) -> None:
        """Allocate what a batch of each bucket needs on `device`; other batch sizes are copied to and fro."""
        width = self.probe.shape[1]
        self._bindings = {size: BucketBinding(self._session, self._outputs[0], size, width, device) for size in buckets}

    def score(self, rows: Matrix) -> Scores:
        try:
            binding = self._bindings.get(len(rows))
            scores = self._session.run(self._outputs, {INPUT: rows})[0] if binding is None else binding.run(rows)
        except _SESSION_ERRORS as error:
            raise ModelError(str(error)) from error
        return scores


class BucketBinding:
    """Input and output of one batch size, bound once; a run copies rows in and scores out and allocates nothing."""

    def __init__(self, session: onnxruntime.InferenceSession, output: str, size: int, width: int, device: str) -> None:
        self._session = session
        self._input = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros((size, width), np.float32), device, 0)
        self._output = onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(size, np.float32), device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._input)
        self._binding.bind_ortvalue_output(output, self._output)

    def run(self, rows: Matrix) -> Scores:
        self._input.update_inplace(rows)
        self._session.run_with_iobinding(self._binding)
        # on the CPU `numpy()` may be a view of the bound buffer, which the next run overwrites
        return np.array(self._output.numpy(), np.float32)


class OnnxLoader:
    """Turns verified bytes into a model that is warm on every bucket."""

    def __init__(
        self, expected: Expectation, buckets: Sequence[int], device: Device, fell_back: Callable[[], None]
    ) -> None:
        """`fell_back` is called once CUDA was asked for, or is installed, and the CPU serves instead."""
        self._expected = expected
        self._buckets = tuple(buckets)
        self._providers = _providers(device)
        self._fell_back = fell_back
        if device == "cuda" and self._providers == [CPU]:
            fell_back()

    def check(self, manifest: Manifest) -> None:
        """Refuse what needs no bytes. Raises RecordError."""
        check_manifest(manifest, self._expected)

    def load(self, manifest: Manifest, data: bytes) -> OnnxModel:
        """Structure → session → golden inputs → every bucket. Blocks for the whole of it. Raises RecordError."""
        check_graph(data, manifest, self._expected)
        try:
            session = onnxruntime.InferenceSession(data, _options(), self._providers)
        except _SESSION_ERRORS as error:
            raise RecordError("session", str(error)) from error
        model = OnnxModel(manifest, session, self._expected.output)
        if CUDA in self._providers and model.provider != CUDA:
            self._fell_back()  # installed, but no device or driver: the runtime chose the CPU by itself
        if model.provider == CUDA:
            try:
                model.bind(self._buckets, "cuda")
            except _SESSION_ERRORS as error:
                raise RecordError("session", f"the device cannot hold the batches: {error}") from error
        trial(model, manifest.golden, self._buckets)
        return model


def _providers(device: Device) -> list[str | tuple[str, dict[str, str | int]]]:
    if device != "cpu" and CUDA in onnxruntime.get_available_providers():
        return [(CUDA, {"cudnn_conv_algo_search": "HEURISTIC"}), CPU]
    return [CPU]


def _options() -> onnxruntime.SessionOptions:
    """One thread a session: the process is one worker, and a spinning pool would take the broker's core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options
