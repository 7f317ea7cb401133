"""librdkafka settings, each with its reason, and how its errors become ours."""

import logging
from collections.abc import Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from tidemill.errors import TidemillError
from tidemill.runtime.logs import get_logger

Settings = dict[str, Any]
_log = get_logger("kafka")

TRANSACTION_TIMEOUT_S: Final = 15.0
"""How long the coordinator keeps a silent producer's transaction open; a restart aborts its own at once."""

CALL_TIMEOUT_S: Final = 10.0
"""One blocking request to a broker; repeated where the protocol says so."""

_COMMON: Final[Mapping[str, Any]] = {
    "socket.timeout.ms": 5_000,
    # The coordinator answers CONCURRENT_TRANSACTIONS while it writes the last markers; the default wait is 100 ms.
    "retry.backoff.ms": 5,
    # A broker that is away is asked a few times a second, not twenty.
    "reconnect.backoff.ms": 200,
    "reconnect.backoff.max.ms": 2_000,
    "log.connection.close": False,
    "client.id": "tidemill",
}

_FORBIDDEN: Final[Mapping[int, str]] = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "consumer group",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "transactional id",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "cluster",
}


class LibraryLog:
    """librdkafka's own lines as ours. Errors become warnings: it repairs most of them itself."""

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Called like logging.Logger.log, on the thread that polls the client."""
        line = message % arguments if arguments else message
        tell = _log.warning if level >= logging.ERROR else _log.debug
        tell("librdkafka", line=line)


def base_settings(bootstrap_servers: str, options: Mapping[str, str]) -> Settings:
    """What every client has; `options` is the operator's pass-through (security and the like)."""
    return {**_COMMON, **options, "bootstrap.servers": bootstrap_servers}


def reading_settings(bootstrap_servers: str, options: Mapping[str, str]) -> Settings:
    """What every consumer has. Memory: at most 16 MB prefetched; 256 kB pieces keep partitions interleaved."""
    return {
        "fetch.queue.backoff.ms": 5,
        "queued.min.messages": 20_000,
        "queued.max.messages.kbytes": 16_384,
        "max.partition.fetch.bytes": 262_144,
        # The end of a partition is reported with the next fetch: a short wait keeps synchronised reading prompt.
        "fetch.wait.max.ms": 50,
        "check.crcs": False,
        "logger": LibraryLog(),
        **base_settings(bootstrap_servers, options),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
    }


def writing_settings(bootstrap_servers: str, options: Mapping[str, str]) -> Settings:
    """What every producer has: idempotent, all replicas, keys to partitions as Java's producers do."""
    return {
        "linger.ms": 1,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 500_000,
        "queue.buffering.max.kbytes": 262_144,
        **base_settings(bootstrap_servers, options),
        "acks": "all",
        "enable.idempotence": True,
        "partitioner": "murmur2_random",
    }


def error_of(exception: KafkaException) -> KafkaError:
    """The KafkaError inside; an exception without one (a client-side refusal) becomes `_FAIL`."""
    error = exception.args[0] if exception.args else None
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(exception))


def refused(doing: str, error: KafkaError) -> TidemillError:
    """What a caller outside the transaction loop gets when a broker says no or nothing."""
    if error.code() in (KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._TIMED_OUT):
        hint = "check that Kafka runs and that the bootstrap servers are right"
    elif error.code() in (KafkaError._AUTHENTICATION, KafkaError._SSL, KafkaError.SASL_AUTHENTICATION_FAILED):
        hint = "check the security settings in TIDEMILL_KAFKA_OPTIONS"
    elif error.code() in _FORBIDDEN:
        hint = f"give the user of this process the right to use the {_FORBIDDEN[error.code()]}: see kafka-acls.sh"
    else:
        hint = "the broker's log says more"
    return TidemillError(f"{doing}: Kafka says {error.name()}: {error.str()}", hint=hint)
