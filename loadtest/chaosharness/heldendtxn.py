"""The held EndTxn: does a request that ends one transaction too late ever end the next one?

    PYTHONPATH=loadtest python -m chaosharness.heldendtxn --count 200 --seed 1 --json

A client that speaks transactions v1 (librdkafka does) sends EndTxn with its producer's id and epoch and nothing that
names the transaction. If the network holds one back until the client has timed out, asked again and begun its next
transaction, the late request commits or aborts that one, half finished (the anomaly that Jepsen published in 2024).

Here the runtime's own transactional producer runs pairs of transactions through the proxy on a real Kafka. The end of
the first, a commit (the runtime aborts by a new epoch and asks for no other end), is held, and released inside the
second when half of that is written, which commits or aborts by seed. Afterwards a reader of another library says what
is visible, and each transaction is judged by what its client was told. `--without-recycling` takes away the runtime's
protection, a new epoch after every doubt, and aborts by EndTxn, in all four combinations: then the anomaly must show,
which proves that this harness sees it.

Exit code 0: nothing contradicts what the client was told, and every request was held and released inside.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from confluent_kafka import KafkaException

from chaosharness.committed import committed_values
from chaosharness.proxy import Proxy
from chaosharness.told import Half, Told, contradictions
from chaosharness.wire import Api
from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.local.kafka import LocalKafka
from tidemill.local.machine import free_port
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka import Admin
from tidemill.runtime.kafka.producer import TransactionalProducer
from tidemill.runtime.kafka.settings import Settings, writing_settings
from tidemill.runtime.logs import logs_of_command
from tidemill.runtime.ports import AbortedError, ProducerLostError
from tidemill.runtime.service import OutRecord
from tidemill.runtime.topics import TopicDefinition

_PARTITIONS = 2
_COMMIT_WITHIN_S = 30.0
_RELEASED_WITHIN_S = 15.0
_LOOK_EVERY_S = 0.005
_TELL_EVERY = 10
_EVENT_TIME_MS = 1_600_000_000_000

Progress = Callable[[str], None]
By = Literal["silence", "reset"]


@dataclass(frozen=True)
class Plan:
    """`by`: the client hears nothing until its socket.timeout.ms, or its connection is reset at once."""

    count: int
    seed: int
    by: By = "silence"
    recycle: bool = True
    socket_timeout_ms: int = 1_000
    name: str = "held-endtxn"
    """Of the topic and of the transactional id: one for each exercise on a broker."""


class CountingProducer(TransactionalProducer):
    """The runtime's producer, which counts its recycles. Where it shall not recycle it ignores its doubts, and aborts
    as clients do, by EndTxn."""

    def __init__(self, settings: Settings, name: str, *, recycle: bool) -> None:
        super().__init__(settings, name)
        self.recycles = 0
        self._heeds_doubts = recycle

    def begin(self) -> None:
        if not self._heeds_doubts:
            self._tap.suspicious = False
        super().begin()

    def abort(self) -> None:
        if self._heeds_doubts:
            super().abort()
            return
        try:
            self._handle.abort_transaction(_COMMIT_WITHIN_S)
        except KafkaException as exception:
            raise ProducerLostError(str(exception)) from None
        self._in_transaction = False

    def recycle(self) -> None:
        self.recycles += 1
        super().recycle()

    def settle(self) -> None:
        """Return once the broker has what was produced: an abort would drop what is not sent yet."""
        self._handle.flush(_COMMIT_WITHIN_S)


class Client:
    """Runs single transactions of two halves and keeps what it was told of each."""

    def __init__(self, producer: CountingProducer, topic: str) -> None:
        self.told: list[Told] = []
        self._producer = producer
        self._topic = topic

    def transact(self, *, commit: bool, second_to: int, between: Callable[[], None] = lambda: None) -> None:
        """The first half goes to partition 0; `between` runs before the second is written."""
        number = len(self.told)
        self.told.append(Told.ABORTED)
        ending = False
        try:
            self._producer.begin()
            self._producer.produce([self._half(number, "first", 0)])
            between()
            self._producer.produce([self._half(number, "second", second_to)])
            self._producer.settle()
            ending = commit
            if commit:
                self._producer.commit(Deadline(_COMMIT_WITHIN_S))
                self.told[number] = Told.COMMITTED
            else:
                self._producer.abort()
        except AbortedError:
            self._give_up()
        except ProducerLostError:
            self.told[number] = Told.NOTHING if ending else Told.ABORTED
            self._producer.recycle()

    def close_the_log(self) -> None:
        """One last committed record in every partition, by a new epoch: whatever stands open before it is decided."""
        self._producer.recycle()
        self._producer.begin()
        self._producer.produce([self._record(b"end", number) for number in range(_PARTITIONS)])
        self._producer.commit(Deadline(_COMMIT_WITHIN_S))

    def _give_up(self) -> None:
        try:
            self._producer.abort()
        except ProducerLostError:
            self._producer.recycle()

    def _half(self, transaction: int, half: Half, partition: int) -> OutRecord:
        return self._record(f"{transaction}:{half}".encode(), partition)

    def _record(self, value: bytes, partition: int) -> OutRecord:
        return OutRecord(self._topic, b"k", value, _EVENT_TIME_MS, partition)


def exercise(
    plan: Plan, broker: str, proxy: Proxy, progress: Progress, options: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The plan on a running broker behind a running proxy, which nobody else uses; `broker` is its own address, for the
    reader. `options` are an operator's librdkafka settings."""
    began = clock.monotonic()
    Admin(broker).create_topics([TopicDefinition(plan.name, _PARTITIONS, 1, {"retention.ms": "-1"}, "chaos", "chaos")])
    settings = writing_settings(
        proxy.bootstrap_servers, {**(options or {}), "socket.timeout.ms": str(plan.socket_timeout_ms)}
    )
    producer = CountingProducer(settings, plan.name, recycle=plan.recycle)
    producer.start()
    client = Client(producer, plan.name)
    random = Random(plan.seed)
    for number in range(plan.count):
        proxy.hold(Api.END_TXN, by=plan.by)
        # the runtime asks for the end of what it commits only
        client.transact(commit=plan.recycle or random.random() < 0.5, second_to=random.randrange(_PARTITIONS))
        client.transact(
            commit=random.random() < 0.5,
            second_to=random.randrange(_PARTITIONS),
            between=lambda: _await_release(proxy),
        )
        if (number + 1) % _TELL_EVERY == 0 or number + 1 == plan.count:
            progress(f"{number + 1} of {plan.count} held, {producer.recycles} recycles")
    client.close_the_log()
    producer.close()
    seen = committed_values(broker, plan.name, _PARTITIONS, last=b"end")
    return _report(plan, client.told, seen, proxy, producer.recycles) | {"seconds": round(clock.monotonic() - began, 1)}


