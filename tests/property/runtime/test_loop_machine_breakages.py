"""The state machine finds a loop that is broken: each breakage here is one that it must not let pass."""

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from support.loopmachine import INPUTS, KEYS, LoopMachine
from tidemill.runtime import loop as loop_module
from tidemill.runtime import transaction
from tidemill.runtime.changelog import Taken, Takeover
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.dlq import to_record
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.ports import LogClient, Partition, ProducerLostError
from tidemill.runtime.service import DeadLetter, Output
from tidemill.runtime.sync import Merge

_SEARCH = settings(
    max_examples=1_500,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    report_multiple_bugs=False,
)

Breakage = Callable[[pytest.MonkeyPatch], None]


def offsets_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    def run(log: Any, spec: Any, output: Output, positions: Any, deadline: Deadline, after: Any) -> None:
        whole(log, spec, output, {}, deadline, lambda _: None)
        log.begin()
        log.send_offsets(positions, deadline)
        log.commit(deadline)

    whole = transaction.run_transaction
    patch.setattr(loop_module, "run_transaction", run)


def work_kept_over_a_rebalance_and_no_look_at_what_is_owned(patch: pytest.MonkeyPatch) -> None:
    """Its offsets go with the next transaction, its outputs are gone. Either of the two alone does no harm."""
    patch.setattr(Loop, "_revoke_safely", lambda self: None)
    patch.setattr(transaction, "foreign", lambda positions, owned: [])


def no_rewind_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    def reset(self: Loop) -> None:
        self._reset_due = False
        self._pending.clear()

    patch.setattr(Loop, "_reset", reset)


def state_kept_after_an_abort(patch: pytest.MonkeyPatch) -> None:
    def take(self: Takeover, partitions: Collection[Partition], keep_on: Any) -> Taken:
        new = {number for _, number in partitions} - self._service.counts.keys()  # type: ignore[attr-defined]
        if new:
            return whole(self, partitions, keep_on)
        return Taken(self._log.committed(partitions), {})

    whole = Takeover.take
    patch.setattr(Takeover, "take", take)


def a_lost_producer_counts_as_committed(patch: pytest.MonkeyPatch) -> None:
    """The outcome is unknown, and the loop takes it for what it hopes."""

    def run(log: LogClient, *arguments: Any) -> None:
        try:
            whole(log, *arguments)
        except ProducerLostError:
            log.recover()

    whole = transaction.run_transaction
    patch.setattr(loop_module, "run_transaction", run)


def offsets_of_what_was_read_not_of_what_was_added(patch: pytest.MonkeyPatch) -> None:
    def read_upto(self: Merge) -> dict[Partition, int]:
        return {lane.partition: lane.next_offset for lane in self._lanes.values()}

    patch.setattr(Merge, "read_upto", read_upto)


def dead_letters_outside_the_transaction(patch: pytest.MonkeyPatch) -> None:
    def run(log: Any, spec: Any, output: Output, positions: Any, deadline: Deadline, after: Any) -> None:
        for dead in output.dead:
            log._broker.append(to_record(dead, spec.dlq_topic, spec.name))
        whole(log, spec, Output(output.records, output.state), positions, deadline, after)

    whole = transaction.run_transaction
    patch.setattr(loop_module, "run_transaction", run)


def dead_letters_without_their_headers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        transaction, "to_record", lambda dead, *where: to_record(bare(dead), *where)
    )  # fmt: skip


def bare(dead: DeadLetter) -> DeadLetter:
    return dead._replace(record=dead.record._replace(headers=()))


def restore_stopped_early(patch: pytest.MonkeyPatch) -> None:
    def take(self: Takeover, *arguments: Any) -> Any:
        restore = self._service.restore
        self._service.restore = lambda number, entries: restore(number, list(entries)[:1])  # type: ignore[method-assign]
        try:
            return whole(self, *arguments)
        finally:
            del self._service.restore  # type: ignore[method-assign]

    whole = Takeover.take
    patch.setattr(Takeover, "take", take)


def the_replaced_producer_is_not_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MemoryBroker, "is_current", lambda self, identity, epoch: True)


def offset_of_the_last_record_itself(patch: pytest.MonkeyPatch) -> None:
    def run(log: Any, spec: Any, output: Output, positions: Mapping[Partition, int], *rest: Any) -> None:
        whole(log, spec, output, {at: max(0, offset - 1) for at, offset in positions.items()}, *rest)

    whole = transaction.run_transaction
    patch.setattr(loop_module, "run_transaction", run)


BREAKAGES = [
    offsets_outside_the_transaction,
    no_rewind_after_an_abort,
    state_kept_after_an_abort,
    a_lost_producer_counts_as_committed,
    offsets_of_what_was_read_not_of_what_was_added,
    dead_letters_outside_the_transaction,
    dead_letters_without_their_headers,
    restore_stopped_early,
    the_replaced_producer_is_not_fenced,
    offset_of_the_last_record_itself,
]


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_a_broken_loop_is_found(breakage: Breakage, monkeypatch: pytest.MonkeyPatch) -> None:
    breakage(monkeypatch)
    with pytest.raises((Exception, BaseExceptionGroup)):
        run_state_machine_as_test(LoopMachine, settings=_SEARCH)


@pytest.mark.parametrize("broken", [True, False])
def test_a_breakage_that_needs_a_rebalance_that_takes_long_is_found(
    broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken:
        work_kept_over_a_rebalance_and_no_look_at_what_is_owned(monkeypatch)
    machine = LoopMachine()
    machine.processes_start(1)
    machine.all_go_round(4)
    machine.a_rebalance_meets_open_work(0, None, KEYS[0], INPUTS[0])
    with pytest.raises(AssertionError) if broken else nullcontext():
        try:
            machine.what_is_committed_is_whole()
        finally:
            machine.teardown()


def test_a_loop_that_is_whole_is_not_found_fault_with() -> None:
    run_state_machine_as_test(LoopMachine, settings=settings(_SEARCH, max_examples=100))
