"""Settings of the inference service, beside those that every service has."""

from pathlib import Path

from pydantic import Field

from tidemill.inference.core.model import Device
from tidemill.runtime.config import RuntimeConfig


class InferenceConfig(RuntimeConfig):
    """Batching, model name and decision rule come from the pipeline file; this is about the one process."""

    public_key_file: Path = Field(description="hex Ed25519 public key that published models are signed with")
    device: Device = Field("auto", description="auto: CUDA where onnxruntime-gpu and a device are there, else the CPU")
    model_wait_s: float = Field(45.0, gt=0, le=55, description="longest wait for a recorded model before giving up")
    max_request_bytes: int = Field(4_000_000, ge=1_000, description="largest body of POST …/infer; beyond it 413")
    http_deadline_ms: float = Field(1_000.0, gt=0, description="deadline of a request that names none; then 504")
