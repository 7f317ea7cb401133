"""Does the work that is due in the training process, one job at a time, and turns each report into its decision."""

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import msgspec

from tidemill import clock
from tidemill.domain.model import Manifest, digest
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import StateCorrupt
from tidemill.retrain.core.conclusions import conclude, judge_promotion, judge_shadow
from tidemill.retrain.core.gates import failures, judge, shadow_limit
from tidemill.retrain.core.policy import evaluation_given_up_at, rollback_due, work_due
from tidemill.retrain.core.records import Decision, DecisionKind
from tidemill.retrain.manifests import build_manifest, version_of
from tidemill.retrain.messages import (
    CompareJob,
    CompareReport,
    Job,
    JobRefused,
    Report,
    StoredModel,
    TrainJob,
    TrainReport,
)
from tidemill.retrain.recorder import Recorder
from tidemill.runtime.logs import get_logger


class Jobs(Protocol):
    """Where jobs are done; TrainingProcess is the real one."""

    async def run(self, job: Job) -> Report: ...


class Worker:
    """`lock` is held while a decision is taken from a report, never while a job runs."""

    def __init__(self, pipeline: Pipeline, recorder: Recorder, jobs: Jobs, lock: asyncio.Lock, attempts: int) -> None:
        self._pipeline = pipeline
        self._recorder = recorder
        self._situation = recorder.situation
        self._jobs = jobs
        self._lock = lock
        self._attempts = attempts
        self._failed: dict[str, int] = {}
        self._not_before = 0
        self._log = get_logger("worker")

    async def do_next(self) -> bool:
        """Do one job if one is due. True if that changed the situation; False means wait for the next record."""
        situation = self._situation
        work = work_due(situation, self._pipeline)
        promotion = rollback_due(situation, self._pipeline)
        retrain, candidate = situation.in_progress, situation.candidate
        if work == "question" and promotion is not None:
            return await self._question(promotion)
        if work == "train" and retrain is not None:
            return await self._train(retrain)
        if work == "evaluate" and retrain is not None and candidate is not None:
            return await self._evaluate(retrain, candidate)
        return False

    async def _train(self, retrain: Decision) -> bool:
        """Also finishes a publication that a crash interrupted: a manifest that is there passed its gates."""
        version = version_of(retrain)
        published = self._recorder.catalogue.manifests.get(version)
        if published is not None:
            async with self._lock:
                await self._announce(retrain, published)
            return True
        plan = retrain.details
        report = await self._run(
            TrainJob(
                version=version,
                train_from=plan["train_from"],
                train_to=plan["train_to"],
                holdout_to=plan["holdout_to"],
                seed=plan["seed"],
            )
        )
        async with self._lock:
            if not isinstance(report, TrainReport):
                return await self._after_failure(retrain, report, "refused")
            await self._judge_training(retrain, report)
            return True

    async def _judge_training(self, retrain: Decision, report: TrainReport) -> None:
        gates = judge(report.measured, self._pipeline.retrain.gates, retrain.policy)
        failed = failures(gates)
        if failed or report.artefact is None:
            reason = f"version {retrain.model_version} is refused: {'; '.join(failed) or 'nothing could be trained'}"
            details = {
                "gates": msgspec.to_builtins(gates),
                "measured": asdict(report.measured),
                "metrics": report.metrics,
                "rows": report.rows,
                "dataset_sha256": report.dataset_sha256,
            }
            await self._recorder.record(conclude(self._situation, retrain, "refused", reason, details))
            return
        artefact = await asyncio.to_thread(Path(report.artefact.path).read_bytes)
        if digest(artefact) != report.artefact.sha256:
            hint = "does another process use this data_dir?"
            raise StateCorrupt(f"{report.artefact.path} is not what training wrote", hint=hint)
        manifest = build_manifest(self._pipeline, retrain, report, report.artefact, gates, self._situation.at)
        await self._recorder.publish(manifest, artefact)
        await self._announce(retrain, manifest)

    async def _announce(self, retrain: Decision, manifest: Manifest) -> None:
        details = {
            "gates": msgspec.to_builtins(manifest.gates),
            "metrics": manifest.metrics,
            "sha256": manifest.sha256,
            "rows": manifest.training.rows,
            "positives": manifest.training.positives,
        }
        reason = f"version {manifest.version} passed every gate and shadows what is live"
        decision = conclude(self._situation, retrain, "candidate", reason, details)
        await self._recorder.activate(decision, self._situation.champion, manifest.version)

    async def _evaluate(self, retrain: Decision, candidate: Decision) -> bool:
        situation, pipeline = self._situation, self._pipeline
        watermark = situation.at
        if watermark < self._not_before:
            return False
        report = await self._run(
            CompareJob(
                challenger=version_of(retrain),
                incumbent=situation.champion,
                from_ms=candidate.at + pipeline.outcomes.maturity,
                to_ms=watermark,
                span_ms=pipeline.retrain.shadow.matured,
                limit=shadow_limit(retrain.policy),
                seed=retrain.details["seed"],
            )
        )
        async with self._lock:
            if not isinstance(report, CompareReport):
                return await self._after_failure(retrain, report, "rejected")
            if report.comparison is None and watermark < evaluation_given_up_at(candidate, pipeline):
                self._not_before = report.complete_at or watermark + 1
                return False
            decision = judge_shadow(situation, retrain, report.comparison)
            champion = retrain.model_version if decision.kind == "promoted" else situation.champion
            await self._recorder.activate(decision, champion, None)
            return True

    async def _question(self, promotion: Decision) -> bool:
        """Would the version before have done better on the days since? It is asked anew, on the same rows."""
        situation, pipeline = self._situation, self._pipeline
        before = self._recorder.catalogue.manifests.get(promotion.details["champion_before"])
        comparison: dict[str, Any] | None = None
        failure = "its manifest is not on the models topic"
        if before is not None:
            report = await self._run(
                CompareJob(
                    challenger=before.version,
                    incumbent=promotion.model_version,
                    from_ms=promotion.at + pipeline.outcomes.maturity,
                    to_ms=situation.at,
                    span_ms=None,
                    limit=0.0,
                    seed=pipeline.retrain.seed,
                    rescore=StoredModel(before.version, before.sha256, before.size, before.chunks),
                )
            )
            comparison = report.comparison if isinstance(report, CompareReport) else None
            failure = report.reason if isinstance(report, JobRefused) else "none of its events has matured"
            if isinstance(report, JobRefused) and self._may_try_again(promotion):
                return False
        async with self._lock:
            decision = judge_promotion(situation, promotion, comparison, failure)
            if decision.kind == "rollback":
                challenger = situation.candidate.model_version if situation.candidate else None
                await self._recorder.activate(decision, decision.model_version, challenger)
            else:
                await self._recorder.record(decision)
            return True

    async def _after_failure(self, retrain: Decision, report: Report, kind: DecisionKind) -> bool:
        """Try again at the next tick, up to the allowed attempts; then the version is given up."""
        reason = report.reason if isinstance(report, JobRefused) else f"it answered with a {type(report).__name__}"
        if self._may_try_again(retrain):
            return False
        sentence = f"version {retrain.model_version} is given up after {self._attempts} attempts: {reason}"
        decision = conclude(self._situation, retrain, kind, sentence, {"gates": [], "failure": reason})
        if kind == "refused":
            await self._recorder.record(decision)
        else:
            await self._recorder.activate(decision, self._situation.champion, None)
        return True

    def _may_try_again(self, decision: Decision) -> bool:
        """Count a failed job of `decision`; whether it has attempts left, for the next tick."""
        failed = self._failed[decision.id] = self._failed.get(decision.id, 0) + 1
        return failed < self._attempts

    async def _run(self, job: Job) -> Report:
        name = "train" if isinstance(job, TrainJob) else "compare"
        version = job.version if isinstance(job, TrainJob) else job.challenger
        self._log.info("job_started", job=name, model_version=version)
        began = clock.monotonic()
        report = await self._jobs.run(job)
        seconds = clock.monotonic() - began
        reason = report.reason if isinstance(report, JobRefused) else None
        result = "done" if reason is None else "refused"
        self._recorder.metrics.count("tidemill_retrain_jobs_total", 1, name, result)
        self._recorder.metrics.observe("tidemill_retrain_job_seconds", seconds, name)
        self._log.info("job_ended", job=name, model_version=version, result=result, reason=reason, seconds=seconds)
        return report
