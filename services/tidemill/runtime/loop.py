"""The owner thread: polls, feeds the service, commits, and repairs. The only place that catches every exception.

The commit protocol, numbered as in services/README.md and in the tests that kill a process after each step:

1. poll, then drain what is there
2. add to the service what is released in time order
3. begin the transaction, lazily
4. produce outputs, then dirty state, then dead letters
5. check that every partition with a record in the transaction is owned now; send offsets (last processed + 1, and the
   end of every partition that was read to it)
6. commit; the service adopts its state only once the commit is definite
7. on abort: drop uncommitted state, restore it from the changelog, rewind to the committed offsets

Long because the steps, the rebalance callbacks and the repair share one state and are only safe when read together.
"""

from collections.abc import Collection, Mapping
from threading import Event

from tidemill import clock
from tidemill.errors import Fenced, TidemillError
from tidemill.runtime.accounting import count_transaction
from tidemill.runtime.breaker import Breaker
from tidemill.runtime.changelog import Takeover
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.dlq import for_stage, stage_address
from tidemill.runtime.health import Health
from tidemill.runtime.logs import get_logger
from tidemill.runtime.notes import Note, commit_names, times_of, write_note
from tidemill.runtime.pending import Pending
from tidemill.runtime.ports import AbortedError, LogClient, NotAnsweredError, Partition, ProducerLostError
from tidemill.runtime.replay import Replay
from tidemill.runtime.service import Service
from tidemill.runtime.spec import ServiceSpec
from tidemill.runtime.sync import Merge
from tidemill.runtime.transaction import AfterStep, Pace, Step, run_transaction
from tidemill.runtime.wholeinput import WholeInput

_IDLE_POLL_S = 0.05
_COMMIT_WITHIN_S = 30.0
_REVOKE_WITHIN_S = 60.0
"""0.2 × max.poll.interval.ms: all that a rebalance callback does shares it."""
_LOST_AGAIN_WITHIN_S = 60.0
_ABORTS_IN_A_ROW = 50
"""More than any rebalance causes: a cause that does not pass ends the process, so that somebody hears of it."""
_UNANSWERED_IN_A_ROW = 4
_GAUGES_EVERY_S = 1.0
_UNEXPECTED_EXIT_CODE = 1
_log = get_logger("loop")


