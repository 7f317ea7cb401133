"""The micro-batcher: decides what the model scores next, for stream and HTTP alike.

Pure: time is an argument, nothing waits. One owner calls it under one lock. Work arrives as blocks of rows, so a
stream row costs nothing by itself. There is one model slot: `next` hands out a batch, `settle` frees the slot.

Guarantees: the rows of a block are scored once each and in order; a batch never exceeds `max_rows` nor mixes routes;
with `max_wait_s` 0 the slot is never idle while a row waits; while both lanes wait with one route, each gets at least
half of every batch, and the lanes take turns to lead; an expired block is answered and its remaining rows not scored.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Mapping

from tidemill.inference.core.blocks import Batch, Block, CloseReason, Fate, Lane, Limits, Piece, QueueFullError, Segment
from tidemill.inference.core.model import Route, Scores


class Batcher:
    """See the module's docstring for the guarantees."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[Lane, deque[Block]] = {lane: deque() for lane in Lane}
        self._waiting = dict.fromkeys(Lane, 0)
        self._deadlines: list[tuple[float, int, Block]] = []
        self._sequence = itertools.count()
        self._lead = Lane.KAFKA
        self._running: Batch | None = None
        self._draining = False

    @property
    def slot_free(self) -> bool:
        return self._running is None

    def waiting(self, lane: Lane) -> int:
        """Rows of the lane not yet handed to the model."""
        return self._waiting[lane]

    def submit(self, block: Block, now: float) -> None:
        """Enqueue a block of at least one row. Raises QueueFullError where the HTTP lane would outgrow its bound."""
        if block.lane is Lane.HTTP and self._waiting[Lane.HTTP] + len(block.rows) > self._limits.http_rows:
            raise QueueFullError
        block.submitted_at = now
        self._queues[block.lane].append(block)
        self._waiting[block.lane] += len(block.rows)
        if block.deadline is not None:
            heapq.heappush(self._deadlines, (block.deadline, next(self._sequence), block))

    def drain(self, on: bool) -> None:
        """While on, nothing more is expected: close batches at once, whatever `max_wait_s` says."""
        self._draining = on

    def cancel(self, block: Block) -> None:
        """The caller no longer wants the block. Rows already with the model are scored and ignored."""
        self._retire(block, Fate.CANCELLED)

    def expire(self, now: float) -> list[Block]:
        """Retire and return the blocks whose deadline has passed and that the model has not finished."""
        expired = []
        while self._deadlines and self._deadlines[0][0] <= now:
            block = heapq.heappop(self._deadlines)[2]
            if block.fate is Fate.WAITING and block.taken < len(block.rows):
                self._retire(block, Fate.EXPIRED)
                expired.append(block)
        return expired

    def fail_running(self, error: str) -> list[Block]:
        """Retire the blocks of the running batch, whole, as FAILED, and free the slot."""
        if self._running is None:
            raise RuntimeError("no batch is running")
        batch, self._running = self._running, None
        return self._fail([segment.block for segment in batch.segments], error)

    def fail_waiting(self, error: str) -> list[Block]:
        """Retire everything that waits or runs, as FAILED, and free the slot: the model thread is going away."""
        running = self.fail_running(error) if self._running is not None else []
        return running + self._fail([block for queue in self._queues.values() for block in queue], error)

    def next(self, now: float) -> Batch | None:
        """The batch to score now, or None: the slot is taken, nothing waits, or waiting longer may fill the batch.

        Call `expire` first: a block whose deadline has passed is not looked for here.
        """
        if self._running is not None:
            return None
        lead = self._leader()
        if lead is None:
            return None
        route = self._queues[lead][0].route
        other = _OTHER[lead]
        limit = self._limits.max_rows
        other_rows = self._compatible_rows(other, route, limit)
        lead_rows = self._compatible_rows(lead, route, limit)
        reason = self._close_reason(lead_rows + other_rows, now)
        if reason is None:
            return None
        lead_share = min(lead_rows, limit - min(other_rows, limit // 2))
        segments = self._take(lead, lead_share)
        segments += self._take(other, min(other_rows, limit - lead_share))
        size = sum(segment.high - segment.low for segment in segments)
        self._lead = other
        self._running = Batch(tuple(segments), size, self._bucket(size), route, reason)
        return self._running

    def settle(self, scores: Scores, shadow: Scores | None, poison: Mapping[int, str]) -> list[Block]:
        """Take the results of the running batch, row for row, and free the slot. Returns the blocks now complete."""
        if self._running is None:
            raise RuntimeError("no batch is running")
        batch, self._running = self._running, None
        complete = []
        start = 0
        for block, low, high in batch.segments:
            stop = start + high - low
            block.scores[low:high] = scores[start:stop]
            if shadow is not None and block.shadow is not None:
                block.shadow[low:high] = shadow[start:stop]
            for row in poison.keys() & range(start, stop) if poison else ():
                block.poison[row - start + low] = poison[row]
            block.pieces.append(Piece(low, high, batch.bucket))
            if high == len(block.rows) and block.fate is Fate.WAITING:
                block.fate = Fate.SCORED
                complete.append(block)
            start = stop
        return complete

    def wake_at(self) -> float | None:
        """When `expire` or `next` has something to do: None while nothing waits, the past when it is due already."""
        if self._running is not None or self._leader() is None:
            return None
        oldest = min(queue[0].submitted_at for queue in self._queues.values() if queue)
        due = oldest if self._draining else oldest + self._limits.max_wait_s
        while self._deadlines and self._deadlines[0][2].fate is not Fate.WAITING:
            heapq.heappop(self._deadlines)
        return min(due, self._deadlines[0][0]) if self._deadlines else due

    def _leader(self) -> Lane | None:
        for queue in self._queues.values():
            while queue and queue[0].fate is not Fate.WAITING:
                queue.popleft()
        for lane in (self._lead, _OTHER[self._lead]):
            if self._queues[lane]:
                return lane
        return None

    def _compatible_rows(self, lane: Lane, route: Route, limit: int) -> int:
        """Rows at the head of the lane that may join a batch of this route, counted up to `limit`."""
        rows = 0
        for block in self._queues[lane]:
            if block.fate is not Fate.WAITING:
                continue
            if block.route != route or rows >= limit:
                break
            rows += len(block.rows) - block.taken
        return min(rows, limit)

    def _close_reason(self, rows: int, now: float) -> CloseReason | None:
        if rows >= self._limits.max_rows:
            return CloseReason.FULL
        if self._draining:
            return CloseReason.DRAIN
        if self._limits.max_wait_s == 0:
            return CloseReason.IDLE_SLOT
        oldest = min(queue[0].submitted_at for queue in self._queues.values() if queue)
        return CloseReason.MAX_WAIT if oldest + self._limits.max_wait_s <= now else None

    def _take(self, lane: Lane, rows: int) -> list[Segment]:
        segments = []
        queue = self._queues[lane]
        self._waiting[lane] -= rows
        while rows:
            block = queue[0]
            if block.fate is Fate.WAITING:
                high = min(len(block.rows), block.taken + rows)
                segments.append(Segment(block, block.taken, high))
                rows -= high - block.taken
                block.taken = high
                if high < len(block.rows):
                    break
            queue.popleft()
        return segments

    def _retire(self, block: Block, fate: Fate) -> None:
        if block.fate is Fate.WAITING:
            block.fate = fate
            self._waiting[block.lane] -= len(block.rows) - block.taken

    def _fail(self, blocks: list[Block], error: str) -> list[Block]:
        failed = [block for block in blocks if block.fate is Fate.WAITING]
        for block in failed:
            self._retire(block, Fate.FAILED)
            block.error = error
        return failed

    def _bucket(self, size: int) -> int:
        return next(bucket for bucket in self._limits.buckets if bucket >= size)


_OTHER = {Lane.KAFKA: Lane.HTTP, Lane.HTTP: Lane.KAFKA}
