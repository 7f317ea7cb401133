"""What librdkafka's errors mean for a transaction, and when a producer is replaced."""

from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from tidemill.errors import Fenced, TidemillError
from tidemill.runtime.deadline import Deadline
from tidemill.runtime.kafka import producer as module
from tidemill.runtime.kafka.producer import LogTap, TransactionalProducer
from tidemill.runtime.ports import AbortedError, ProducerLostError
from tidemill.runtime.service import OutRecord


def failure(code: int, **flags: bool) -> KafkaException:
    return KafkaException(KafkaError(code, "made up", **flags))


ABORTABLE = failure(KafkaError.ILLEGAL_GENERATION, txn_requires_abort=True)
RETRIABLE = failure(KafkaError._TIMED_OUT, retriable=True)
FATAL = failure(KafkaError._FENCED, fatal=True)
UNFLAGGED = failure(KafkaError._STATE)
FENCED_YET_ABORTABLE = failure(KafkaError._FENCED, txn_requires_abort=True)


class Handle:
    """Stands in for librdkafka: each call takes the next of its planned failures, or succeeds."""

    def __init__(self, settings: dict[str, Any], logger: LogTap) -> None:
        self.settings = settings
        self.logger = logger
        self.plans: dict[str, list[BaseException]] = {}
        self.calls: list[str] = []
        HANDLES.append(self)
        self.plans = {name: list(plan) for name, plan in NEXT_PLANS.items()}

    def __getattr__(self, name: str) -> Any:
        def call(*_: Any, **__: Any) -> int:
            self.calls.append(name)
            if self.plans.get(name):
                raise self.plans[name].pop(0)
            return 0

        return call


HANDLES: list[Handle] = []
NEXT_PLANS: dict[str, list[BaseException]] = {}


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> TransactionalProducer:
    HANDLES.clear()
    NEXT_PLANS.clear()
    monkeypatch.setattr(module, "Producer", Handle)
    made = TransactionalProducer({}, "fraud-features-0")
    made.start()
    return made


def soon() -> Deadline:
    return Deadline(60)


def plan(call: str, *failures: BaseException) -> None:
    HANDLES[-1].plans[call] = list(failures)


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (ABORTABLE, AbortedError),
        (FATAL, ProducerLostError),
        (UNFLAGGED, ProducerLostError),
        (FENCED_YET_ABORTABLE, ProducerLostError),
    ],
    ids=["abortable", "fatal", "no flag", "fenced, though abortable"],
)
def test_an_error_either_aborts_or_costs_the_producer(
    producer: TransactionalProducer, call: str, error: KafkaException, meaning: type[Exception]
) -> None:
    producer.begin()
    plan(call, error)
    calls = {
        "commit_transaction": lambda: producer.commit(soon()),
        "send_offsets_to_transaction": lambda: producer.send_offsets({("t", 0): 1}, object(), soon()),
    }
    with pytest.raises(meaning):
        calls[call]()


def test_a_commit_that_timed_out_is_asked_again_until_it_answers(producer: TransactionalProducer) -> None:
    producer.begin()
    plan("commit_transaction", RETRIABLE, RETRIABLE)
    producer.commit(soon())
    assert HANDLES[0].calls.count("commit_transaction") == 3


def test_a_commit_without_an_answer_by_the_deadline_costs_the_producer(producer: TransactionalProducer) -> None:
    producer.begin()
    plan("commit_transaction", RETRIABLE)
    with pytest.raises(ProducerLostError):
        producer.commit(Deadline(0))


def test_logs_are_served_after_each_commit(producer: TransactionalProducer) -> None:
    producer.begin()
    producer.commit(soon())
    assert HANDLES[0].calls[-1] == "poll"


@pytest.mark.parametrize("line", ["REQTMOUT [thrd] timed out", "FAIL [thrd] disconnected"])
def test_a_doubtful_request_replaces_the_producer_under_the_same_id_before_the_next_begin(
    producer: TransactionalProducer, line: str
) -> None:
    producer.begin()
    HANDLES[0].logger.log(40, "%s", line)
    producer.commit(soon())
    assert len(HANDLES) == 1, "the transaction under way is finished first"
    producer.begin()
    assert len(HANDLES) == 2
    assert HANDLES[1].settings["transactional.id"] == HANDLES[0].settings["transactional.id"] == "fraud-features-0"
    assert HANDLES[1].calls[-1] == "begin_transaction"


def test_a_transaction_is_aborted_by_a_new_epoch_and_never_by_the_client(producer: TransactionalProducer) -> None:
    """The old handle has let go of what it held back only once the new epoch stands, and its own abort, which could
    overtake records of its own, is never sent."""
    producer.begin()
    plan("commit_transaction", ABORTABLE)
    with pytest.raises(AbortedError):
        producer.commit(soon())
    producer.abort()
    assert len(HANDLES) == 2
    assert HANDLES[1].calls[0] == "init_transactions"
    assert not {"abort_transaction", "close"} & set(HANDLES[0].calls)
    producer.begin()
    assert len(HANDLES) == 2, "one new epoch is enough"


def test_harmless_log_lines_replace_nothing(producer: TransactionalProducer) -> None:
    HANDLES[0].logger.log(10, "%s", "CONNECTED")
    producer.begin()
    assert len(HANDLES) == 1


def test_an_abort_without_a_transaction_does_nothing(producer: TransactionalProducer) -> None:
    producer.abort()
    assert len(HANDLES) == 1


def test_nor_does_closing_abort_what_is_open(producer: TransactionalProducer) -> None:
    producer.begin()
    producer.close()
    assert not {"abort_transaction", "close"} & set(HANDLES[0].calls)


def test_a_full_queue_is_waited_for(producer: TransactionalProducer) -> None:
    producer.begin()
    plan("produce", BufferError(), BufferError())
    producer.produce([OutRecord("t", b"k", b"v", 1)])
    assert HANDLES[0].calls.count("produce") == 3


def test_a_record_that_is_too_large_is_fatal_and_says_how_large(producer: TransactionalProducer) -> None:
    producer.begin()
    plan("produce", failure(KafkaError.MSG_SIZE_TOO_LARGE))
    with pytest.raises(TidemillError, match="7 bytes to big-topic"):
        producer.produce([OutRecord("big-topic", b"k", b"1234567", 1)])


def test_a_start_that_is_fenced_names_the_shared_instance(producer: TransactionalProducer) -> None:
    NEXT_PLANS["init_transactions"] = [FATAL]
    with pytest.raises(Fenced) as fenced:
        producer.recycle()
    assert "TIDEMILL_INSTANCE" in fenced.value.hint


def test_its_settings_leave_room_for_the_transaction_timeout(producer: TransactionalProducer) -> None:
    settings = HANDLES[0].settings
    assert settings["message.timeout.ms"] < settings["transaction.timeout.ms"]


def test_no_option_silences_the_lines_that_raise_suspicion(monkeypatch: pytest.MonkeyPatch) -> None:
    HANDLES.clear()
    monkeypatch.setattr(module, "Producer", Handle)
    options = {"log_level": "2", "log.connection.close": "false"}
    TransactionalProducer(dict(options), "fraud-features-0").start()
    settings = HANDLES[0].settings
    assert (settings["log_level"], settings["log.connection.close"]) == (6, True)
