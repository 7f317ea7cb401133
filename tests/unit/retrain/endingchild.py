"""Stands in for the training process: answers, hangs or ends, as the job's version says."""

import sys

from tidemill.retrain.messages import JobRefused, TrainJob, decode_job, encode_line

sys.stdout.buffer.write(b"ready\n")
sys.stdout.buffer.flush()
for line in sys.stdin.buffer:
    job = decode_job(line)
    assert isinstance(job, TrainJob)
    if job.version == 1:
        sys.exit(9)
    if job.version == 2:
        continue
    sys.stdout.buffer.write(encode_line(JobRefused(f"{job.version} by {job.seed}" + "x" * 200_000)))
    sys.stdout.buffer.flush()
