"""One run: the pipeline under its schedule of faults, then the audit."""

import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from math import ceil, sqrt
from pathlib import Path
from typing import Any

from chaosharness import failpoints
from chaosharness.arguments import Options
from chaosharness.brokerfaults import BrokerFaults, SmallDisk
from chaosharness.fakeclock import FakeClock
from chaosharness.faults import Do, Faults
from chaosharness.fleet import Fleet
from chaosharness.journal import kills_by_failpoint, recoveries, totals, unexplained
from chaosharness.modelfeed import ModelFeed
from chaosharness.networkfaults import NetworkFaults
from chaosharness.poison import CODE, Poison
from chaosharness.proxy import Proxy
from chaosharness.schedule import ALL_STAND_STILL, KILLABLE, Counts, Fault, plan
from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.local.kafka import LocalKafka
from tidemill.local.lineprocess import LineProcess
from tidemill.local.machine import free_port
from tidemill.local.supervisor import NEVER, ServiceCommand, Supervisor
from tidemill.scenarios import catalog

PIPELINE = "fraud"
DAYS = 45
"""Longer than the longest window and the maturity of labels: rings wrap, keys expire, outcomes ripen."""
_EVENTS_A_DAY = 1.92
"""Payments of one simulated customer."""
_SPREAD = 1.8
"""Three times the deviation of one customer's payments from their mean: hardly ever are they fewer than asked for."""
_SECONDS: Mapping[str, float] = {
    "kill": 1.5,
    "usurp": 2.0,
    "zombie": 60.0,
    "storm": 40.0,
    "clock": 10.0,
    "network": 10.0,
    "burst": 30.0,
    "broker-kill": 20.0,
    "broker-stop": 25.0,
    "disk-full": 30.0,
    "swap": 0.5,
}
"""About what each takes on two cores: the stream must flow as long as the schedule lasts."""
_SLACK = 1.5
"""A fault that waits for its failpoint, or for a service that is starting, takes longer than usual."""
_MOST_A_SECOND = 2_500.0
_SWAPS = 5
_DISK_MB = 4_096
"""For the broker's data where its disk is to be filled: about 3 kB a payment."""
_IN_GOOD_TIME = 0.8
_DELIVERED_WITHIN_S = 60.0
"""A model that was published so long before this share of the stream must have scored in every partition, whatever
happened to the broker meanwhile."""
_QUIET_SHARE = 1 / 3
"""Of the patience: after so long without a record the stream counts as ended."""
_LOOK_S = 1.0
_LONGER = 5.0
"""So many times the time that something should take is waited for it, then the run counts as never finished."""

Say = Callable[[str], None]


def counts_of(options: Options) -> Counts:
    each = {name: options.each if name in options.faults else 0 for name in _SECONDS}
    return Counts(
        kills=options.kills,
        usurpations=each["usurp"],
        broker_kills=each["broker-kill"],
        broker_stops=each["broker-stop"],
        disks_full=each["disk-full"],
        clock_jumps=each["clock"],
        network=each["network"],
        bursts=each["burst"],
        zombies=each["zombie"],
        storms=each["storm"],
        swaps=_SWAPS,
    )


def rate_of(options: Options, faults: list[Fault]) -> float:
    """Payments a second at which the stream lasts as long as its faults."""
    if options.rate is not None:
        return options.rate
    lasting = _SLACK * sum(_SECONDS[fault.kind] for fault in faults)
    return min(_MOST_A_SECOND, options.events / max(20.0, lasting))


def with_poison(sent: dict[str, Any], records: int) -> dict[str, Any]:
    """What was sent, the harness' own bad records among it."""
    if not records:
        return sent
    letters = {**sent["dead_letters"], CODE: sent["dead_letters"].get(CODE, 0) + records}
    return {**sent, "dead_letters": letters, "bad": {**sent["bad"], "poison": records}}


