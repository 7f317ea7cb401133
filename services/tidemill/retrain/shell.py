"""The learning loop: folds records of the drift topic, records what the policy decides, and keeps the worker busy.

Everything runs in one event loop. Nothing is remembered here that the topics do not say.
"""

import asyncio
from collections.abc import Callable

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import RecordError
from tidemill.retrain.core.policy import ManualRequest, decide, pending_alarms
from tidemill.retrain.core.records import Decision, decode_drift
from tidemill.retrain.recorder import Recorder
from tidemill.retrain.worker import Jobs, Worker
from tidemill.runtime.logs import get_logger


class LearningLoop:
    """`work` runs for ever beside the other methods. `oldest_outcome` gives an event time, or None; it may block."""

    def __init__(
        self,
        pipeline: Pipeline,
        recorder: Recorder,
        jobs: Jobs,
        oldest_outcome: Callable[[], int | None],
        job_attempts: int,
    ) -> None:
        self._pipeline = pipeline
        self._recorder = recorder
        self._situation = recorder.situation
        self._oldest_outcome = oldest_outcome
        self._lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._worker = Worker(pipeline, recorder, jobs, self._lock, job_attempts)
        self._log = get_logger("loop")

    async def take(self, value: bytes, offset: int) -> None:
        """Fold one record of the drift topic and act on it. Redelivery is harmless. An unusable record is passed over,
        counted and logged."""
        self._recorder.metrics.count("tidemill_runtime_records_total", 1, self._pipeline.topic("drift"))
        try:
            self._situation.fold_drift(decode_drift(value), offset)
        except RecordError as error:
            topic = self._pipeline.topic("drift")
            self._recorder.metrics.count("tidemill_retrain_unusable_records_total", 1, topic)
            self._log.warning("unusable_record", topic=topic, offset=offset, reason=str(error))
            return
        await self.step()
        self._wake.set()

    async def step(self, manual: ManualRequest | None = None) -> list[Decision]:
        """Decide, and record what was decided. Returns the new decisions, and wakes the worker if there are any."""
        async with self._lock:
            situation = self._situation
            if situation.stream_start is None and situation.statistics is not None:
                situation.stream_start = await asyncio.to_thread(self._oldest_outcome)
            decisions = decide(situation, self._pipeline, manual)
            for decision in decisions:
                await self._recorder.record(decision)
            self._recorder.show()
            if decisions:
                self._wake.set()
            return decisions

    def tick(self) -> None:
        """Look for due work even though no record came."""
        self._wake.set()

    async def work(self) -> None:
        """Decide at once, then do the jobs that are due, for ever; `take`, `step` and `tick` wake it."""
        while True:
            self._wake.clear()
            await self.settle()
            await self._wake.wait()

    async def settle(self) -> None:
        """Decide and do the jobs that are due now; returns when only a new record can change anything."""
        await self.step()
        while await self._worker.do_next():
            await self.step()

    def view(self) -> dict[str, object]:
        """The state of the loop as JSON values."""
        situation = self._situation
        last = situation.trainings[-1] if situation.trainings else None
        return {
            "phase": situation.phase,
            "watermark": situation.watermark,
            "champion": situation.champion,
            "challenger": situation.candidate.model_version if situation.candidate else None,
            "training": situation.in_progress.model_version if situation.in_progress else None,
            "cooldown_until": last.at + self._pipeline.retrain.cooldown if last else None,
            "pending_alarms": [seen.alarm.id for seen in pending_alarms(situation)],
            "trainings": len(situation.trainings),
            "decisions": len(situation.decisions),
        }
