"""How each fault is done, and how it is seen that it took place. Each call returns once it is over."""

import signal
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaException, Producer

from chaosharness import failpoints
from chaosharness.fleet import Fleet
from chaosharness.journal import PROCESS, RANDOM, Entry
from chaosharness.modelfeed import ModelFeed
from chaosharness.schedule import Fault
from tidemill import clock

_MEET_WITHIN_S = 20.0
"""A service that is starting needs a few seconds before it comes by any failpoint, and where its partitions are still
its dead worker's, a session."""
_STAND_WITHIN_S = 60.0
"""A zombie is made of a service in mid-stream, and may have been killed just before."""
_NOTICED_WITHIN_S = 20.0
"""A fenced producer learns it with its next transaction."""
_TAKEN_OVER_WITHIN_S = 60.0
_PAST_TRANSACTION_TIMEOUT_S = 26.0
"""15 s, and the 10 s between two looks of the broker for transactions that have timed out."""
_REFUSED_WITHIN_S = 20.0
_REFUSED = ("fence", "abort", "rewind")
_JOIN_WITHIN_S = 30.0
_STORM_ROUNDS = 4
_STORM_PAUSE_S = 3.0


Do = Callable[[Fault], bool]
"""Does a fault and says whether it took place."""


class Faults:
    """Does what a schedule says. `missed` are faults that could not take place, such as a failpoint nobody came by;
    `done` counts the others by name."""

    def __init__(self, fleet: Fleet, models: ModelFeed, others: Mapping[str, Do]) -> None:
        """`others` are the faults that are not done to a service, by kind."""
        self._fleet = fleet
        self._models = models
        self.done: Counter[str] = Counter()
        self.missed: list[Fault] = []
        self.published: dict[int, float] = {}
        """When each model was: monotonic seconds by epoch."""
        self._do: dict[str, Do] = {
            "kill": self._kill,
            "usurp": self._usurp,
            "zombie": self._zombie,
            "storm": self._storm,
            "swap": self._swap,
            **others,
        }

    def do(self, fault: Fault) -> None:
        self._fleet.journal.write("fault", f"{fault.kind} {fault.service} {fault.detail}".strip())
        if self._do[fault.kind](fault):
            self.done[fault.name] += 1
        else:
            self.missed.append(fault)

    def skip(self, faults: Iterable[Fault]) -> None:
        """The stream came to a standstill before them."""
        self.missed += faults

    def _kill(self, fault: Fault) -> bool:
        fleet, service = self._fleet, fault.service
        if fault.detail in (RANDOM, PROCESS):
            return fleet.wait_for(lambda _: fleet.kill(service, fault.detail), _MEET_WITHIN_S)
        fleet.arm(service, fault.detail)
        helper = None
        if fault.detail == failpoints.MID_RESTORE:
            fleet.kill(service)
        elif fault.detail == failpoints.ON_REVOKE:
            helper = fleet.add(service, 1)
        elif fault.detail == failpoints.MODEL_SWAP:
            self._publish()
        elif fault.detail == failpoints.REWOUND:
            self._fence(service)
        # Who does not come by in time stays armed: after a broker fault it may be a while until anything flows.
        met = fleet.wait_for(lambda _: not fleet.is_armed(service), _MEET_WITHIN_S)
        if helper is not None:
            fleet.remove(helper)
        return met

    def _usurp(self, fault: Fault) -> bool:
        """Take the service's transactional id, as a second process of the same instance would."""
        if not self._fence(fault.service):
            return False
        return self._fleet.wait_for(lambda entries: _has(entries, "recycle", fault.service), _NOTICED_WITHIN_S)

    def _fence(self, service: str) -> bool:
        identity = f"{self._fleet.stack.pipeline.name}-{service}-0"
        settings = {"bootstrap.servers": self._fleet.stack.bootstrap_servers, "transactional.id": identity}
        producer = Producer(settings)
        try:
            producer.init_transactions(20)
        except KafkaException:
            return False
        return True

    def _zombie(self, fault: Fault) -> bool:
        """Stop services in the middle of a transaction each, let others take over, and wake them when they have long
        been given up. The last of the chain stands still first, for it needs the others to come by its failpoint."""
        fleet, services = self._fleet, fault.service.split("+")
        stopped: dict[str, int] = {}
        for service in reversed(services):
            fleet.arm(service, f"{fault.detail} {failpoints.STOP}")
            if fleet.wait_for(partial(_has, kind="stop", service=service), _STAND_WITHIN_S):
                stopped[service] = next(e.pid for e in reversed(fleet.reader.entries) if e.kind == "stop")
            else:
                fleet.disarm(service)
        successors = [fleet.add(service, 1) for service in stopped]
        taken = self._all("first_commit", successors, _TAKEN_OVER_WITHIN_S)
        fleet.wait(_PAST_TRANSACTION_TIMEOUT_S if taken else 0.0)
        stood = [service for service, pid in stopped.items() if _stands_still(pid)]
        for service in stopped:
            fleet.signal(service, signal.SIGCONT)
        # Each finds that what it had begun is not its own any more; more than one may in the same tick.
        waiting = {service: stopped[service] for service in stood}
        refused = fleet.wait_for(partial(_none_left, waiting), _REFUSED_WITHIN_S) if taken else False
        for service in stood:
            if service not in waiting:
                fleet.journal.write("zombie", service=service, pid=stopped[service])
        for successor in successors:
            fleet.remove(successor)
        return refused and len(stood) == len(services)

    def _storm(self, fault: Fault) -> bool:
        """One instance becomes three and one again, some leaving in order and some not, also while they restore."""
        fleet, service = self._fleet, fault.service
        joined = 0
        for number in range(_STORM_ROUNDS):
            names = [fleet.add(service, instance) for instance in (1, 2)]
            came = self._all("joining", names, _JOIN_WITHIN_S)
            joined += came
            fleet.wait(number % 2 * _STORM_PAUSE_S)
            for position, name in enumerate(names):
                fleet.remove(name, violently=(number + position) % 2 == 1)
            if came:
                fleet.journal.write("storm", service=service)
        return joined > _STORM_ROUNDS // 2

    def _all(self, kind: str, services: Collection[str], within_s: float) -> bool:
        """Wait until each of them has written such an entry from now on."""
        awaited = set(services)

        def seen(entries: list[Entry]) -> bool:
            awaited.difference_update(entry.service for entry in entries if entry.kind == kind)
            return not awaited

        return self._fleet.wait_for(seen, within_s)

    def _swap(self, fault: Fault) -> bool:
        self._publish()
        return True

    def _publish(self) -> None:
        self.published[self._models.publish()] = clock.monotonic()


def _stands_still(pid: int) -> bool:
    """Whether it is there and stopped by a signal."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _none_left(waiting: dict[str, int], entries: list[Entry]) -> bool:
    """Takes out of `waiting` the services whose process was refused, or has ended because it was."""
    for entry in entries:
        refused = entry.kind in _REFUSED and waiting.get(entry.service) == entry.pid
        if refused or entry.kind == "exit":
            waiting.pop(entry.service, None)
    return not waiting


def _has(entries: list[Entry], kind: str, service: str) -> bool:
    return any(entry.kind == kind and entry.service == service for entry in entries)
