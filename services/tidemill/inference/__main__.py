"""`python -m tidemill.inference`: settings from TIDEMILL_*, then one inference process."""

import sys

from tidemill.errors import TidemillError
from tidemill.inference import process
from tidemill.inference.config import InferenceConfig
from tidemill.runtime.config import load_config
from tidemill.runtime.logs import configure_logs, get_logger
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.respawn import run_in_worker


def main() -> int:
    """The process' exit code."""
    configure_logs(service=process.NAME)
    try:
        config = load_config(InferenceConfig)
        configure_logs(config.log_level, config.log_format, service=process.NAME, instance=config.instance)
        pipeline = load_pipeline(config.pipeline)
        return run_in_worker(lambda: process.run(config, pipeline))
    except TidemillError as error:
        get_logger("main").error("stopped", reason=error.message, hint=error.hint, exit_code=error.exit_code)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
