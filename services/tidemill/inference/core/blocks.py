"""What the batcher works on: blocks of rows that callers want scored, and the batches made of them."""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from tidemill.inference.core.model import Matrix, Route, Scores


class Lane(StrEnum):
    """Where a block came from. Only HTTP is bounded: the stream is bounded by what the owner thread polls."""

    KAFKA = "kafka"
    HTTP = "http"


class CloseReason(StrEnum):
    """Why a batch was closed: it holds all that fits; waiting would not help; the longest wait is over; a deadline is
    near; nothing more is expected."""

    FULL = "full"
    IDLE_SLOT = "idle_slot"
    MAX_WAIT = "max_wait"
    DEADLINE = "deadline"
    DRAIN = "drain"


class Fate(StrEnum):
    """What became of a block."""

    WAITING = "waiting"
    SCORED = "scored"
    EXPIRED = "deadline_exceeded"
    CANCELLED = "cancelled"
    FAILED = "failed"


class QueueFullError(Exception):
    """The HTTP lane holds as many rows as it may; nothing was enqueued."""


class Piece(NamedTuple):
    """Rows [low, high) of a block were scored in one batch padded to `bucket`."""

    low: int
    high: int
    bucket: int


class Block:
    """Rows that one caller wants scored, and, once `fate` is SCORED, the results.

    `scores[i]` is meaningless where `poison` names row i. `shadow` is None without a challenger, and NaN where the
    challenger gave no valid score. `done` is called once, by the thread that settles the block. `priority` 0 is the
    highest; each step below counts as having come one `Limits.priority_step_s` later.
    """

    __slots__ = ("deadline", "done", "error", "fate", "lane", "pieces", "poison", "priority", "rank", "route", "rows",
                 "scores", "shadow", "submitted_at", "taken")  # fmt: skip

    def __init__(
        self,
        rows: Matrix,
        route: Route,
        lane: Lane,
        done: Callable[[], object],
        deadline: float | None = None,
        priority: int = 0,
    ) -> None:
        self.rows = rows
        self.route = route
        self.lane = lane
        self.done = done
        self.deadline = deadline
        self.priority = priority
        self.rank = 0.0
        self.submitted_at = 0.0
        self.taken = 0
        self.fate = Fate.WAITING
        self.error = ""
        self.scores: Scores = np.empty(len(rows), np.float32)
        self.shadow: Scores | None = None if route.challenger is None else np.full(len(rows), np.nan, np.float32)
        self.poison: dict[int, str] = {}
        self.pieces: list[Piece] = []


class Segment(NamedTuple):
    """Rows [low, high) of `block`, as one part of a batch."""

    block: Block
    low: int
    high: int


class Batch(NamedTuple):
    """What the model scores next: `size` rows in `segments`, to be padded to `bucket`."""

    segments: tuple[Segment, ...]
    size: int
    bucket: int
    route: Route
    reason: CloseReason


class Limits(NamedTuple):
    """`max_rows` a batch; at most `max_wait_s` to let a batch fill although the slot is free; ascending `buckets`;
    `http_rows` that may wait; how much later a block of the next lower priority counts as having come."""

    max_rows: int
    max_wait_s: float
    buckets: tuple[int, ...]
    http_rows: int
    priority_step_s: float = 0.05


def limits(max_size: int, max_wait_ms: float, buckets: Sequence[int], queue_limit: int) -> Limits:
    """Limits in which a batch always fits a bucket: the largest bucket caps the batch size."""
    ordered = tuple(sorted({size for size in buckets if size > 0}))
    if not ordered:
        raise ValueError("batching needs at least one bucket of one row or more")
    return Limits(min(max_size, ordered[-1]), max_wait_ms / 1_000, ordered, queue_limit)
