"""B1 and B2: one output a event, ours and each peer's by turns, over the same events on the same broker."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from featurebench import contestants, environments
from featurebench.contestants import OURS, Peer
from featurebench.feeding import Fed
from featurebench.ledger import Ledger
from featurebench.measuring import Bench, Job, Measured, say
from featurebench.ratios import Pair, summarize, table
from featurebench.stream import Events
from featurebench.windowing import service_environment, stage_command, stage_topics, write_pipeline
from tidemill.errors import TidemillError
from tidemill.local.supervisor import ServiceCommand
from tidemill.runtime.topics import TopicDefinition

PARTITIONS = 4
WARM_UP = 2_000
_CHUNK = 10_000
_OURS_IS = {
    "b1": "exactly-once, state: memory",
    "b2": "exactly-once with the changelog in the same transaction",
}


@dataclass(frozen=True, slots=True)
class Contest:
    """One of the two workloads. `events` hold the warm-up too; `peers` map to the environments that run them."""

    workload: str
    events: Events
    peers: Mapping[str, Path]
    rounds: int
    compression: str

    @property
    def durable(self) -> bool:
        return self.workload == "b2"

    def run(self, bench: Bench) -> dict[str, Any]:
        """All rounds. Raises TidemillError if our own service fails; a peer that fails is left out and named."""
        pairs: dict[str, list[Pair]] = {name: [] for name in self.peers}
        failed: dict[str, str] = {}
        runs: list[dict[str, Any]] = []
        for number in range(1, self.rounds + 1):
            if not self.peers:
                runs.append(self._entry(number, OURS, *self._ours(bench, f"{number}")))
            for name in self.peers:
                if name in failed:
                    continue
                ours = self._ours(bench, f"{number}-{name}")
                runs.append(self._entry(number, OURS, *ours))
                try:
                    theirs = self._theirs(bench, contestants.PEERS[name], number)
                except TidemillError as error:
                    failed[name] = error.message
                    say(f"{name} is left out: {error.message}")
                    continue
                runs.append(self._entry(number, name, *theirs))
                pairs[name].append(Pair(number, ours[0].events_per_cpu_second, theirs[0].events_per_cpu_second))
        return {
            "settings": self._settings(),
            "ratios": table(pairs),
            "summary": {name: summarize(rounds) for name, rounds in pairs.items() if rounds},
            "failed": failed,
            "all_right": not failed and all(run["check"]["right"] for run in runs),
            "runs": runs,
        }

    def _settings(self) -> dict[str, Any]:
        return {
            "events": len(self.events) - WARM_UP,
            "keys": self.events.key_count,
            "partitions": PARTITIONS,
            "compression": self.compression,
            "window": "tumbling, 10 s",
            "guarantees": {
                OURS: _OURS_IS[self.workload],
                **{name: getattr(contestants.PEERS[name], self.workload) for name in self.peers},
            },
        }

    def _entry(self, number: int, who: str, measured: Measured, ledger: Ledger) -> dict[str, Any]:
        check = ledger.verdict()
        say(
            f"{self.workload} round {number} {who:>9}: {measured.events_per_cpu_second:>9,.0f} events per CPU-second, "
            f"{measured.events_per_second:>9,.0f} a second"
            f"{'' if check.right else f'  NOT RIGHT: {check.as_dict()}'}"
        )
        return {"round": number, "who": who, **measured.as_dict(), "check": check.as_dict()}

    def _ours(self, bench: Bench, suffix: str) -> tuple[Measured, Ledger]:
        name = f"{self.workload}-{suffix}-tidemill"
        file, pipeline = write_pipeline(name, bench.folder / "pipelines", self.workload)
        environment = service_environment(bench.bootstrap_servers, self.compression)
        ledger = Ledger(self.events, ours=True)
        job = Job(
            name=name,
            topics=stage_topics(pipeline, ["customer"]),
            commands=[stage_command(str(file), "customer", environment, bench.folder / "data" / name)],
            warm_up=_records(self.events, 0, WARM_UP, pipeline.topic("events")),
            warm_up_outputs=WARM_UP,
            backlog=_records(self.events, WARM_UP, len(self.events), pipeline.topic("events")),
            backlog_outputs=len(self.events) - WARM_UP,
            output_topic=pipeline.topic("features"),
            enter=ledger.enter,
        )
        return bench.run(job), ledger

    def _theirs(self, bench: Bench, peer: Peer, number: int) -> tuple[Measured, Ledger]:
        name = f"{self.workload}-{number}-{peer.name}"
        events = self.events.first(WARM_UP + max(WARM_UP, round((len(self.events) - WARM_UP) * peer.share)))
        data = bench.folder / "data" / name
        data.mkdir(parents=True, exist_ok=True)
        environment = {
            "BENCH_BOOTSTRAP": bench.bootstrap_servers,
            "BENCH_NAME": name,
            "BENCH_INPUT": f"{name}-events",
            "BENCH_OUTPUT": f"{name}-answers",
            "BENCH_CHANGELOG": f"{name}-state",
            "BENCH_DURABLE": "1" if self.durable else "0",
            "BENCH_COMPRESSION": self.compression,
            "BENCH_PARTITIONS": str(PARTITIONS),
            "BENCH_FOLDER": str(data),
            # Ours would otherwise be found by the peer's Python.
            "PYTHONPATH": "",
        }
        program = str(contestants.PEERS_FOLDER / peer.program)
        command = (str(environments.interpreter(self.peers[peer.name])), program)
        ledger = Ledger(events, ours=False)
        job = Job(
            name=name,
            topics=_peer_topics(name),
            commands=[ServiceCommand(peer.name, command, environment)],
            warm_up=_records(events, 0, WARM_UP, environment["BENCH_INPUT"]),
            warm_up_outputs=WARM_UP,
            backlog=_records(events, WARM_UP, len(events), environment["BENCH_INPUT"]),
            backlog_outputs=len(events) - WARM_UP,
            output_topic=environment["BENCH_OUTPUT"],
            enter=ledger.enter,
            reads_uncommitted=peer.reads_uncommitted,
        )
        return bench.run(job), ledger


def _records(events: Events, begin: int, end: int, topic: str) -> Iterator[Fed]:
    for first in range(begin, end, _CHUNK):
        for key, value, time in events.records(first, min(first + _CHUNK, end)):
            yield Fed(topic, key, value, time)


def _peer_topics(name: str) -> Sequence[TopicDefinition]:
    """As ours: the same partitions, nothing deleted by time, a compacted changelog."""
    kept = {"retention.ms": "-1", "message.timestamp.type": "CreateTime"}
    configs = {"events": kept, "answers": kept, "state": {**kept, "cleanup.policy": "compact"}}
    return [
        TopicDefinition(f"{name}-{role}", PARTITIONS, 1, config, owner="benchmark", role=role)
        for role, config in configs.items()
    ]
