"""One transactional producer: protocol steps 3 to 7 on librdkafka, and what its errors mean."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from tidemill.errors import Fenced, TidemillError
from tidemill.runtime.deadline import Deadline, Watchdog
from tidemill.runtime.kafka.settings import CALL_TIMEOUT_S, TRANSACTION_TIMEOUT_S, Settings, error_of, refused
from tidemill.runtime.logs import get_logger
from tidemill.runtime.ports import AbortedError, Partition, ProducerLostError
from tidemill.runtime.service import OutRecord

_SUSPICIOUS = ("REQTMOUT", "FAIL")
_INFORMATIONAL = 6
"""The syslog level of the least severe of these lines."""
_INIT_WITHIN_S = 60.0
_HUNG_AFTER_S = 1.5 * CALL_TIMEOUT_S
"""A call that was to end by CALL_TIMEOUT_S. By now the coordinator is about to abort its transaction anyway."""
_FENCED_CODES = frozenset({KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH})
_log = get_logger("producer")


class LogTap:
    """librdkafka's log lines. A request that timed out or a connection that failed may have left a late EndTxn behind,
    which transactions v1 could apply to the *next* transaction: `suspicious` then asks for a new epoch first."""

    def __init__(self) -> None:
        self.suspicious = False

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Called like logging.Logger.log, on a thread that polls the producer."""
        line = message % arguments if arguments else message
        if any(word in line for word in _SUSPICIOUS):
            self.suspicious = True
        _log.debug("librdkafka", level=level, line=line)


