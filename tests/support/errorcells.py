"""Which reaction each answer of a broker must have: the table of tests/integration/runtime/test_broker_errors.py.

Written from the transaction recipe and the protocol, not from what the code does:

- what passes by itself (a coordinator moves or loads, a leader moves, replicas are few, markers are being written) is
  repeated by librdkafka or by the runtime, inside the same transaction and epoch;
- what says that this transaction cannot commit, but nothing against the producer, aborts it: rewind, new epoch, go on;
- what says that the producer is fenced or has lost its place costs the producer: a new one with the same id, once;
- what only a person can mend ends the process with the cause and the next step.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from confluent_kafka import KafkaError

from support.mockcluster import Request


class Reaction(Enum):
    GOES_ON = "goes on"
    IS_DONE = "takes it as done, goes on"
    ABORTS = "aborts, rewinds, goes on"
    LOSES_PRODUCER = "takes a new producer, rewinds, goes on"
    ENDS = "ends with a cause and a next step"
    ENDS_FENCED = "ends: another process is this instance"
    ENDS_CORRUPT = "ends: records were lost before they were read"
    REBALANCES = "commits, gives up its partitions in good order, joins again"
    LOSES_PARTITIONS = "drops its partitions without a commit, joins again"


class Cell(NamedTuple):
    request: Request
    error: str
    reaction: Reaction

    @property
    def code(self) -> int:
        return int(getattr(KafkaError, self.error))

    @property
    def id(self) -> str:
        return f"{self.request.name}-{self.error}"


def _cells(table: Mapping[Request, Mapping[Reaction, str]]) -> list[Cell]:
    return [
        Cell(request, error, reaction)
        for request, reactions in table.items()
        for reaction, errors in reactions.items()
        for error in errors.split()
    ]


_COORDINATOR_PASSES = "COORDINATOR_NOT_AVAILABLE NOT_COORDINATOR COORDINATOR_LOAD_IN_PROGRESS"
_MARKERS_PASS = f"{_COORDINATOR_PASSES} CONCURRENT_TRANSACTIONS"
_LEADER_PASSES = "NOT_LEADER_FOR_PARTITION LEADER_NOT_AVAILABLE UNKNOWN_TOPIC_OR_PART"
_FENCED = "PRODUCER_FENCED INVALID_PRODUCER_EPOCH INVALID_TXN_STATE"
_NOT_ALLOWED_THE_ID = "TRANSACTIONAL_ID_AUTHORIZATION_FAILED"

STARTING = _cells(
    {
        Request.FIND_COORDINATOR: {
            Reaction.GOES_ON: "COORDINATOR_NOT_AVAILABLE COORDINATOR_LOAD_IN_PROGRESS",
            Reaction.ENDS: _NOT_ALLOWED_THE_ID,
        },
        Request.INIT_PRODUCER_ID: {
            Reaction.GOES_ON: _MARKERS_PASS,
            # It asks for a new epoch without naming an old one: that this is refused means that somebody else asks too.
            Reaction.ENDS_FENCED: "PRODUCER_FENCED INVALID_PRODUCER_EPOCH",
            Reaction.ENDS: f"{_NOT_ALLOWED_THE_ID} CLUSTER_AUTHORIZATION_FAILED INVALID_TRANSACTION_TIMEOUT",
        },
    }
)
"""While a producer starts, which is also how a transaction is aborted."""

COMMITTING = _cells(
    {
        Request.ADD_PARTITIONS_TO_TXN: {
            Reaction.GOES_ON: f"{_MARKERS_PASS} UNKNOWN_TOPIC_OR_PART",
            Reaction.ABORTS: "TOPIC_AUTHORIZATION_FAILED OPERATION_NOT_ATTEMPTED INVALID_PRODUCER_ID_MAPPING",
            Reaction.LOSES_PRODUCER: f"{_FENCED} {_NOT_ALLOWED_THE_ID}",
        },
        Request.PRODUCE: {
            Reaction.GOES_ON: f"{_LEADER_PASSES} NOT_ENOUGH_REPLICAS NOT_ENOUGH_REPLICAS_AFTER_APPEND "
            "REQUEST_TIMED_OUT KAFKA_STORAGE_ERROR",
            Reaction.IS_DONE: "DUPLICATE_SEQUENCE_NUMBER",
            Reaction.ABORTS: "MSG_SIZE_TOO_LARGE TOPIC_AUTHORIZATION_FAILED INVALID_RECORD INVALID_TXN_STATE "
            "UNKNOWN_PRODUCER_ID",
            # A gap in its own sequence: what was written before is not known any more.
            Reaction.LOSES_PRODUCER: "INVALID_PRODUCER_EPOCH OUT_OF_ORDER_SEQUENCE_NUMBER",
        },
        Request.ADD_OFFSETS_TO_TXN: {
            Reaction.GOES_ON: _MARKERS_PASS,
            Reaction.ABORTS: "GROUP_AUTHORIZATION_FAILED INVALID_PRODUCER_ID_MAPPING",
            Reaction.LOSES_PRODUCER: f"{_FENCED} {_NOT_ALLOWED_THE_ID}",
        },
        Request.TXN_OFFSET_COMMIT: {
            Reaction.GOES_ON: f"{_COORDINATOR_PASSES} UNKNOWN_TOPIC_OR_PART REQUEST_TIMED_OUT",
            # The member has lost its place in the group; the producer has not.
            Reaction.ABORTS: "ILLEGAL_GENERATION UNKNOWN_MEMBER_ID FENCED_INSTANCE_ID GROUP_AUTHORIZATION_FAILED "
            "TOPIC_AUTHORIZATION_FAILED OFFSET_METADATA_TOO_LARGE",
            Reaction.LOSES_PRODUCER: f"{_FENCED} {_NOT_ALLOWED_THE_ID} INVALID_PRODUCER_ID_MAPPING",
        },
        Request.END_TXN: {
            Reaction.GOES_ON: _MARKERS_PASS,
            Reaction.ABORTS: "INVALID_PRODUCER_ID_MAPPING",
            Reaction.LOSES_PRODUCER: f"{_FENCED} {_NOT_ALLOWED_THE_ID}",
        },
    }
)
"""In a transaction that is to be committed."""

JOINING = _cells(
    {
        Request.FIND_COORDINATOR: {
            Reaction.GOES_ON: "COORDINATOR_NOT_AVAILABLE",
            Reaction.ENDS: "GROUP_AUTHORIZATION_FAILED",
        },
        Request.JOIN_GROUP: {
            Reaction.GOES_ON: "UNKNOWN_MEMBER_ID",
            Reaction.ENDS: "GROUP_AUTHORIZATION_FAILED INCONSISTENT_GROUP_PROTOCOL INVALID_SESSION_TIMEOUT "
            "GROUP_MAX_SIZE_REACHED",
            Reaction.ENDS_FENCED: "FENCED_INSTANCE_ID",
        },
        Request.SYNC_GROUP: {
            Reaction.GOES_ON: "COORDINATOR_LOAD_IN_PROGRESS REBALANCE_IN_PROGRESS ILLEGAL_GENERATION",
            Reaction.ENDS_FENCED: "FENCED_INSTANCE_ID",
        },
        Request.OFFSET_FETCH: {
            Reaction.GOES_ON: f"{_COORDINATOR_PASSES} UNSTABLE_OFFSET_COMMIT",
            Reaction.ENDS: "GROUP_AUTHORIZATION_FAILED TOPIC_AUTHORIZATION_FAILED",
        },
        Request.LIST_OFFSETS: {
            Reaction.GOES_ON: f"{_LEADER_PASSES} OFFSET_NOT_AVAILABLE FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH",
            Reaction.ENDS: "TOPIC_AUTHORIZATION_FAILED",
        },
    }
)
"""While a member joins and takes partitions over."""

READING = _cells(
    {
        Request.HEARTBEAT: {
            Reaction.GOES_ON: _COORDINATOR_PASSES,
            Reaction.REBALANCES: "REBALANCE_IN_PROGRESS",
            Reaction.LOSES_PARTITIONS: "ILLEGAL_GENERATION UNKNOWN_MEMBER_ID",
            Reaction.ENDS_FENCED: "FENCED_INSTANCE_ID",
        },
        Request.FETCH: {
            Reaction.GOES_ON: f"{_LEADER_PASSES} KAFKA_STORAGE_ERROR REPLICA_NOT_AVAILABLE OFFSET_NOT_AVAILABLE "
            "FENCED_LEADER_EPOCH UNKNOWN_LEADER_EPOCH",
            Reaction.ENDS: "TOPIC_AUTHORIZATION_FAILED",
            Reaction.ENDS_CORRUPT: "OFFSET_OUT_OF_RANGE",
        },
    }
)
"""While a member reads its partitions."""
