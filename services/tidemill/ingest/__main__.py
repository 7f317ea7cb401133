"""`python -m tidemill.ingest`: settings from TIDEMILL_*, then one ingest process."""

import sys

from tidemill.errors import TidemillError
from tidemill.ingest import process
from tidemill.ingest.config import IngestConfig
from tidemill.runtime.config import load_config
from tidemill.runtime.logs import configure_logs, get_logger
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.respawn import run_in_worker


def main() -> int:
    """The process' exit code."""
    configure_logs(service=process.NAME)
    try:
        config = load_config(IngestConfig)
        configure_logs(config.log_level, config.log_format, service=process.NAME, instance=config.instance)
        pipeline = load_pipeline(config.pipeline)
        return run_in_worker(lambda: process.run(config, pipeline))
    except TidemillError as error:
        kind = type(error).__name__
        get_logger("main").critical("service stopped", reason=error.message, next_step=error.hint, kind=kind)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
