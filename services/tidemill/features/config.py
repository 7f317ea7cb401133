"""Settings of one process of the feature processor. Windows, lateness and maturity are in the pipeline file instead."""

from pathlib import Path

from pydantic import Field

from tidemill.runtime.config import RuntimeConfig


class FeaturesConfig(RuntimeConfig):
    """Which stage this process runs, and where it keeps compiled kernels."""

    stage: str = Field(
        min_length=1, description="entity of the feature stage to run, or `outcomes` for the join with labels"
    )
    kernel_cache_dir: Path | None = Field(
        None, description="writable folder for compiled kernels; left out: the user's cache folder"
    )
    kernel_seed_dir: Path | None = Field(
        Path("/opt/tidemill/kernels"),
        description="kernels compiled when an image was built, copied into the cache at start; ignored if absent",
    )
