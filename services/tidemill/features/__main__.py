"""`python -m tidemill.features`: settings from TIDEMILL_*, then the stages and joins that TIDEMILL_STAGE names."""

import os
import sys

from tidemill.errors import TidemillError
from tidemill.features import process
from tidemill.features.config import FeaturesConfig
from tidemill.features.kernel_cache import prepare_cache
from tidemill.runtime.config import load_config
from tidemill.runtime.logs import configure_logs, get_logger
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.respawn import run_in_worker


def main() -> int:
    """The process' exit code."""
    configure_logs(service="features")
    try:
        config = load_config(FeaturesConfig)
        configure_logs(
            config.log_level, config.log_format, service=f"features-{config.stage}", instance=config.instance
        )
        prepare_cache(
            os.environ,
            folder=config.kernel_cache_dir,
            seed=config.kernel_seed_dir,
            fallback=config.data_dir / "kernels",
        )
        pipelines = [load_pipeline(name) for name in config.pipelines]
        process.preload(config, pipelines)
        return run_in_worker(lambda: process.run(config, pipelines))
    except TidemillError as error:
        get_logger("main").error("stopped", reason=error.message, hint=error.hint, exit_code=error.exit_code)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
