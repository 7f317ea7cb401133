"""The two configuration files of the local broker."""

from pathlib import Path
from typing import NamedTuple

from tidemill.local.machine import LOOPBACK

_FOREVER_MS = 2**63 - 1


class Proxied(NamedTuple):
    """A listener for clients behind a proxy: where the broker listens, and the port that it tells them."""

    listens: int
    advertised: int


class Ports(NamedTuple):
    """Loopback ports of the node."""

    broker: int
    controller: int
    upstream: Proxied | None

    @property
    def chosen(self) -> bool:
        return self.broker != 0

    @property
    def bound(self) -> tuple[int, ...]:
        """Those on which the broker itself listens."""
        return (self.broker, self.controller, *((self.upstream.listens,) if self.upstream else ()))


def server_properties(ports: Ports, data_dir: Path) -> str:
    """One KRaft node that is broker and controller, for a small machine and for records dated years ago."""
    listeners = f"PLAINTEXT://{LOOPBACK}:{ports.broker},CONTROLLER://{LOOPBACK}:{ports.controller}"
    advertised, protocols = listeners, "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT"
    if ports.upstream is not None:
        # A client stays with the listener that it came by: whatever the broker tells it leads through the proxy again.
        listeners += f",PROXIED://{LOOPBACK}:{ports.upstream.listens}"
        advertised += f",PROXIED://{LOOPBACK}:{ports.upstream.advertised}"
        protocols += ",PROXIED:PLAINTEXT"
    settings: dict[str, object] = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{ports.controller}",
        "listeners": listeners,
        "advertised.listeners": advertised,
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": protocols,
        "log.dir": data_dir,
        # One replica of everything, few partitions of the internal topics.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 4,
        # A position must outlive a long pause: without it a service would begin again at the beginning.
        "offsets.retention.minutes": 5_256_000,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # Members that are killed are missed after 6 s, and a joining one does not wait for others.
        "group.initial.rebalance.delay.ms": 0,
        "group.consumer.min.session.timeout.ms": 6000,
        "group.consumer.session.timeout.ms": 6000,
        "group.consumer.min.heartbeat.interval.ms": 500,
        "group.consumer.heartbeat.interval.ms": 1000,
        # Asks the coordinator once more for each partition of each transaction, against a write that arrives after its
        # transaction has ended. On one loopback broker that needs a request that outlasts its time-out and the abort;
        # without the question four stages take a third less time (services/decisions/0005).
        "transaction.partition.verification.enable": "false",
        "auto.create.topics.enable": "false",
        # Simulated streams carry the dates of their events: no retention by time unless a topic asks for it, and any
        # timestamp is accepted (ingest judges them).
        "log.retention.ms": -1,
        "log.message.timestamp.before.max.ms": _FOREVER_MS,
        "log.message.timestamp.after.max.ms": _FOREVER_MS,
        # Small machine: fewer threads than the defaults for a cluster, and a cleaner that fits a small heap.
        "num.network.threads": 2,
        "num.io.threads": 4,
        "background.threads": 4,
        "log.cleaner.dedupe.buffer.size": 32 << 20,
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def log4j_properties(log_file: Path) -> str:
    """Warnings and worse to a rolling file, and the lines that say when the server started and stopped."""
    return f"""\
status = error
appender.file.type = RollingFile
appender.file.name = file
appender.file.fileName = {log_file}
appender.file.filePattern = {log_file}.%i
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{ISO8601}} %-5p %c{{1}} %m%n%throwable{{8}}
appender.file.policies.type = Policies
appender.file.policies.size.type = SizeBasedTriggeringPolicy
appender.file.policies.size.size = 10MB
appender.file.strategy.type = DefaultRolloverStrategy
appender.file.strategy.max = 3
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
logger.server.name = kafka.server.KafkaRaftServer
logger.server.level = info
"""