class Loop:
    """Drives one service on one log client. Everything happens on the thread that calls `run`."""

    def __init__(
        self, log: LogClient, service: Service, spec: ServiceSpec, config: RuntimeConfig, health: Health
    ) -> None:
        self.after_step: AfterStep = lambda _: None
        self._log = log
        self._service = service
        self._spec = spec
        self._address = stage_address(spec.pipeline, spec.name)
        self._health = health
        self._max_poll_records = config.max_poll_records
        self._pace = Pace(max(config.transaction_gap_ms, spec.gap_ms) / 1000, config.max_poll_records // 4)
        self._merge = Merge(spec.inputs, spec.max_idle_ms, spec.max_skew_ms)
        self._takeover = Takeover(log, service, spec, health)
        self._breaker = Breaker(spec.breaker) if spec.breaker else None
        self._pending = Pending()
        self._replay: Replay | None = None
        self._whole = WholeInput(spec)
        self._starts: dict[Partition, int] = {}
        self._notes: dict[Partition, Note] = {}
        """What is committed beside each start."""
        self._commit_names = commit_names()
        self._keeps_state = config.group_protocol == "classic" and spec.replay is None
        """Whether a rebalance takes partitions away that it may give back at once."""
        self._reset_due = False
        self._lost_at = float("-inf")
        self._aborts = self._unanswered = 0
        self._gauges_at = float("-inf")
        self._stop = Event()

    def run(self, stop: Event) -> int:
        """Until `stop` is set (exit code 0) or something is fatal (another code, and one log line with the reason)."""
        self._stop = stop
        code = 0
        try:
            try:
                self._health.set_ready(False, "joining the consumer group")
                self._log.start([topic.name for topic in self._spec.inputs], self)
                while not stop.is_set():
                    self.turn()
                self._finish()
            except InterruptedError:
                _log.info("stopped while restoring")
            finally:
                self._health.set_ready(False, "stopping")
                self._pending.clear()
                self._merge.disown(list(self._starts))  # after a failure, positions are ahead of what was committed
                self._log.close()
        except TidemillError as error:
            _log.critical("service stopped", reason=error.message, next_step=error.hint, kind=type(error).__name__)
            code = error.exit_code
        except Exception as error:
            _log.critical("service crashed", reason=str(error), kind=type(error).__name__, exc_info=True)
            code = _UNEXPECTED_EXIT_CODE
        finally:
            self._service.close()
        return code

    def turn(self) -> None:
        """Once round: steps 1 and 2, and a transaction if one is due."""
        polled = self._log.poll(self._max_poll_records, self._timeout(clock.monotonic()))  # 1
        now = clock.monotonic()
        self._health.beat()
        self.after_step(Step.POLLED)
        if self._reset_due:
            self._reset()
            return
        if self._whole.waits:
            self._log.pause(self._whole.hold(polled.records, self._log.owned(), now))
            return
        more = len(polled.records) >= self._max_poll_records
        if self._replay is not None:
            records, reached = self._replay.admit(polled.records, polled.ends)
            # The replay's end is not the log's: no offset is learnt from it.
            self._merge.feed(records, dict.fromkeys(reached, 0), now, more=more)
            self._replay_on(reached, now)
            return
        self._merge.feed(polled.records, polled.ends, now, more=more)
        self._add(now)
        self._bound_memory()
        wake_at = self._service.wake_at()
        woken = wake_at is not None and wake_at <= now
        if woken or (self._pending.positions and now >= self._pace.due_at(self._pending.records)):
            self._commit_or_repair()
        if now - self._gauges_at >= _GAUGES_EVERY_S:
            self._set_gauges(now)

    # Ownership. Called from inside poll() and close(). No transaction is open then: it never spans a poll.

    def assigned(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Take over: state first, then the place to read from."""
        if self._pending.positions:
            self._revoke_safely()
        if not partitions:
            self._takeover.forget_parted()
            self._whole.forget()
            self._health.set_ready(True, "standby: other instances own all partitions")
            return {}
        self._reset_due |= self._whole.begins_anew(self._starts)
        return self._take_over(partitions)

    def revoked(self, partitions: Collection[Partition]) -> None:
        """Commit finished work while these are still ours, then forget them."""
        self._revoke_safely()
        self._forget(partitions, given_up=True)
        _log.info("partitions revoked", partitions=_names(partitions))

    def lost(self, partitions: Collection[Partition]) -> None:
        """Nothing may be committed any more, not even what came from partitions that are still owned."""
        if self._pending.positions:
            self._pending.clear()
            self._reset_due = True
        self._forget(partitions)
        _log.warning("partitions lost", partitions=_names(partitions))

    def _forget(self, partitions: Collection[Partition], *, given_up: bool = False) -> None:
        """`given_up`: in good order, so that the state may be kept for the case that they come back."""
        numbers = {number for _, number in partitions}
        self._merge.disown(partitions)
        notes = {at: self._notes.pop(at) for at in partitions if at in self._notes}
        for partition in partitions:
            self._starts.pop(partition, None)
        if not self._starts:
            self._whole.forget()
        whole = not any(number in numbers for _, number in self._starts)
        settled = whole and not self._reset_due and not self._pending.positions
        # A service with a timer could write for what it does not own any more.
        if given_up and self._keeps_state and settled and self._service.wake_at() is None:
            self._takeover.part_with(partitions, notes)
        else:
            self._service.drop(sorted(numbers))
        # State is per number: where another topic of that number stays ours, it is needed again.
        self._reset_due |= self._whole.begins_anew(self._starts) or any(number in numbers for _, number in self._starts)
        self._replay = None

    def _revoke_safely(self) -> None:
        """Commit what was added, and ends that were reached; if that fails, abort it and rebuild after the callback."""
        if self._reset_due or not (self._pending.positions or self._read_further()):
            return
        deadline = Deadline(_REVOKE_WITHIN_S)
        try:
            self._commit(deadline, leaving=True)
        except (AbortedError, ProducerLostError) as error:
            _log.warning("open work could not be committed before the rebalance", reason=str(error))
            self._pending.clear()
            self._reset_due = True
            self._end_transaction(error)

    # Steps 2 to 6

    def _add(self, now: float) -> None:
        released = self._merge.release(now, 2 * self._max_poll_records)
        if released.forced:
            self._health.metrics.count("tidemill_runtime_forced_releases_total")
        if released.records:
            self._service.add(for_stage(released.records, self._address), now)  # 2
            self._pending.positions.update(released.positions)
            self._pending.counts.update(released.counts)
            self._pending.newest = max(self._pending.newest, released.records[-1].timestamp)
            self.after_step(Step.ADDED)

    def _commit_or_repair(self) -> None:
        try:
            self._commit(Deadline(_COMMIT_WITHIN_S))
        except (AbortedError, ProducerLostError) as error:
            self._repair(error)

    def _commit(self, deadline: Deadline, *, leaving: bool = False) -> None:
        """`leaving`: ends that were reached are worth a transaction of their own; else they travel with the next."""
        output = self._service.flush(clock.monotonic())
        if self._breaker is not None:
            self._breaker.check(self._pending.records, len(output.dead))
        further = self._read_further()
        written = bool(output.records or output.state or output.dead)
        if not (self._pending.positions or written or (leaving and further)):
            return
        began = clock.monotonic()
        positions = self._pending.positions | further
        if written and not self._pending.positions:
            # Output without input (a timer's) commits the offsets as they are: they carry the generation that fences.
            positions = self._starts | further
        bare = {entry.partition for entry in output.state} - {number for _, number in positions}
        if bare:  # where there is state, there is an offset: a takeover relies on it
            positions = positions | {at: offset for at, offset in self._starts.items() if at[1] in bare}
        times, name = self._merge.times(positions), next(self._commit_names)
        notes = {at: Note(times.get(at), name) for at in positions}
        texts = {at: write_note(note) for at, note in notes.items()}
        run_transaction(self._log, self._spec, output, positions, texts, deadline, self.after_step)
        ended = clock.monotonic()
        self._service.committed()
        self._aborts = 0
        if self._breaker is not None:
            self._breaker.commit()
        self._pace.finished(ended, ended - began)
        pending = self._pending
        count_transaction(self._health.metrics, pending.counts, pending.newest, output, ended - began)
        self._starts.update(positions)
        self._notes.update(notes)
        self._pending.clear()

    def _read_further(self) -> dict[Partition, int]:
        """Partitions read past their committed offset of which nothing waits. All that came of them was added, so the
        offset may go where reading has come to: over the marker behind the last record. Left before it, the offset
        would fall out of the log when that record expires, as if something had been lost."""
        return {at: end for at, end in self._merge.read_upto().items() if end > self._starts.get(at, end)}

    # Step 7

    def _repair(self, error: AbortedError | ProducerLostError) -> None:
        _log.warning("transaction aborted", reason=str(error), kind=type(error).__name__)
        self._pending.clear()
        self._aborts += 1
        if self._aborts > _ABORTS_IN_A_ROW:
            raise TidemillError(
                f"{self._aborts} transactions in a row were aborted, the last because: {error}",
                hint="check that every output topic exists and that this service may write to it",
            )
        self._end_transaction(error)
        self._reset_due = True  # after a poll: it tells what has happened to the group meanwhile

    def _end_transaction(self, error: AbortedError | ProducerLostError) -> None:
        """Abort, or where the producer is of no use, take a new one: its start ends what the old one left."""
        self._health.metrics.count("tidemill_runtime_transactions_total", 1, "aborted")
        try:
            if isinstance(error, AbortedError):
                self._log.abort()
                return
        except ProducerLostError as lost:
            error = lost
        now = clock.monotonic()
        if now - self._lost_at < _LOST_AGAIN_WITHIN_S:
            raise Fenced(
                f"the producer was lost twice within a minute: {error}",
                hint="two processes of this service share one TIDEMILL_INSTANCE, or the brokers cannot serve it",
            )
        self._lost_at = now
        self._log.recover()

    def _reset(self) -> None:
        """Throw away everything uncommitted and go back to what the log says."""
        self._reset_due = False
        owned = self._log.owned()
        self._pending.clear()
        paused = self._merge.paused()
        if owned:
            try:
                starts = self._take_over(owned)
            except NotAnsweredError:
                # A member that its group has given up is not answered: it hears of that with a poll only.
                self._reset_due, self._unanswered = True, self._unanswered + 1
                if self._unanswered >= _UNANSWERED_IN_A_ROW:
                    raise
                return
            self._log.seek(starts)
            self._log.resume({*paused, *self._whole.release()} & owned)
        self._unanswered = 0
        self.after_step(Step.REWOUND)

    def _take_over(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        committed, notes = self._takeover.take(partitions, lambda: not self._stop.is_set())
        starts = self._takeover.starts(committed)
        self._starts.update(starts)
        self._notes.update(notes)
        reading, times = dict(starts), times_of(self._notes)
        missing = self._whole.given(self._starts, clock.monotonic())
        if self._spec.replay is not None and not missing and not self._reset_due:
            known = {partition: offset for partition, offset in committed.items() if offset is not None}
            begins = {at: begin for at, begin in self._spec.replay.replay_from(known).items() if begin < known[at]}
            if begins:
                self._replay = Replay({partition: known[partition] for partition in begins})
                reading |= begins
                # What the old input's order was decided by lies further back still.
                times = {at: time for at, time in times.items() if at not in begins}
                self._health.set_ready(False, "replaying input to rebuild state")
                _log.info("replaying", records=sum(known[at] - begin for at, begin in begins.items()))
        self._merge.own(reading, times, clock.monotonic())
        if missing:
            self._health.set_ready(False, f"one active instance over all partitions; waiting for {_names(missing)}")
            _log.info("waiting for the other partitions", partitions=_names(missing))
        elif self._replay is None:
            self._health.set_ready(True)
        return reading

    def _replay_on(self, reached: list[Partition], now: float) -> None:
        """Old input goes through the service once more; what comes out was committed long ago."""
        assert self._replay is not None
        over = self._replay.over
        released = self._merge.release_all() if over else self._merge.release(now)
        if released.records:
            self._service.add(for_stage(released.records, self._address), now)
            self._service.flush(now)
            self._service.committed()
        self._bound_memory()
        if over:
            self._replay = None
            paused = self._merge.paused()
            self._merge.own(self._starts, times_of(self._notes), now)
            self._log.seek(self._starts)
            self._log.resume(paused)
            self._health.set_ready(True)
            _log.info("replayed")

    def _finish(self) -> None:
        """Asked to stop: what was added is committed, so that the next start repeats nothing."""
        if not self._reset_due and (self._pending.positions or self._read_further()):
            try:
                self._commit(Deadline(_COMMIT_WITHIN_S), leaving=True)
            except (AbortedError, ProducerLostError) as error:
                _log.warning("last transaction aborted", reason=str(error))
                if isinstance(error, AbortedError):  # one that is fenced must not fence its successor
                    self._log.abort()
        self._pending.clear()

    def _timeout(self, now: float) -> float:
        """How long a poll may wait for its first record."""
        if self._merge.more_to_release:
            return 0.0
        moments = [now + _IDLE_POLL_S]
        if self._pending.positions:
            moments.append(self._pace.due_at(self._pending.records))
        for moment in (self._service.wake_at(), self._merge.next_release_at(now)):
            if moment is not None:
                moments.append(moment)
        return max(0.0, min(moments) - now)

    def _bound_memory(self) -> None:
        if full := self._merge.overfull():
            self._log.pause(full)
        if ready := self._merge.drained():
            self._log.resume(ready)

    def _set_gauges(self, now: float) -> None:
        self._gauges_at = now
        lag = self._merge.lag(self._log.high_watermarks(self._log.owned()))
        self._health.metrics.set("tidemill_runtime_lag_records", lag + self._pending.records)
        self._health.metrics.set("tidemill_runtime_buffered_records", self._merge.buffered)


def _names(partitions: Collection[Partition]) -> list[str]:
    return sorted(f"{topic}/{number}" for topic, number in partitions)
