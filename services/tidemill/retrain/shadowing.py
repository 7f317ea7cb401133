"""One comparison of two models on matured outcomes; runs in the training process."""

from contextlib import closing

import numpy as np
import numpy.typing as npt

from tidemill.domain.model import chunk_key, digest
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError
from tidemill.retrain.core.comparison import PairedScores, compare
from tidemill.retrain.export import Session
from tidemill.retrain.messages import CompareJob, CompareReport, StoredModel
from tidemill.retrain.outcomes import NO_VERSION, OpenReader, Outcomes, OutcomeSource


def run_comparison(
    job: CompareJob, pipeline: Pipeline, source: OutcomeSource, open_reader: OpenReader
) -> CompareReport:
    """Blocks while it reads. The same job on the same outcomes gives the same verdict.

    Rows count only where `job.incumbent` was live: a switch in between credits no model with another's scores.
    Raises RecordError if a model to rescore with cannot be put together again.
    """
    rows, _ = source.read(job.from_ms, job.to_ms)
    rows = rows.where(rows.model_version == (NO_VERSION if job.incumbent is None else job.incumbent))
    if job.rescore is None:
        rows = rows.where(rows.shadow_version == job.challenger)
    if not len(rows):
        return CompareReport(comparison=None)
    if job.span_ms is not None:
        end = int(rows.event_time[0]) + job.span_ms
        if job.to_ms < end:
            return CompareReport(comparison=None, complete_at=end)
        rows = rows.where(rows.event_time < end)
    challenger = rows.shadow_score
    if job.rescore is not None:
        challenger = _rescored(rows, fetch(job.rescore, pipeline, open_reader))
    paired = PairedScores(rows.event_time, rows.label, challenger, rows.score)
    return CompareReport(comparison=compare(paired, pipeline.retrain.shadow, limit=job.limit, seed=job.seed))


def fetch(stored: StoredModel, pipeline: Pipeline, open_reader: OpenReader) -> bytes:
    """The artefact's bytes from the model-chunks topic. Raises RecordError `chunks` or `digest`."""
    wanted = {chunk_key(pipeline.model.name, stored.version, index): index for index in range(stored.chunks)}
    found: dict[int, bytes] = {}
    with closing(open_reader(pipeline.topic("model-chunks"))) as reader:
        while not reader.at_end():
            for record in reader.poll(1_000, 0.2):
                index = wanted.get(record.key or b"")
                if index is not None:
                    found[index] = record.value or b""
    if len(found) < stored.chunks:
        raise RecordError("chunks", f"{len(found)} of {stored.chunks} chunks of version {stored.version} are there")
    data = b"".join(found[index] for index in range(stored.chunks))
    if digest(data) != stored.sha256:
        raise RecordError("digest", f"version {stored.version} does not have the SHA-256 of its manifest")
    return data


def _rescored(rows: Outcomes, data: bytes) -> npt.NDArray[np.float64]:
    return Session(data).score(rows.features.astype(np.float32)).astype(np.float64)
