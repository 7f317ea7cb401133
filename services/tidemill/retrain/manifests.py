"""A manifest from what a training reported and why it was asked for. Pure but for the artefact's file."""

from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.model import CHUNK_BYTES, GateResult, Manifest, Training
from tidemill.domain.pipeline import Pipeline
from tidemill.retrain.core.records import Decision
from tidemill.retrain.messages import Artefact, TrainReport


def build_manifest(
    pipeline: Pipeline,
    retrain: Decision,
    report: TrainReport,
    artefact: Artefact,
    gates: tuple[GateResult, ...],
    created_at: int,
) -> Manifest:
    """`artefact` is the report's; `created_at` is stream time, so that a redo makes the same record."""
    plan = retrain.details
    return Manifest(
        name=pipeline.model.name,
        version=version_of(retrain),
        sha256=artefact.sha256,
        size=artefact.size,
        chunks=-(-artefact.size // CHUNK_BYTES),
        opset=artefact.opset,
        inputs=artefact.inputs,
        outputs=artefact.outputs,
        feature_set=feature_set_hash(pipeline),
        features=pipeline.feature_names,
        training=Training(
            from_ms=plan["train_from"],
            to_ms=plan["train_to"],
            rows=report.rows,
            positives=report.positives,
            dataset_sha256=report.dataset_sha256,
            offsets=report.offsets,
            seed=plan["seed"],
            policy=retrain.policy,
            trigger=retrain.trigger,
        ),
        metrics=report.metrics,
        gates=gates,
        reference=artefact.reference,
        golden=artefact.golden,
        created_at=created_at,
    )


def version_of(retrain: Decision) -> int:
    """The version that a `retrain` decision is about."""
    if retrain.model_version is None:
        raise ValueError(f"{retrain.id} names no version")
    return retrain.model_version
