"""The one thread that executes models: it takes batches from the batcher as long as there are any.

The owner thread and the HTTP thread submit blocks; the owner waits for its blocks, HTTP is called back. All share one
lock, and no model runs while it is held.
"""

import threading
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.inference.core.batcher import Batcher
from tidemill.inference.core.blocks import Batch, Block, Fate, Lane
from tidemill.inference.core.isolation import ModelBrokenError, Scored, score_or_nan, score_rows
from tidemill.inference.core.model import Matrix, Model, Scores


class BatchObserver(Protocol):
    """Told of every batch, on the worker thread."""

    def batch_scored(self, batch: Batch, seconds: float, poison_rows: int) -> None: ...

    def queue_changed(self, stream_rows: int, http_rows: int) -> None: ...

    def challenger_failed(self, rows: int) -> None: ...

    def model_broken(self, model: Model, message: str) -> None: ...


class WorkerGoneError(TidemillError):
    """The worker has stopped: nothing can be scored any more."""

    def __init__(self) -> None:
        super().__init__("the model worker has stopped", hint="the service is shutting down, or its log says why")


class ModelWorker:
    """Owns the model slot. `start` and `stop` once; the other methods from any thread."""

    def __init__(self, batcher: Batcher, width: int, buckets: Sequence[int], observer: BatchObserver) -> None:
        self._batcher = batcher
        self._buffers: dict[int, Matrix] = {size: np.zeros((size, width), np.float32) for size in buckets}
        self._observer = observer
        self._changed = threading.Condition()
        self._stopping = False
        self._gone = False
        self._failure: TidemillError | None = None
        self._thread = threading.Thread(target=self._run, name="model-worker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Score what waits, then end the thread. Later submissions raise WorkerGoneError."""
        with self._changed:
            self._stopping = True
            self._batcher.drain(True)
            self._changed.notify_all()
        self._thread.join()

    def submit(self, block: Block) -> None:
        """Enqueue. Raises QueueFullError (HTTP only), WorkerGoneError, or what made the worker end."""
        with self._changed:
            if self._stopping or self._gone:
                raise self._failure or WorkerGoneError
            self._batcher.submit(block, clock.monotonic())
            self._changed.notify_all()

    def cancel(self, block: Block) -> None:
        """Drop what of the block has not been scored. `done` is not called."""
        with self._changed:
            self._batcher.cancel(block)

    def wait(self, block: Block) -> None:
        """Block until it is settled. Nothing more is expected meanwhile, so batches close at once.

        Raises the worker's TidemillError where the model cannot score at all: the process must not go on.
        """
        with self._changed:
            if block.fate is Fate.WAITING:
                self._batcher.drain(True)
                self._changed.notify_all()
                self._changed.wait_for(lambda: block.fate is not Fate.WAITING or self._gone)
                self._batcher.drain(self._stopping)
            if block.fate is not Fate.SCORED:
                raise self._failure or TidemillError(
                    f"the model worker ended: {block.error or 'see the traceback above'}",
                    hint="this is a defect; the stream resumes from the last commit when the service is restarted",
                )

    def _run(self) -> None:
        try:
            while (batch := self._next()) is not None:
                self._execute(batch)
        finally:
            with self._changed:
                self._gone = True
                for block in self._batcher.fail_waiting("the service is stopping"):
                    block.done()
                self._changed.notify_all()

    def _next(self) -> Batch | None:
        """The next batch, waiting for one; None when it is time to end."""
        with self._changed:
            while self._failure is None:
                now = clock.monotonic()
                for block in self._batcher.expire(now):
                    block.done()
                batch = self._batcher.next(now)
                self._observer.queue_changed(self._batcher.waiting(Lane.KAFKA), self._batcher.waiting(Lane.HTTP))
                if batch is not None:
                    return batch
                wake_at = self._batcher.wake_at()
                if self._stopping and wake_at is None:
                    return None
                self._changed.wait(None if wake_at is None else max(0.0, wake_at - now))
        return None

    def _execute(self, batch: Batch) -> None:
        started = clock.monotonic()
        rows = self._assemble(batch)
        champion = batch.route.champion
        if champion is None:  # the rule serves, on the owner thread; only the challenger has work here
            scored = Scored(np.full(batch.size, np.nan, np.float32), {})
        else:
            try:
                scored = self._score(champion, rows, batch.size)
            except ModelBrokenError as error:
                self._give_up(batch, champion, str(error))
                return
        shadow = self._shadow(batch, rows)
        seconds = clock.monotonic() - started
        with self._changed:
            whole = None if scored.poison else seconds  # what bisection takes says nothing of the next batch
            for block in self._batcher.settle(scored.scores, shadow, scored.poison, whole):
                block.done()
            self._changed.notify_all()
        self._observer.batch_scored(batch, seconds, len(scored.poison))

    def _assemble(self, batch: Batch) -> Matrix:
        """The batch's rows, padded with zeros to its bucket. Valid until the next call."""
        if len(batch.segments) == 1 and batch.size == batch.bucket:
            block, low, high = batch.segments[0]
            return block.rows[low:high]
        buffer = self._buffers[batch.bucket]
        start = 0
        for block, low, high in batch.segments:
            stop = start + high - low
            buffer[start:stop] = block.rows[low:high]
            start = stop
        buffer[start:] = 0.0
        return buffer

    def _score(self, champion: Model, rows: Matrix, size: int) -> Scored:
        """A model that is broken gets one more chance: an allocation that failed may succeed."""
        try:
            return score_rows(champion, rows, size)
        except ModelBrokenError as error:
            self._observer.model_broken(champion, str(error))
            return score_rows(champion, rows, size)

    def _shadow(self, batch: Batch, rows: Matrix) -> Scores | None:
        challenger = batch.route.challenger
        if challenger is None:
            return None
        scores = score_or_nan(challenger, rows, batch.size)
        missing = int(np.isnan(scores).sum())
        if missing:
            self._observer.challenger_failed(missing)
        return scores

    def _give_up(self, batch: Batch, champion: Model, message: str) -> None:
        """Broken twice: fatal for the stream, which may neither skip records nor score them; 503 for HTTP alone."""
        self._observer.model_broken(champion, message)
        text = f"model {champion.name} version {champion.version} cannot score: {message}"
        with self._changed:
            if any(segment.block.lane is Lane.KAFKA for segment in batch.segments):
                self._failure = TidemillError(
                    text, hint="activate another version (`tidemill models rollback`); nothing was committed or lost"
                )
            for block in self._batcher.fail_running(text):
                block.done()
            self._changed.notify_all()
