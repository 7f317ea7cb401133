"""All stages of a backfill, one after the other, each over its partitions in parallel processes.

The first stage reads its input a partition at a time; each later one reads what the one before wrote for its partition,
merged into the order in which the re-keyed topic would hold it. In between, items are on disk, so that memory is the
windows of the partitions being worked on and nothing else, whatever the length of the input.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import EnvironmentUnusable
from tidemill.features.offline.items import Item, merged
from tidemill.features.offline.spill import read_spill
from tidemill.features.offline.stagerun import StageReport, StageTask, from_earlier, run_stage

_LOOK_S = 0.2


class Input(Protocol):
    """Where the first stage's records come from. Instances travel to other processes."""

    @property
    def partitions(self) -> int: ...

    def open(self, partition: int, stopped_at: dict[str, int]) -> Iterator[Item]:
        """One partition's items in order. When they are used up, `stopped_at` says where they ended."""
        ...


@dataclass(frozen=True, slots=True)
class Chain:
    """Stages 0 to `last` of `pipeline`. `partitions[i]` is the number of partitions of stage i's input."""

    pipeline: Pipeline
    last: int
    partitions: Sequence[int]
    folder: Path
    workers: int
    keep_state: bool = False

    def run(self, source: Input, say: Callable[[str, int], None]) -> tuple[list[StageReport], dict[str, int]]:
        """Blocks. `say(stage, records)` is called with what was taken since it was called last.

        Returns a report a stage, and where the input stopped; the vectors are then in `vectors`.
        """
        reports, stopped_at = [], dict[str, int]()
        for index in range(self.last + 1):
            behind = self.partitions[index + 1] if index < self.last else 0
            tasks = [
                StageTask(self.pipeline, index, number, behind, self.folder, self.keep_state)
                for number in range(self.partitions[index])
            ]
            entity = self.pipeline.features.stages[index].entity
            earlier: Input | int = source if index == 0 else self.partitions[index - 1]
            report = StageReport()
            for done in self._results(tasks, earlier, partial(say, entity)):
                report.records += done.records
                report.vectors += done.vectors
                report.passed_on += done.passed_on
                report.refused.update(done.refused)
                report.newest = max(report.newest, done.newest)
                stopped_at |= done.stopped_at
            reports.append(report)
            for path in self.folder.glob(f"stage-{index - 1}-*.spill"):
                path.unlink()
        return reports, stopped_at

    def vectors(self) -> Iterator[Item]:
        """The wanted events with their features, as the last stage's topic would hold them, merged over partitions."""
        tasks = [StageTask(self.pipeline, self.last, number, 0, self.folder) for number in range(self.partitions[-1])]
        return merged([read_spill(task.output(0)) for task in tasks])

    def state(self, index: int) -> Iterator[Item]:
        """Changelog entries of stage `index` as they stand behind the input, with `keep_state`."""
        for number in range(self.partitions[index]):
            yield from read_spill(StageTask(self.pipeline, index, number, 0, self.folder).state)

    def _results(
        self, tasks: Sequence[StageTask], earlier: Input | int, progress: Callable[[int], None]
    ) -> Iterator[StageReport]:
        workers = min(self.workers, len(tasks))
        if workers <= 1:
            for task in tasks:
                yield _work(task, earlier, progress)
            return
        context = multiprocessing.get_context("spawn")
        counts: Any = context.Queue()
        theirs, ours = context.Pipe(duplex=False)
        with closing(theirs), closing(ours), ProcessPoolExecutor(workers, context, _begin, (counts, theirs)) as pool:
            try:
                with _interrupts_held():
                    waiting = {pool.submit(_work_elsewhere, task, earlier) for task in tasks}
                while waiting:
                    done, waiting = wait(waiting, _LOOK_S, FIRST_COMPLETED)
                    _drain(counts, progress)
                    for future in done:
                        yield future.result()
                pool.shutdown(wait=True)
            except BrokenProcessPool:
                raise EnvironmentUnusable(
                    "a worker process was killed",
                    hint="Mostly that is memory running out: give fewer --workers, or a machine with more.",
                ) from None
            finally:
                ours.close()  # Workers that are not done end now.
                pool.shutdown(wait=True, cancel_futures=True)
        _drain(counts, progress)


def _work(task: StageTask, earlier: Input | int, progress: Callable[[int], None]) -> StageReport:
    stopped_at: dict[str, int] = {}
    items = from_earlier(task, earlier) if isinstance(earlier, int) else earlier.open(task.partition, stopped_at)
    report = run_stage(task, items, progress)
    report.stopped_at = stopped_at
    return report


_counts: Any = None
"""In a worker process: the queue on which it tells how many records it has taken."""


def _begin(counts: Any, parent: Any) -> None:
    global _counts
    _counts = counts
    threading.Thread(target=_end_with, args=(parent,), name="parent-watch", daemon=True).start()


def _end_with(parent: Any) -> None:
    """Blocks until the other end of the pipe is closed, by the parent or by its end, then leaves the process.

    At once, whatever the work is waiting for: its results have nobody left to go to.
    """
    with suppress(EOFError, OSError):
        parent.recv()
    os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that start in the block never see Ctrl-C, which a terminal sends to all: the parent ends them.

    A signal mask is inherited, so there is no moment at which they would still see it, as with a handler of theirs.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work_elsewhere(task: StageTask, earlier: Input | int) -> StageReport:
    return _work(task, earlier, _counts.put)


def _drain(counts: Any, progress: Callable[[int], None]) -> None:
    try:
        while True:
            progress(counts.get_nowait())
    except Empty:
        return
