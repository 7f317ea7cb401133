"""Settings of the retrain service; when and how it trains is in the pipeline file."""

from pathlib import Path

from pydantic import Field

from tidemill.runtime.config import RuntimeConfig


class RetrainConfig(RuntimeConfig):
    """One process; a pipeline has one active instance of this service. `data_dir` keeps data sets and models."""

    signing_key_file: Path = Field(
        description="hex Ed25519 private key that published models are signed with; made, with its public half "
        "signing.pub beside it, if it is not there"
    )
    job_timeout_s: float = Field(300.0, gt=0, le=86_400, description="a training or comparison is killed after this")
    job_niceness: int = Field(2, ge=0, le=19, description="priority of the training process below the event path's")
    job_attempts: int = Field(3, ge=1, le=20, description="times a job is tried before its candidate is given up")
    tick_s: float = Field(2.0, gt=0, le=60, description="how often work that is due is looked for without a record")