def _await_release(proxy: Proxy) -> None:
    """Returns when no request is held any more, or after a while all the same: the report then says so."""
    deadline = Deadline(_RELEASED_WITHIN_S)
    while not deadline.passed and any(not late.over for late in proxy.late()):
        clock.pause(_LOOK_EVERY_S)


def _report(plan: Plan, told: Sequence[Told], seen: Sequence[bytes], proxy: Proxy, recycles: int) -> dict[str, Any]:
    counts = proxy.counts()
    late = proxy.late()
    violations = contradictions(told, seen)
    figures = {
        "held": counts.get("held", 0),
        "held_commits": sum(each.commit for each in late),
        "held_aborts": sum(not each.commit for each in late),
        "released_inside": counts["released"],
        "late_obeyed": counts["late_obeyed"],
        "late_refused": counts["late_refused"],
        "recycles": recycles,
    }
    told_counts = {kind.value: list(told).count(kind) for kind in Told}
    return {
        **asdict(plan),
        **figures,
        "told": told_counts,
        "violations": violations,
        "anomalies": len(violations),
        "vacuous": _vacuous(plan, figures, told_counts),
    }


def _vacuous(plan: Plan, figures: dict[str, int], told: dict[str, int]) -> list[str]:
    """Reasons why a run without anomalies would prove nothing."""
    reasons = [f"{figures[name]} {name} of {plan.count}" for name in ("held", "released_inside") if
               figures[name] != plan.count]  # fmt: skip
    if plan.recycle and figures["recycles"] < plan.count:
        reasons.append(f"only {figures['recycles']} recycles")
    asked = ("held_commits",) if plan.recycle else ("held_commits", "held_aborts")
    reasons += [f"no {name}" for name in asked if not figures[name]]
    reasons += [f"nothing was told {kind}" for kind in ("committed", "aborted") if not told[kind]]
    return reasons


def run(count: int, seed: int, progress: Progress, *, by: By = "silence", recycle: bool = True) -> dict[str, Any]:
    """`count` held requests on a Kafka of its own; returns the figures of the report. Raises TidemillError."""
    port = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="held-endtxn-") as folder,
        LocalKafka(Path(folder), proxied_port=port, report=progress) as kafka,
        Proxy(port, kafka.upstream_port, seed) as proxy,
    ):
        return exercise(Plan(count, seed, by, recycle), kafka.bootstrap_servers, proxy, progress)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="chaosharness.heldendtxn", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--count", type=int, default=200, help="EndTxn requests to hold (default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which of them commit, which abort (default %(default)s)")
    parser.add_argument(
        "--by",
        choices=["silence", "reset"],
        default="silence",
        help="what the client notices of a held request: nothing until its socket time-out, or a reset connection",
    )
    parser.add_argument(
        "--without-recycling", action="store_true", help="take away the protection: anomalies must show"
    )
    parser.add_argument("--json", action="store_true", help="the report as JSON on standard output")
    options = parser.parse_args(arguments)
    if options.count < 1:
        parser.error("--count must be at least 1")
    try:
        with logs_of_command():
            report = run(
                options.count,
                options.seed,
                lambda line: print(line, file=sys.stderr, flush=True),
                by=options.by,
                recycle=not options.without_recycling,
            )
    except TidemillError as error:
        print(f"{error.message}\n{error.hint}", file=sys.stderr)
        return error.exit_code
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{report['held']} held ({report['held_commits']} commits, {report['held_aborts']} aborts), "
            f"{report['released_inside']} released inside the next transaction, {report['late_refused']} refused, "
            f"{report['recycles']} recycles, {report['anomalies']} anomalies in {report['seconds']} s"
        )
        for line in [*report["violations"], *report["vacuous"]]:
            print(f"  {line}")
    return 1 if report["anomalies"] or report["vacuous"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
