"""One training, from outcomes to a measured ONNX artefact; runs in the training process."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tidemill import clock
from tidemill.domain.model import QUANTILES, Golden, Reference, Vector, digest
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.quality import auc, average_precision
from tidemill.errors import ConfigurationError
from tidemill.retrain.core.gates import Measurements
from tidemill.retrain.core.trainer import Trainer
from tidemill.retrain.export import Exported, Matrix, Scores, Session, export, parity_error, write_artefact
from tidemill.retrain.messages import Artefact, TrainJob, TrainReport
from tidemill.retrain.outcomes import Outcomes, OutcomeSource, write_dataset

_GOLDEN_ROWS = 8
_EXAMPLE_ROWS = 4


def load_trainer(reference: str) -> Trainer:
    """The trainer class that a pipeline names as `module:Class`, constructed. Raises ConfigurationError."""
    module_name, _, class_name = reference.partition(":")
    try:
        trainer: Trainer = getattr(importlib.import_module(module_name), class_name)()
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(
            f"the trainer {reference} cannot be loaded: {error}", hint="model.trainer names `module:Class`"
        ) from error
    return trainer


@dataclass(frozen=True, slots=True)
class Workshop:
    """What a training works with: the pipeline, its outcomes, its trainer, and the folder that keeps what is made."""

    pipeline: Pipeline
    source: OutcomeSource
    trainer: Trainer
    data_dir: Path

    def train(self, job: TrainJob) -> TrainReport:
        """Blocks for as long as it takes. The same job on the same outcomes makes the same bytes."""
        began = clock.monotonic()
        rows, offsets = self.source.read(job.train_from, job.holdout_to)
        held_out = rows.event_time >= job.train_to
        train, holdout = rows.where(~held_out), rows.where(held_out)
        dataset = write_dataset(rows, self.pipeline.feature_names, self.data_dir / "datasets")
        measured, metrics, artefact = Measurements(train.positives), _quality(holdout), None
        read = clock.monotonic()
        enough = train.positives >= self.pipeline.retrain.gates.min_positives and train.positives < len(train)
        if enough and len(holdout):
            measured, metrics, artefact = self._fit(job, train, holdout)
        metrics["seconds"] = {"read": round(read - began, 2), "fit": round(clock.monotonic() - read, 2)}
        return TrainReport(
            rows=len(train),
            positives=train.positives,
            dataset_sha256=dataset,
            offsets=offsets,
            measured=measured,
            metrics=metrics,
            artefact=artefact,
        )

    def _fit(self, job: TrainJob, train: Outcomes, holdout: Outcomes) -> tuple[Measurements, dict[str, Any], Artefact]:
        model = self.pipeline.model
        inputs = train.features.astype(np.float32)
        labels = train.label.astype(np.float32)
        module = self.trainer.fit(inputs, labels, seed=job.seed, parameters=model.parameters)
        exported = export(module, _at_least(inputs, _EXAMPLE_ROWS)[:_EXAMPLE_ROWS], model.output)
        session = Session(exported.data)
        unseen = holdout.features.astype(np.float32)
        batch = _with_nulls(_at_least(unseen, model.batching.max_size)[: model.batching.max_size])
        scores = session.score(unseen)
        metrics = _quality(holdout, scores, self._slices(holdout))
        measured = Measurements(
            train_positives=train.positives,
            finite=_within_unit(scores) and _within_unit(session.score(batch)),
            parity_error=_finite_or_none(parity_error(module, session, batch)),
            latency_ms=session.milliseconds(batch),
            holdout_gain=_gain(metrics["holdout"]),
        )
        return measured, metrics, self._artefact(job, exported, session, train, batch)

    def _artefact(
        self, job: TrainJob, exported: Exported, session: Session, train: Outcomes, batch: Matrix
    ) -> Artefact:
        path = self.data_dir / "models" / f"{self.pipeline.model.name}-{job.version}.onnx"
        write_artefact(exported.data, path)
        golden = batch[:_GOLDEN_ROWS]
        return Artefact(
            path=str(path),
            sha256=digest(exported.data),
            size=len(exported.data),
            opset=exported.opset,
            inputs=exported.inputs,
            outputs=exported.outputs,
            golden=Golden(
                inputs=_vectors(golden),
                outputs=tuple(float(score) for score in session.score(golden)),
                tolerance=self.pipeline.retrain.gates.parity_tolerance,
            ),
            reference=self._reference(train, job.seed),
        )

    def _reference(self, train: Outcomes, seed: int) -> Reference:
        """Percentiles of each column without its nulls; a column that is all null counts as constant 0."""
        quantiles = {}
        for index, name in enumerate(self.pipeline.feature_names):
            column = train.features[:, index]
            known = column[~np.isnan(column)]
            levels = np.percentile(known, np.linspace(0, 100, QUANTILES)) if known.size else np.zeros(QUANTILES)
            # Interpolation can step back by one unit in the last place between equal values.
            quantiles[name] = tuple(float(level) for level in np.maximum.accumulate(levels))
        count = min(self.pipeline.drift.prime_rows, len(train))
        chosen = np.random.default_rng(seed).choice(len(train), size=count, replace=False)
        return Reference(quantiles, _vectors(train.features[np.sort(chosen)]))

    def _slices(self, holdout: Outcomes) -> dict[str, npt.NDArray[np.bool_]]:
        """Thirds of the first feature that is an event field as it is (the amount, for payments)."""
        features = [feature for stage in self.pipeline.features.stages for feature in stage.features]
        index = next((index for index, feature in enumerate(features) if feature.value is not None), None)
        if index is None or len(holdout) == 0:
            return {}
        column = holdout.features[:, index]
        low, high = np.nanquantile(column, [1 / 3, 2 / 3])
        name = features[index].name
        return {
            f"{name} < {low:.6g}": column < low,
            f"{name} {low:.6g} to {high:.6g}": (column >= low) & (column < high),
            f"{name} ≥ {high:.6g}": column >= high,
        }


def _quality(
    holdout: Outcomes,
    scores: npt.NDArray[np.floating[Any]] | None = None,
    slices: dict[str, npt.NDArray[np.bool_]] | None = None,
) -> dict[str, Any]:
    """What was live on the holdout, and the candidate beside it where there is one."""

    def measure(rows: npt.NDArray[np.bool_]) -> dict[str, Any]:
        label = holdout.label[rows]
        found: dict[str, Any] = {"rows": int(label.size), "positives": int(label.sum())}
        for name, values in (("live", holdout.score), ("candidate", scores)):
            if values is not None:
                ranked = values[rows]
                found[name] = {"auc": auc(ranked, label), "average_precision": average_precision(ranked, label)}
        return found

    everything = np.ones(len(holdout), dtype=np.bool_)
    return {
        "holdout": measure(everything),
        "live_versions": sorted({int(version) for version in holdout.model_version}),
        "slices": {name: measure(rows) for name, rows in (slices or {}).items()},
    }


def _gain(holdout: dict[str, Any]) -> float | None:
    ours, theirs = holdout["candidate"]["average_precision"], holdout["live"]["average_precision"]
    return None if ours is None or theirs is None else float(ours - theirs)


def _within_unit(scores: Scores) -> bool:
    return bool(((scores >= 0) & (scores <= 1)).all())


def _finite_or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _at_least(rows: Matrix, count: int) -> Matrix:
    return rows if len(rows) >= count else np.resize(rows, (count, rows.shape[1]))


def _with_nulls(rows: Matrix) -> Matrix:
    """The same rows, the last one all undefined: the graph must answer that too."""
    marked = rows.copy()
    marked[-1] = np.nan
    return marked


def _vectors(rows: npt.NDArray[np.floating[Any]]) -> tuple[Vector, ...]:
    return tuple(tuple(None if np.isnan(value) else float(value) for value in row) for row in rows)


def limit_threads() -> None:
    """One core: the event path needs the others."""
    torch.set_num_threads(1)
