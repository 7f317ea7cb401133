"""Settings of one process of the feature processor. Windows, lateness and maturity are in the pipeline file instead."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tidemill.runtime.config import RuntimeConfig

OUTCOMES_STAGE = "outcomes"
ALL = "all"


class FeaturesConfig(RuntimeConfig):
    """Which stages this process runs, and where it keeps compiled kernels."""

    pipeline: str = Field(min_length=1, description="names or files of pipelines, comma-separated")
    stage: str = Field(
        min_length=1,
        description="what to run, comma-separated: entities of feature stages, `outcomes` for the join; or `all`",
    )
    kernel_cache_dir: Path | None = Field(
        None, description="writable folder for compiled kernels; left out: the user's cache folder"
    )
    kernel_seed_dir: Path | None = Field(
        Path("/opt/tidemill/kernels"),
        description="kernels compiled when an image was built, copied into the cache at start; ignored if absent",
    )

    @property
    def pipelines(self) -> list[str]:
        return [name.strip() for name in self.pipeline.split(",") if name.strip()]

    def stages_of(self, entities: Sequence[str]) -> list[str]:
        """The stages to run of a pipeline whose feature stages have these entities."""
        if self.stage == ALL:
            return [*entities, OUTCOMES_STAGE]
        return [name.strip() for name in self.stage.split(",") if name.strip()]
