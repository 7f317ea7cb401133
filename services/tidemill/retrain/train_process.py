"""The training process: jobs in on standard input, reports out on standard output, one JSON object a line.

It is started early and kept, so that the seconds of importing PyTorch and of the first export are paid before a drift
asks for a model. It works at low priority on one core and ends when its input does. Known failures are reported; any
other ends the process with its traceback, and the service starts a new one.
"""

import os
import signal
import sys
import threading
from queue import SimpleQueue
from typing import BinaryIO, NoReturn

import numpy as np

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError, TidemillError
from tidemill.retrain.config import RetrainConfig
from tidemill.retrain.export import export
from tidemill.retrain.messages import Job, JobRefused, Report, TrainJob, decode_job, encode_line
from tidemill.retrain.outcomes import OutcomeSource
from tidemill.retrain.readers import reader_opener
from tidemill.retrain.shadowing import run_comparison
from tidemill.retrain.training import Workshop, limit_threads, load_trainer
from tidemill.runtime.config import load_config
from tidemill.runtime.logs import configure_logs, get_logger
from tidemill.runtime.pipelinefile import load_pipeline

READY_LINE = b"ready\n"
_REHEARSAL_ROWS = 64


class JobRunner:
    """Does jobs, one after another."""

    def __init__(self, config: RetrainConfig, pipeline: Pipeline) -> None:
        self._config = config
        self._pipeline = pipeline
        self._open = reader_opener(config)
        self._source = OutcomeSource(pipeline, self._open)
        self._workshop = Workshop(pipeline, self._source, load_trainer(pipeline.model.trainer), config.data_dir)

    def rehearse(self) -> None:
        """Fit and export a toy model: the first time costs seconds of imports that the second does not."""
        rows = np.random.default_rng(0).random((_REHEARSAL_ROWS, len(self._pipeline.feature_names)), np.float32)
        labels = (np.arange(_REHEARSAL_ROWS) % 2).astype(np.float32)
        parameters = {**self._pipeline.model.parameters, "epochs": 1}
        module = self._workshop.trainer.fit(rows, labels, seed=0, parameters=parameters)
        export(module, rows[:2], self._pipeline.model.output)

    def do(self, job: Job) -> Report:
        try:
            if isinstance(job, TrainJob):
                return self._workshop.train(job)
            return run_comparison(job, self._pipeline, self._source, self._open)
        except TidemillError as error:
            return JobRefused(error.message)
        except RecordError as error:
            return JobRefused(f"a record cannot be used: {error}")


def serve(runner: JobRunner, jobs: BinaryIO, reports: BinaryIO) -> NoReturn:
    """For ever; the process ends when `jobs` does, even in the middle of a job: nobody waits for its report then."""
    lines: SimpleQueue[bytes] = SimpleQueue()

    def read() -> None:
        for line in jobs:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, name="jobs", daemon=True).start()
    reports.write(READY_LINE)
    reports.flush()
    while True:
        reports.write(encode_line(runner.do(decode_job(lines.get()))))
        reports.flush()


def main() -> None:
    # Libraries print: whatever they print must not get among the reports.
    reports = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service closes our input
    limit_threads()
    try:
        config = load_config(RetrainConfig)
        configure_logs(config.log_level, config.log_format, service="retrain", component="training")
        pipeline = load_pipeline(config.pipeline)
        runner = JobRunner(config, pipeline)
    except TidemillError as error:
        get_logger("training").error("cannot_start", reason=error.message, hint=error.hint)
        sys.exit(error.exit_code)
    runner.rehearse()
    os.nice(config.job_niceness)  # not before: whoever waits for this start should not wait longer than needed
    serve(runner, sys.stdin.buffer, reports)


if __name__ == "__main__":
    main()
