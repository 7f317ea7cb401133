"""The inference service: feature records in, predictions out, by whatever model is recorded for their partition."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import TidemillError
from tidemill.inference.catalogue import Catalogue, Selection
from tidemill.inference.core.active import ACTIVE_KEY, Active, decode_active, encode_active
from tidemill.inference.core.blocks import Block, Lane
from tidemill.inference.core.model import Route
from tidemill.inference.core.predictions import RULE_PROVIDER, PredictionWriter, version_of
from tidemill.inference.core.rows import RowReader, Rows
from tidemill.inference.worker import ModelWorker
from tidemill.runtime.service import DeadLetter, Output, Record, StateEntry


class ShellObserver(Protocol):
    """Told on the owner thread."""

    def switched(self, partition: int, active: Active, provider: str) -> None:
        """The partition is scored by this selection from now on."""
        ...

    def recorded(self, partition: int, active: Active) -> None:
        """The same, where it is a change that the next transaction records."""
        ...

    def predicted(self, by_model: int, by_rule: int, shadow: int) -> None: ...


class _Partition(NamedTuple):
    """What is recorded for a partition, and the loaded models for it. `resolved` False: not looked up yet."""

    active: Active
    route: Route | None
    resolved: bool


class _Unit(NamedTuple):
    """One partition's records of one `add`. Without a block the rule scores them."""

    partition: int
    rows: Rows
    block: Block | None
    dead: list[DeadLetter]
    switch: StateEntry | None


class InferenceService:
    """Implements `runtime.service.Service`. Owner thread only; models run on the worker's thread.

    A unit of work is a partition's share of one `add`: it is scored by one selection. A newer selection is taken over
    between units, and recorded in the transaction that carries the first predictions made with it.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        feature_set: str,
        worker: ModelWorker,
        catalogue: Catalogue,
        observer: ShellObserver,
        model_wait_s: float,
    ) -> None:
        self._reader = RowReader(pipeline, feature_set)
        self._writer = PredictionWriter(pipeline)
        self._worker = worker
        self._catalogue = catalogue
        self._observer = observer
        self._model_wait_s = model_wait_s
        self._partitions: dict[int, _Partition] = {}
        self._units: list[_Unit] = []

    def add(self, records: Sequence[Record], now: float) -> None:
        """Hands the rows to the worker at once. Blocks while a recorded model is not loaded yet."""
        for partition, group in _by_partition(records).items():
            route, switch = self._route(partition, group[0].offset)
            rows, dead = self._reader.read(group)
            block = None
            if route is not None and rows.records:
                block = Block(rows.matrix, route, Lane.KAFKA, _nobody)
                self._worker.submit(block)
            self._units.append(_Unit(partition, rows, block, dead, switch))

    def wake_at(self) -> float | None:
        """Never by itself: the worker is busy already, and what is added is due when the loop's pace says so."""
        return None

    def flush(self, now: float) -> Output:
        """Waits for the worker. Raises TidemillError where the model cannot score at all."""
        output = Output()
        by_model = by_rule = 0
        shadow = 0
        for unit in self._units:
            if unit.switch is not None:
                output.state.append(unit.switch)
            output.dead += unit.dead
            if unit.block is None:
                output.records += self._writer.ruled(unit.rows)
                by_rule += len(unit.rows.records)
                continue
            self._worker.wait(unit.block)
            predictions, dead = self._writer.scored(unit.rows, unit.block)
            challenged = self._writer.shadow(unit.rows, unit.block)
            output.records += predictions
            output.records += challenged
            output.dead += dead
            if unit.block.route.champion is None:
                by_rule += len(predictions)
            else:
                by_model += len(predictions)
            shadow += len(challenged)
        self._observer.predicted(by_model, by_rule, shadow)
        self._units = []
        return output

    def restore(self, partition: int, entries: Iterable[tuple[bytes, bytes]]) -> None:
        recorded = Active()
        for key, value in entries:
            if key == ACTIVE_KEY:
                recorded = decode_active(value)
        self._partitions[partition] = _Partition(recorded, None, resolved=False)

    def drop(self, partitions: Iterable[int]) -> None:
        gone = set(partitions)
        for unit in self._units:
            if unit.partition in gone and unit.block is not None:
                self._worker.cancel(unit.block)
        self._units = [unit for unit in self._units if unit.partition not in gone]
        for partition in gone:
            self._partitions.pop(partition, None)

    def committed(self) -> None:
        """Nothing to adopt: what was switched is in the changelog, and an abort restores from there."""

    def close(self) -> None:
        self._worker.stop()

    def _route(self, partition: int, offset: int) -> tuple[Route | None, StateEntry | None]:
        """Who scores the partition from `offset` on, and the state record if that is a change."""
        if not self._catalogue.wait_caught_up(self._model_wait_s):
            raise self._not_available("the models topic could not be read to its end")
        held = self._partitions.get(partition) or _Partition(Active(), None, resolved=False)
        offered = self._catalogue.selection
        if offered.epoch >= held.active.epoch:
            selection = offered
        elif held.resolved:
            return held.route, None
        else:
            selection = self._recorded(held.active)
        active = _active(selection, offset)
        changed = not _same(active, held.active)
        if not changed and held.resolved:
            return held.route, None
        taken = _Partition(active if changed else held.active, selection.route, resolved=True)
        self._partitions[partition] = taken
        provider = RULE_PROVIDER if selection.champion is None else selection.champion.provider
        self._observer.switched(partition, taken.active, provider)
        if not changed:
            return taken.route, None
        self._observer.recorded(partition, active)
        return taken.route, encode_active(partition, active)

    def _recorded(self, active: Active) -> Selection:
        """A former owner knew a newer selection than this process has read so far."""
        selection = self._catalogue.wait_for_recorded(active, self._model_wait_s)
        if selection is None:
            raise self._not_available(f"model version {active.champion}, recorded for a partition, did not arrive")
        return selection

    def _not_available(self, cause: str) -> TidemillError:
        return TidemillError(
            f"{cause} within {self._model_wait_s:g} s",
            hint="look at the models and model-chunks topics, and at refused_total; the wait is TIDEMILL_MODEL_WAIT_S",
        )


def _active(selection: Selection, offset: int) -> Active:
    return Active(
        champion=version_of(selection.champion),
        challenger=version_of(selection.challenger),
        epoch=selection.epoch,
        from_offset=offset,
    )


def _same(one: Active, other: Active) -> bool:
    return (one.epoch, one.champion, one.challenger) == (other.epoch, other.champion, other.challenger)


def _by_partition(records: Sequence[Record]) -> dict[int, list[Record]]:
    groups: dict[int, list[Record]] = {}
    for record in records:
        group = groups.get(record.partition)
        if group is None:
            groups[record.partition] = [record]
        else:
            group.append(record)
    return groups


def _nobody() -> None:
    """The owner thread waits for its blocks; it needs no call."""
