"""Settings of the drift service; what is watched, and how closely, is in the pipeline file."""

from pathlib import Path

from pydantic import Field

from tidemill.runtime.config import RuntimeConfig


class DriftConfig(RuntimeConfig):
    """One process; a pipeline has one active instance of this service."""

    public_key_file: Path = Field(
        description="hex Ed25519 public key that manifests are signed with; read at the first promotion"
    )
