"""What is known and what is written, kept together: nothing is folded before the broker has it."""

import asyncio

from tidemill.domain.model import Activation, Manifest
from tidemill.domain.pipeline import Pipeline
from tidemill.retrain.core.policy import pending_alarms
from tidemill.retrain.core.records import Decision
from tidemill.retrain.journal import Journal
from tidemill.retrain.publishing import Publisher
from tidemill.runtime.logs import get_logger
from tidemill.runtime.metrics import Metrics


class Recorder:
    """Its coroutines write through a thread. The caller keeps them in order: one at a time, under one lock."""

    def __init__(self, pipeline: Pipeline, journal: Journal, publisher: Publisher, metrics: Metrics) -> None:
        self.situation = journal.situation
        self.catalogue = journal.catalogue
        self.metrics = metrics
        self._pipeline = pipeline
        self._publisher = publisher
        self._log = get_logger("decisions")
        for topic, count in journal.unusable.items():
            metrics.count("tidemill_retrain_unusable_records_total", count, topic)

    async def record(self, decision: Decision) -> None:
        """Write a decision and fold it. One that is there already stays as it is."""
        if decision.id in self.situation.decisions:
            return
        await asyncio.to_thread(self._publisher.record, decision)
        self.situation.fold_decision(decision)
        self.metrics.count("tidemill_retrain_decisions_total", 1, decision.kind, decision.policy)
        self._log.info(
            "decision",
            id=decision.id,
            kind=decision.kind,
            at=decision.at,
            policy=decision.policy,
            trigger=decision.trigger,
            model_version=decision.model_version,
            reason=decision.reason,
        )

    async def publish(self, manifest: Manifest, artefact: bytes) -> None:
        """Chunks and manifest; the version serves nowhere yet."""
        await asyncio.to_thread(self._publisher.publish, manifest, artefact, manifest.created_at)
        self.catalogue.fold(manifest)

    async def activate(self, decision: Decision, champion: int | None, challenger: int | None) -> None:
        """Say what serves and what shadows from now on because of `decision`, then record that.

        An activation that was written for it before a crash is not written again.
        """
        if not self.catalogue.announced(decision.id):
            activation = Activation(
                name=self._pipeline.model.name,
                epoch=self.catalogue.next_epoch,
                champion=champion,
                challenger=challenger,
                at=decision.at,
                reason=decision.reason,
                decision=decision.id,
            )
            await asyncio.to_thread(self._publisher.activate, activation)
            self.catalogue.fold(activation)
        await self.record(decision)

    def show(self) -> None:
        """Set the gauges."""
        situation = self.situation
        candidate = situation.candidate
        self.metrics.set("tidemill_retrain_watermark_seconds", situation.at / 1_000)
        self.metrics.set("tidemill_retrain_champion_version", situation.champion or 0)
        self.metrics.set("tidemill_retrain_challenger_version", (candidate and candidate.model_version) or 0)
        self.metrics.set("tidemill_retrain_pending_alarms", len(pending_alarms(situation)))