class TransactionalProducer:
    """Owns the librdkafka handle and replaces it when its epoch must be bumped. Owner thread only."""

    def __init__(
        self, settings: Settings, transactional_id: str, transaction_timeout_s: float = TRANSACTION_TIMEOUT_S
    ) -> None:
        self._settings = {
            **settings,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(transaction_timeout_s * 1000),
            "message.timeout.ms": int(transaction_timeout_s * 1000) - 1_000,
            "delivery.report.only.error": True,
            # A connection that closes with requests under way must show in the log, or it raises no suspicion: neither
            # line may be switched off from outside.
            "log.connection.close": True,
            "log_level": _INFORMATIONAL,
            # When every broker is away at once, be it for one reset connection to the only one, librdkafka by default
            # drops all it knows of them, and send_offsets_to_transaction waits for ever for the coordinator that was
            # dropped (its issue 5511). A producer that is of no use for long is replaced, and so asks anew.
            "metadata.recovery.strategy": "none",
        }
        self._id = transactional_id
        self._tap = LogTap()
        self._watchdog = Watchdog(_HUNG_AFTER_S)
        self._producer: Producer | None = None
        self._in_transaction = False
        self.starts = 0
        """How often a producer of this id was started here: between two of them others may have used the id."""

    def start(self) -> None:
        """Fence earlier producers of this id; their open transaction is aborted. Raises TidemillError."""
        self.starts += 1
        self._tap = LogTap()
        self._in_transaction = False
        self._producer = Producer(self._settings, logger=self._tap)
        deadline = Deadline(_INIT_WITHIN_S)
        while True:
            try:
                self._handle.init_transactions(deadline.at_most(CALL_TIMEOUT_S))
                break
            except KafkaException as exception:
                error = error_of(exception)
                if not error.retriable() or deadline.passed:
                    raise self._start_refused(error) from None
        self._handle.poll(0)

    def begin(self) -> None:
        """Step 3. Takes a new epoch first when the last transaction left doubts."""
        if self._producer is None or self._tap.suspicious:
            _log.info("producer recycled", transactional_id=self._id)
            self.recycle()
        try:
            self._handle.begin_transaction()
        except KafkaException as exception:
            self._fail(exception, "begin")
        self._in_transaction = True

    def produce(self, records: Iterable[OutRecord]) -> None:
        """Step 4. Blocks while the local queue is full."""
        produce = self._handle.produce
        try:
            for topic, key, value, timestamp, partition, headers in records:
                while True:
                    try:
                        if headers:
                            produce(topic, value, key, partition, timestamp=timestamp, headers=list(headers))
                        else:
                            produce(topic, value, key, partition, timestamp=timestamp)
                        break
                    except BufferError:
                        self._handle.poll(0.01)
                    except KafkaException as exception:
                        if error_of(exception).code() == KafkaError.MSG_SIZE_TOO_LARGE:
                            size = f"{len(value or b'')} bytes"
                            raise refused(f"producing {size} to {topic}", error_of(exception)) from None
                        self._fail(exception, f"produce to {topic}")
        finally:
            del produce  # else the traceback of what is raised would keep the handle, and let it go on this thread

    def send_offsets(
        self,
        offsets: Mapping[Partition, int],
        group_metadata: Any,
        deadline: Deadline,
        notes: Mapping[Partition, str] | None = None,
    ) -> None:
        """Step 5."""
        positions = [TopicPartition(*at, offset, metadata=(notes or {}).get(at, "")) for at, offset in offsets.items()]
        while True:
            try:
                timeout = deadline.at_most(CALL_TIMEOUT_S)
                with self._watchdog.guard("send_offsets_to_transaction"):
                    self._handle.send_offsets_to_transaction(positions, group_metadata, timeout)
                return
            except KafkaException as exception:
                self._retry_or_fail(exception, "send offsets", deadline)

    def commit(self, deadline: Deadline) -> None:
        """Step 6. A time-out says nothing about the outcome: the same call is made again until it answers."""
        while True:
            try:
                self._handle.commit_transaction(deadline.at_most(CALL_TIMEOUT_S))
                break
            except KafkaException as exception:
                self._retry_or_fail(exception, "commit", deadline)
        self._in_transaction = False
        self._handle.poll(0)

    def abort(self) -> None:
        """Step 7, by a new epoch. Does nothing outside a transaction.

        The client's own abort would keep the epoch, and travels on another connection than the records: one that is
        still under way would arrive behind the abort's marker, and belong to the next transaction of this producer. A
        new epoch's marker makes every partition of the transaction refuse it.
        """
        if self._in_transaction:
            self.recycle()

    def recycle(self) -> None:
        """A new producer with the same id: the epoch bump aborts what is open and fences whatever the old one still had
        under way. Raises TidemillError."""
        old = self._let_go()
        try:
            self.start()
        finally:
            _drop(old)

    def close(self) -> None:
        """Drop the handle without waiting for unsent records: they belong to no committed transaction. What is open
        is aborted by the next start of this id, or when the transaction has timed out."""
        _drop(self._let_go())

    def _let_go(self) -> list[Producer]:
        """The handle, to which the list is the only reference from now on."""
        held = [] if self._producer is None else [self._producer]
        self._producer = None
        return held

    @property
    def _handle(self) -> Producer:
        if self._producer is None:
            raise ProducerLostError("the producer was closed")
        return self._producer

    def _retry_or_fail(self, exception: KafkaException, doing: str, deadline: Deadline) -> None:
        error = error_of(exception)
        if error.retriable() and not error.txn_requires_abort() and not error.fatal() and not deadline.passed:
            _log.warning("transaction call repeated", doing=doing, error=error.name())
            return
        self._fail(exception, doing)

    def _fail(self, exception: KafkaException, doing: str) -> None:
        """Abortable → AbortedError, and a new epoch before the next transaction; everything else, also what has no
        flag, costs the producer at once. So does being fenced, which some requests report as abortable."""
        error = error_of(exception)
        text = f"{doing}: {error.name()}: {error.str()}"
        if error.txn_requires_abort() and error.code() not in _FENCED_CODES:
            self._tap.suspicious = True
            raise AbortedError(text) from None
        raise ProducerLostError(text) from None

    def _start_refused(self, error: KafkaError) -> TidemillError:
        if error.code() in _FENCED_CODES:
            return Fenced(
                f"another process uses the transactional id {self._id}",
                hint="give each process of a service its own TIDEMILL_INSTANCE",
            )
        return refused(f"starting transactions as {self._id}", error)


def _drop(held: list[Producer]) -> None:
    """Let the handle go on a thread of its own, because librdkafka may wait for a broker that is gone. Not by its
    `close()`: that would abort what is open."""

    def drop() -> None:
        held[0].purge()
        held.clear()

    if held:
        threading.Thread(target=drop, name="producer-drop", daemon=True).start()
