"""The loop on the memory broker as a Hypothesis state machine: whatever happens to its processes, in any order.

The rules do what happens to a stage in the field: records come, also in transactions that stay open or abort; processes
start, stop, are killed, frozen and thawed, thrown out of their group; every call to the log fails in each way that the
port knows, or is the last thing that the process does. After each rule what is committed must be consistent; in the
end, with all faults gone, everything must have been answered, once.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from threading import Event
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from support.counting import Counting
from support.faultyclient import BRINGS_IT_ABOUT, PLANS, FaultyClient, InjectedError, KilledError
from tidemill import clock
from tidemill.errors import Fenced, TidemillError
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.dlq import to_letter
from tidemill.runtime.health import Health
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.loop import Loop
from tidemill.runtime.memory import MemoryBroker
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.service import OutRecord, Record
from tidemill.runtime.spec import Replaying, ServiceSpec

CONFIG = RuntimeConfig(bootstrap_servers="none", pipeline="p", transaction_gap_ms=150, max_poll_records=16)
INPUTS = ("in", "more")
KEYS = (b"a", b"b", b"c", b"d")
PARTITIONS = 2
INSTANCES = 3
WHICH = st.integers(0, INSTANCES - 1)
TURN_S = 0.06
TRANSACTION_TIMEOUT_S = 15.0
SETTLE_ROUNDS = 60


@dataclass
class Process:
    """One life of one instance."""

    instance: int
    client: FaultyClient
    loop: Loop
    service: Counting


class FromTheStart:
    """Replays everything, as a service without a changelog would."""

    def needs(self) -> frozenset[Any]:
        return frozenset()

    def replay_from(self, committed: Any) -> dict[Any, int]:
        return dict.fromkeys(committed, 0)


class LoopMachine(RuleBasedStateMachine):
    """A counting stage over two input topics of two partitions; the third of its instances has none and stands by."""

    replay: Replaying | None = None
    make_loop: Callable[..., Loop] = Loop

    def __init__(self) -> None:
        super().__init__()
        self._real_clock = clock.monotonic
        self.now = 1_000.0
        clock.monotonic = lambda: self.now
        self.broker = MemoryBroker()
        for name in (*INPUTS, "out", "state", "dlq"):
            self.broker.create_topic(name, PARTITIONS)
        self.health = Health("count", Metrics({"pipeline": "p", "service": "count"}))
        self.processes: dict[int, Process] = {}
        self.frozen: list[Process] = []
        self.upstream: dict[str, list[OutRecord]] = {}
        self.sent = 0
        self.offsets: dict[Any, int] = {}
        self.ended: Counter[str] = Counter()
        self.met: Counter[str] = Counter()
        """Which faults were met, by any process that ever was."""

    @initialize(count=st.integers(1, INSTANCES))
    def processes_start(self, count: int) -> None:
        for instance in range(count):
            self.start(instance)

    # What comes in

    @rule(
        topic=st.sampled_from(INPUTS),
        keys=st.lists(st.sampled_from(KEYS), min_size=1, max_size=6),
        bad=st.booleans(),
        back_ms=st.integers(0, 50),
        writer=st.sampled_from(["", "", "", "one", "two"]),
    )
    def records_come(self, topic: str, keys: list[bytes], bad: bool, back_ms: int, writer: str) -> None:
        """Outside or inside a transaction of a writer upstream, which others see once it is finished."""
        for key in keys:
            self.sent += 1
            value = b"bad" if bad and self.sent % 3 == 0 else b"v%d" % self.sent
            headers = (("n", b"%d" % self.sent),)
            at = 1_000 + 10 * self.sent - back_ms
            record = OutRecord(topic, key, value, at, KEYS.index(key) % PARTITIONS, headers)
            if writer:
                self._upstream(writer, record)
            else:
                self.broker.append(record)

    @precondition(lambda self: self.upstream)
    @rule(commit=st.booleans())
    def a_writer_finishes(self, commit: bool) -> None:
        writer, _ = self.upstream.popitem()
        self.broker.finish(writer, commit=commit)

    def _upstream(self, writer: str, record: OutRecord) -> None:
        if writer not in self.upstream:
            self.upstream[writer] = []
            self.broker.begin(writer)
        self.upstream[writer].append(record)
        self.broker.append(record, self.broker._open[writer])

    # What processes do, and what happens to them

    def _one(self, which: int) -> Process | None:
        """One of those that run."""
        running = [self.processes[instance] for instance in sorted(self.processes)]
        return running[which % len(running)] if running else None

    @rule(which=WHICH, turns=st.integers(1, 6))
    def go_round(self, which: int, turns: int) -> None:
        process = self._one(which)
        if process is not None:
            self._while_it_runs(process, turns)

    def _while_it_runs(self, process: Process, turns: int) -> None:
        for _ in range(turns):
            if self.processes.get(process.instance) is process:
                self._turn(process)

    @rule(turns=st.integers(1, 4))
    def all_go_round(self, turns: int) -> None:
        for _ in range(turns):
            for process in list(self.processes.values()):
                self._turn(process)

    @rule(seconds=st.sampled_from([0.05, 0.3, 5.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        if seconds > TRANSACTION_TIMEOUT_S:
            self.broker.time_out_transactions("p-count")

    @rule(instance=st.integers(0, INSTANCES - 1))
    def start(self, instance: int) -> None:
        """A frozen or forgotten process of this instance, if there is one, is none of the group's any more."""
        if instance in self.processes:
            return
        spec = ServiceSpec(
            "p", "count", tuple(map(InputTopic, INPUTS)), "dlq", "state", max_idle_ms=200, replay=self.replay
        )
        client = FaultyClient(self.broker, spec.group, instance)
        service = Counting("out") if self.replay is None else Forgetful("out")
        loop = self.make_loop(client, service, spec, CONFIG, self.health)
        process = self.processes[instance] = Process(instance, client, loop, service)
        client.while_it_stands = lambda how: self._meanwhile(process, how)
        client.start(list(INPUTS), loop)

    @rule(which=WHICH, gone=st.booleans())
    def kill(self, which: int, gone: bool) -> None:
        """SIGKILL; `gone`: its session ends before it may come back."""
        process = self._one(which)
        if process is not None:
            process.client.dead = True
            self._gone(process)
            if gone:
                process.client.expel()

    @rule(which=WHICH)
    def session_ends(self, which: int) -> None:
        """Of a process that lives and hears of it with its next poll."""
        process = self._one(which)
        if process is not None:
            process.client.expel()

    @rule(which=WHICH, gone=st.booleans(), taken=st.booleans())
    def freeze(self, which: int, gone: bool, taken: bool) -> None:
        """SIGSTOP; `taken`: another process is started in its place."""
        process = self._one(which)
        if process is not None:
            self.frozen.append(self.processes.pop(process.instance))
            if gone:
                process.client.expel()
            if taken:
                self.start(process.instance)

    @precondition(lambda self: self.frozen)
    @rule(turns=st.integers(1, 4))
    def thaw(self, turns: int) -> None:
        """A zombie goes on where it stood, and is found out; one whose place is still free just goes on."""
        process = self.frozen.pop()
        self.processes.setdefault(process.instance, process)
        for _ in range(turns):
            if not process.client.dead:
                self._turn(process)

    @rule(which=WHICH)
    def stop(self, which: int) -> None:
        """SIGTERM."""
        process = self._one(which)
        if process is not None:
            stop = Event()
            stop.set()
            self._end(process, stop)

    @rule(which=WHICH, plan=st.sampled_from(PLANS))
    def a_fault_waits(self, which: int, plan: tuple[str, str]) -> None:
        """For the next such call, whatever brings it about."""
        process = self._one(which)
        if process is not None:
            process.client.faults.update([plan])

    @rule(which=WHICH, plan=st.sampled_from(PLANS), key=st.sampled_from(KEYS), topic=st.sampled_from(INPUTS))
    def a_fault_strikes(self, which: int, plan: tuple[str, str], key: bytes, topic: str) -> None:
        """In the work on records that come, among them a bad one."""
        process = self._one(which)
        if process is not None:
            process.client.faults |= BRINGS_IT_ABOUT.get(plan[0], {}) | dict([plan])
            self.records_come(topic, [key] * 4, True, 0, "")
            self.go_round(which, 2)

    @rule(which=WHICH, plan=st.sampled_from([None, *PLANS]), key=st.sampled_from(KEYS), topic=st.sampled_from(INPUTS))
    def a_rebalance_meets_open_work(self, which: int, plan: tuple[str, str] | None, key: bytes, topic: str) -> None:
        """A record was added and waits for the gap between transactions when a member comes, or goes."""
        process = self._one(which)
        if process is None:
            return
        for count in (4, 1):
            self.records_come(topic, [key] * count, False, 0, "")
            self._while_it_runs(process, 1)
        if self.processes.get(process.instance) is not process:
            return
        if plan is not None:
            process.client.faults |= BRINGS_IT_ABOUT.get(plan[0], {}) | dict([plan])
        others = [one for one in range(INSTANCES) if one != process.instance]
        free = [one for one in others if one not in self.processes]
        if free:
            self.start(free[0])
        else:
            self.processes[others[0]].client.expel()
        self._while_it_runs(process, 4)  # the others are slow to join
        self.all_go_round(3)

    @rule(which=WHICH, numbers=st.sets(st.integers(0, PARTITIONS - 1)))
    def fetches_hang(self, which: int, numbers: set[int]) -> None:
        process = self._one(which)
        if process is not None:
            process.client.stalled = numbers

    def _meanwhile(self, process: Process, how: str) -> None:
        """In the middle of a transaction of `process`, which does not know of it."""
        if self.processes.get(process.instance) is process:
            del self.processes[process.instance]
        if how == "expelled":
            process.client.expel()
            others = [one for one in range(INSTANCES) if one != process.instance]
            if not any(one in self.processes for one in others):
                self.start(others[0])
        else:
            self.start(process.instance)
        self.all_go_round(3)
        if how == "expelled":
            self.processes.setdefault(process.instance, process)

    def _turn(self, process: Process) -> None:
        self.now += TURN_S
        try:
            process.loop.turn()
        except KilledError:
            self._gone(process)
        except (InjectedError, Fenced) as error:
            self.ended[type(error).__name__] += 1
            self._end(process, Event(), error)

    def _end(self, process: Process, stop: Event, error: TidemillError | None = None) -> None:
        """The rest of `Loop.run`, which is asked to stop or whose turn has failed."""

        def fail() -> None:
            assert error is not None
            raise error

        process.loop.turn = fail
        with suppress(KilledError):
            process.loop.run(stop)
        process.client.dead = True
        self._gone(process)

    def _gone(self, process: Process) -> None:
        self.met += process.client.met
        process.client.met.clear()
        if self.processes.get(process.instance) is process:
            del self.processes[process.instance]

    # What must hold

    @invariant()
    def what_is_committed_is_whole(self) -> None:
        """Offsets, outputs, dead letters and state are of one transaction: below the offsets each record has its
        answer, behind them none has, and state is what the answered records lead to."""
        offsets = self.broker.group("p-count").offsets
        for partition, offset in self.offsets.items():
            assert offsets[partition] >= offset, f"the offset of {partition} went back"
        self.offsets = dict(offsets)
        taken = [
            record
            for topic in INPUTS
            for record in self._committed(topic)
            if record.offset < offsets.get((topic, record.partition), 0)
        ]
        good = [record for record in taken if record.value != b"bad"]
        outputs = self._committed("out")
        values = [(record.value or b"").split(b":") for record in outputs]
        assert Counter(value for _, _, value in values) == Counter(record.value for record in good)
        counts = Counter(record.key for record in good)
        for key, count in counts.items():
            assert [int(number) for whose, number, _ in values if whose == key] == list(range(1, count + 1))
            for topic in INPUTS:
                mine = [record.value for record in good if record.key == key and record.topic == topic]
                theirs = [value for whose, _, value in values if whose == key and value in mine]
                assert theirs == mine, "order of a key"
        latest = {record.key: int(record.value or b"0") for record in self._committed("state")}
        assert latest == counts, "state"
        self._check_dead([record for record in taken if record.value == b"bad"])

    def _committed(self, topic: str) -> list[Record]:
        """Also what a reader does not see yet, behind the first record of a transaction that is open."""
        records: list[Record] = []
        for number in range(PARTITIONS):
            end = self.broker.watermarks((topic, number)).high
            records += [record for record in self.broker.slice((topic, number), 0, end) if record is not None]
        return records

    def _check_dead(self, bad: list[Record]) -> None:
        letters = [to_letter(record)[0].record for record in self._committed("dlq")]
        assert sorted(letters) == sorted(bad), "dead letters, byte for byte"

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            clock.monotonic = self._real_clock

    def _settle(self) -> None:
        """All faults pass; what is gone stays gone; then everything is answered."""
        while self.upstream:
            self.a_writer_finishes(True)
        for process in [*self.frozen, *self.processes.values()]:
            process.client.faults.clear()
            process.client.stalled.clear()
        for member in list(self.broker.group("p-count").members.values()):
            if member.dead or member not in [process.client for process in self.processes.values()]:
                member.expel()
        self.time_passes(100.0)
        for _ in range(SETTLE_ROUNDS):
            if not self.processes:
                self.start(0)
            self.all_go_round(1)
        self.what_is_committed_is_whole()
        for topic in INPUTS:
            for record in self._committed(topic):
                at = (topic, record.partition)
                assert record.offset < self.broker.group("p-count").offsets.get(at, 0), f"{record} was not answered"
        for process in self.processes.values():
            for number in {number for _, number in process.client.owned()}:
                committed = {
                    record.key: int(record.value or b"0")
                    for record in self._committed("state")
                    if record.partition == number
                }
                assert process.service.counts[number] == committed, "state in memory"


class Forgetful(Counting):
    """Has no changelog to restore from: its state comes of replaying the input."""

    def restore(self, partition: int, entries: Any) -> None:
        super().restore(partition, ())


class ReplayMachine(LoopMachine):
    """A stage that rebuilds its state from old input."""

    replay = FromTheStart()
