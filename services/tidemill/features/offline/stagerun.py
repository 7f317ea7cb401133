"""One stage over one of its partitions, from a merged lane of items to one file of items for each partition behind it.

The work is `KeyedStage` itself, the class that runs on the loop: there is no second implementation to differ from it.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.domain.pipeline import Pipeline
from tidemill.features.metrics import FEATURES, StageMetrics
from tidemill.features.offline.items import Item, blocks, lane, merged
from tidemill.features.offline.spill import SpillWriter, read_spill
from tidemill.features.shell import KeyedStage
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.partitioner import partition_of
from tidemill.runtime.service import Record

_BATCH = 2_000

Progress = Callable[[int], None]
"""Told now and then how many more records a task has taken."""


@dataclass(frozen=True, slots=True)
class StageTask:
    """Stage `index` over `partition`. `behind` is the number of partitions of what follows; 0 behind the last stage."""

    pipeline: Pipeline
    index: int
    partition: int
    behind: int
    folder: Path
    keep_state: bool = False

    def output(self, towards: int) -> Path:
        """Where items for partition `towards` of the next stage go, or with `behind` 0 all of them."""
        return self.folder / f"stage-{self.index}-{self.partition}-{towards}.spill"

    @property
    def state(self) -> Path:
        """Where the changelog entries of the windows go at the end, with `keep_state`."""
        return self.folder / f"state-{self.index}-{self.partition}.spill"


@dataclass(slots=True)
class StageReport:
    """What a task did: records taken, events written with their features, labels and records of streams written as they
    came, dead letters by code, the newest timestamp, and (first stage) where it stopped."""

    records: int = 0
    vectors: int = 0
    passed_on: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    stopped_at: dict[str, int] = field(default_factory=dict)
    newest: int = 0


def from_earlier(task: StageTask, earlier: int) -> Iterator[Item]:
    """The input of a later stage: what `earlier` partitions of the stage before sent here, as its topic has them."""
    sources = [StageTask(task.pipeline, task.index - 1, number, 0, task.folder) for number in range(earlier)]
    spills = [read_spill(source.output(task.partition)) for source in sources]
    return lane(merged(spills), 0, task.partition)


def run_stage(task: StageTask, items: Iterable[Item], progress: Progress) -> StageReport:
    """Blocks until the items are used up."""
    constant = {"pipeline": task.pipeline.name, "service": "backfill"}
    stage = KeyedStage(task.pipeline, task.index, StageMetrics(Metrics(constant, FEATURES)))
    report = StageReport()
    state: dict[bytes, bytes | None] = {}
    newest = 0
    with ExitStack() as files:
        writers = [files.enter_context(SpillWriter(task.output(number))) for number in range(max(1, task.behind))]
        for block in blocks(items, _BATCH):
            stage.add([Record("backfill", task.partition, 0, at.timestamp, at.key, at.value) for at in block], 0.0)
            output = stage.flush(0.0)
            if task.keep_state:
                state.update((entry.key, entry.value) for entry in output.state)
                newest = max(newest, *(at.timestamp for at in block))
            for out, origin in zip(output.records, stage.origins, strict=True):
                came = block[origin]
                as_it_came = out.value is came.value
                if task.behind:
                    to = writers[partition_of(out.key or b"", task.behind)]
                elif came.wanted and not as_it_came:
                    to = writers[0]
                else:
                    continue  # It only filled the windows, or is a label that passes on as it came.
                to.write(came._replace(timestamp=out.timestamp, key=out.key, value=out.value))
                report.passed_on += as_it_came
                report.vectors += not as_it_came
            report.refused.update(dead.code for dead in output.dead)
            report.records += len(block)
            report.newest = max(report.newest, block[-1].effective)
            progress(len(block))
    if task.keep_state:
        with SpillWriter(task.state) as file:
            for key, value in state.items():
                if value is not None:
                    file.write(Item(0, 0, task.partition, True, newest, key, value))
    return report
