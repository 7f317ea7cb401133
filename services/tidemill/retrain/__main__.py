"""`python -m tidemill.retrain`: settings from TIDEMILL_*, then one retrain process."""

import sys

from tidemill.errors import TidemillError
from tidemill.retrain import process
from tidemill.retrain.config import RetrainConfig
from tidemill.runtime.config import load_config
from tidemill.runtime.logs import configure_logs, get_logger
from tidemill.runtime.pipelinefile import load_pipeline


def main() -> int:
    """The process' exit code."""
    configure_logs(service=process.NAME)
    try:
        config = load_config(RetrainConfig)
        configure_logs(config.log_level, config.log_format, service=process.NAME, instance=config.instance)
        return process.run(config, load_pipeline(config.pipeline))
    except TidemillError as error:
        kind = type(error).__name__
        get_logger("main").critical("service stopped", reason=error.message, next_step=error.hint, kind=kind)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
