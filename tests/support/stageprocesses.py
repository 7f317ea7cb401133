"""Feature stages as processes."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def stage_process(kafka: str, pipeline_file: str, stage: str, folder: Path) -> Iterator[None]:
    """`python -m tidemill.features` until the end of the block; it must leave in order."""
    environment = {
        **os.environ,
        "TIDEMILL_STAGE": stage,
        "TIDEMILL_PIPELINE": pipeline_file,
        "TIDEMILL_BOOTSTRAP_SERVERS": kafka,
        "TIDEMILL_DATA_DIR": str(folder / stage),
        "TIDEMILL_MAX_POLL_RECORDS": "500",
    }
    with (folder / f"{stage}.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "tidemill.features"], env=environment, stderr=log)
        try:
            yield
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait()