class Run:
    """Everything of one run. Raises TidemillError where the harness itself cannot go on."""

    def __init__(self, options: Options, folder: Path, say: Say) -> None:
        self._options = options
        self._folder = folder
        self._say = say
        services = KILLABLE if options.stage is None else (options.stage,)
        self._schedule = plan(options.seed, counts_of(options), services)
        self._rate = rate_of(options, self._schedule)
        self._clock = FakeClock(folder / "clock") if "clock" in options.faults else None
        self._producer = Supervisor(folder / "logs", NEVER)
        self._quiet_s = options.patience_s * _QUIET_SHARE
        self._looked = 0.0
        self._in_good_time = 0.0
        self._progress: dict[str, Any] = {}

    def result(self) -> dict[str, Any]:
        """Blocks for as long as the stream lasts and its audit takes; progress goes to `say`."""
        folder = self._folder / "data" / "kafka"
        with ExitStack() as opened:
            disk = opened.enter_context(SmallDisk(folder, _DISK_MB)) if "disk-full" in self._options.faults else None
            port = free_port() if "network" in self._options.faults else None
            broker = opened.enter_context(LocalKafka(folder, report=self._say, proxied_port=port))
            proxy = None
            environment = {"TIDEMILL_GROUP_PROTOCOL": self._options.protocol}
            if port is not None:
                proxy = opened.enter_context(Proxy(port, broker.upstream_port, self._options.seed))
                environment["TIDEMILL_BOOTSTRAP_SERVERS"] = proxy.bootstrap_servers
            if self._clock is not None:
                environment |= self._clock.environment
            fleet = Fleet(PIPELINE, self._folder, broker, environment, self._options.mutant, self._say)
            opened.enter_context(fleet)
            fleet.stack.wait_ready()
            models = ModelFeed(fleet.stack.bootstrap_servers, fleet.stack.pipeline, fleet.stack.keys_dir)
            done_to_broker, poison = BrokerFaults(fleet, broker, disk), Poison(fleet, self._folder)
            others: dict[str, Do] = {
                "broker-kill": done_to_broker.kill,
                "broker-stop": done_to_broker.stop,
                "disk-full": done_to_broker.fill_disk,
                "burst": poison.burst,
            }
            if proxy is not None:
                others["network"] = NetworkFaults(fleet, proxy).do
            if self._clock is not None:
                others["clock"] = partial(self._clock.jump, fleet)
            faults = Faults(fleet, models, others)
            options = ["--bootstrap-servers", fleet.stack.bootstrap_servers, "--pipeline", PIPELINE]
            log_file = self._folder / "logs" / "auditor.log"
            auditor = LineProcess("chaosharness.auditor", options, log_file, {**os.environ, **fleet.python_path})
            opened.callback(auditor.close)
            opened.callback(self._producer.stop)
            report = self._attacked(fleet, auditor, faults, poison)
            return report if proxy is None else report | {"network": proxy.counts()}

    def _attacked(self, fleet: Fleet, auditor: LineProcess, faults: Faults, poison: Poison) -> dict[str, Any]:
        started = clock.monotonic()
        self._start_producer(fleet)
        self._say(f"{len(self._schedule)} faults over {self._options.events:,} payments, {self._rate:,.0f} a second")
        for number, fault in enumerate(self._schedule, 1):
            if not self._until(fleet, auditor, fault.share):
                faults.skip(self._schedule[number - 1 :])
                break
            self._say(f"fault {number} of {len(self._schedule)}: {fault.kind} {fault.service} {fault.detail}".rstrip())
            faults.do(fault)
        sent = with_poison(self._sent(fleet, auditor), poison.sent)
        fleet.disarm_all()
        settled = fleet.wait_for(lambda _: fleet.all_ready(), self._options.patience_s)
        streamed = clock.monotonic() - started
        self._say("the stream has ended; waiting for its last outputs")
        settled &= self._comes_to_rest(fleet, auditor, sent["payments"])
        self._say("closing the books: every feature is computed anew")
        closing = {
            "do": "close",
            "wanted": sent["payments"],
            "quiet_s": self._quiet_s,
            "sent": sent,
            "due_epoch": self._due_epoch(faults.published),
            "labels_overtake": bool(ALL_STAND_STILL.intersection(self._options.faults)),
        }
        audit = _ask(auditor, closing)
        fleet.tick()
        return self._report(fleet, faults, sent, audit, settled, streamed)

    def _start_producer(self, fleet: Fleet) -> None:
        options = self._options
        expected = max(50.0, options.events / (_EVENTS_A_DAY * DAYS))
        customers = ceil(expected * (1 + _SPREAD / sqrt(expected)))
        scenario = catalog.get(PIPELINE)
        command = scenario.producer_command(
            {
                "bootstrap_servers": fleet.stack.bootstrap_servers,
                "pipeline": PIPELINE,
                "seed": options.seed,
                "days": DAYS,
                "rate": self._rate,
                "customers": customers,
                "terminals": 2 * customers,
                "bad_share": options.bad_share,
                "summary_file": str(self._folder / "sent.json"),
            }
        )
        self._producer.start([ServiceCommand("producer", command)])

    def _until(self, fleet: Fleet, auditor: LineProcess, share: float) -> bool:
        """Wait until so much of the stream is predicted; False once the producer is through and nothing moves."""
        last, since = -1, clock.monotonic()
        while True:
            done = self._look(fleet, auditor)["predictions"]
            if done >= share * self._options.events:
                return True
            if done != last:
                last, since = done, clock.monotonic()
            elif clock.monotonic() - since > self._options.patience_s:
                return False
            fleet.wait(0.2)

    def _look(self, fleet: Fleet, auditor: LineProcess) -> dict[str, Any]:
        """The audit's counts, asked for once a second."""
        if clock.monotonic() - self._looked >= _LOOK_S:
            self._looked = clock.monotonic()
            self._progress = _ask(auditor, {"do": "progress"})
            if self._progress["predictions"] < _IN_GOOD_TIME * self._options.events:
                self._in_good_time = self._looked
            if self._progress["repeated"] or self._progress["backwards"]:
                self._say(f"seen already: {self._progress}")
        return self._progress

    def _sent(self, fleet: Fleet, auditor: LineProcess) -> dict[str, Any]:
        """What the producer says that it has sent, once it has sent everything."""
        until = clock.monotonic() + _LONGER * (self._options.events / self._rate + self._options.patience_s)
        while True:
            if clock.monotonic() > until:
                raise TidemillError("The producer does not come to its end.", hint="Its log is producer.log.")
            for ended in self._producer.poll():
                if ended.status != 0:
                    raise TidemillError(f"The producer stopped: {ended.reason}", hint=f"Log: {ended.log_file}.")
                sent: dict[str, Any] = json.loads((self._folder / "sent.json").read_text("utf-8"))
                return sent
            self._look(fleet, auditor)
            fleet.wait(0.2)

    def _due_epoch(self, published: Mapping[int, float]) -> int:
        due = [epoch for epoch, at in published.items() if at + _DELIVERED_WITHIN_S < self._in_good_time]
        return max(due, default=0)

    def _comes_to_rest(self, fleet: Fleet, auditor: LineProcess, payments: int) -> bool:
        """Wait until nothing moves any more: longer where predictions are missing, a while also where none is, for
        outcomes come after them. False where something always moves."""
        last, since = self._look(fleet, auditor), clock.monotonic()
        until = since + _LONGER * (self._options.patience_s + self._options.events / self._rate)
        while clock.monotonic() < until:
            fleet.wait(0.5)
            if self._look(fleet, auditor) != last:
                last, since = self._progress, clock.monotonic()
            complete = self._progress["predictions"] >= payments
            if clock.monotonic() - since > self._quiet_s / (2 if complete else 1):
                return True
        return False

    def _report(
        self,
        fleet: Fleet,
        faults: Faults,
        sent: dict[str, Any],
        audit: dict[str, Any],
        settled: bool,
        streamed: float,
    ) -> dict[str, Any]:
        entries = fleet.reader.entries
        return {
            "options": {
                "events": self._options.events,
                "kills": self._options.kills,
                "each": self._options.each,
                "stage": self._options.stage,
                "bad_share": self._options.bad_share,
                "seed": self._options.seed,
                "protocol": self._options.protocol,
                "faults": self._options.faults,
                "mutant": self._options.mutant,
            },
            "events": sent["payments"],
            "sent": sent,
            "predictions": audit["predictions"],
            "complete": audit["complete"],
            "settled": settled,
            "stream_seconds": round(streamed, 1),
            "events_per_second": round(sent["payments"] / streamed, 1),
            "faults": {
                "planned": dict(Counter(fault.name for fault in self._schedule)),
                "done": dict(faults.done),
                "missed": [fault.as_dict() for fault in faults.missed],
            },
            "happened": totals(entries),
            "kills_by_failpoint": kills_by_failpoint(entries),
            "failpoints_never_hit": self._never_hit(kills_by_failpoint(entries)),
            "exits": [
                {"service": ended.name, "status": ended.status, "reason": ended.reason.splitlines()[0]}
                for ended in fleet.exits
            ],
            "unexplained_deaths": unexplained(entries),
            "recovery": recoveries(entries),
            "dead_letters": audit["dead_letters"],
            "findings": {name: {"count": len(found), "first": found[:5]} for name, found in audit["findings"].items()},
        }

    def _never_hit(self, hit: Mapping[str, int]) -> list[str]:
        planned = {fault.detail for fault in self._schedule if fault.kind == "kill"}
        return [name for name in failpoints.FAILPOINTS if name in planned and not hit.get(name)]


def _ask(auditor: LineProcess, command: Mapping[str, Any]) -> dict[str, Any]:
    return auditor.ask(json.dumps(command).encode())
