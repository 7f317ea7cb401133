"""The micro-batcher: decides what the model scores next, for stream and HTTP alike.

Pure: time is an argument, nothing waits. One owner calls it under one lock. Work arrives as blocks of rows, so a
stream row costs nothing by itself. There is one model slot: `next` hands out a batch, `settle` frees the slot.

Guarantees: the rows of a block are scored once each and in order; the stream's blocks in the order in which they came;
a batch never exceeds `max_rows` nor mixes routes; with `max_wait_s` 0 the slot is never idle while a row waits; while
both lanes wait with one route, each gets at least half of every batch, and the lanes take turns to lead; a block of
lower priority waits at most its steps times `priority_step_s` longer than if it had none; a block that cannot be
scored by its deadline any more is answered and its remaining rows not scored.
"""

import heapq
import itertools
from bisect import insort
from collections.abc import Mapping

from tidemill.inference.core.blocks import Batch, Block, CloseReason, Fate, Lane, Limits, Piece, QueueFullError, Segment
from tidemill.inference.core.model import Route, Scores
from tidemill.inference.core.pacing import ArrivalRate, BatchCost

_ROUTES_KEPT = 8


class Batcher:
    """See the module's docstring for the guarantees."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._queues: dict[Lane, list[Block]] = {lane: [] for lane in Lane}
        self._waiting = dict.fromkeys(Lane, 0)
        self._deadlines: list[tuple[float, int, Block]] = []
        self._sequence = itertools.count()
        self._lead = Lane.KAFKA
        self._running: Batch | None = None
        self._draining = False
        self._costs: dict[Route, BatchCost] = {}
        self._rate = ArrivalRate()
        self._look_at = 0.0

    @property
    def slot_free(self) -> bool:
        return self._running is None

    def waiting(self, lane: Lane) -> int:
        """Rows of the lane not yet handed to the model."""
        return self._waiting[lane]

    def cost(self, route: Route) -> BatchCost:
        """What batches of this route have taken so far."""
        cost = self._costs.get(route)
        if cost is None:
            while len(self._costs) >= _ROUTES_KEPT:
                self._costs.pop(next(iter(self._costs)))
            cost = self._costs[route] = BatchCost()
        return cost

    def submit(self, block: Block, now: float) -> None:
        """Enqueue a block of at least one row. Raises QueueFullError where the HTTP lane would outgrow its bound."""
        if block.lane is Lane.HTTP and self._waiting[Lane.HTTP] + len(block.rows) > self._limits.http_rows:
            raise QueueFullError
        block.submitted_at = now
        block.rank = now + block.priority * self._limits.priority_step_s
        queue = self._queues[block.lane]
        if block.lane is Lane.KAFKA or not queue or queue[-1].rank <= block.rank:
            queue.append(block)
        else:
            insort(queue, block, key=_rank)
        self._waiting[block.lane] += len(block.rows)
        self._rate.observe(len(block.rows), now)
        if block.deadline is not None:
            heapq.heappush(self._deadlines, (block.deadline, next(self._sequence), block))

    def drain(self, on: bool) -> None:
        """While on, nothing more is expected: close batches at once, whatever `max_wait_s` says."""
        self._draining = on

    def cancel(self, block: Block) -> None:
        """The caller no longer wants the block. Rows already with the model are scored and ignored."""
        self._retire(block, Fate.CANCELLED)

    def expire(self, now: float) -> list[Block]:
        """Retire and return the blocks that even the smallest batch, begun now, would score after their deadline: to
        score them would cost others theirs."""
        expired, possible = [], []
        smallest = self._limits.buckets[0]
        while self._deadlines:
            deadline, _, block = self._deadlines[0]
            taken = block.fate is not Fate.WAITING or block.taken == len(block.rows)
            hopeless = deadline <= now or deadline < now + self.cost(block.route).seconds(smallest)
            if not (taken or hopeless):
                if deadline > now + self._longest_of_smallest():
                    break
                possible.append(self._deadlines[0])  # of a quicker model than the slowest
            heapq.heappop(self._deadlines)
            if hopeless and not taken:
                self._retire(block, Fate.EXPIRED)
                expired.append(block)
        for entry in possible:
            heapq.heappush(self._deadlines, entry)
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
        """The batch to score now, or None: the slot is taken, nothing waits, or a fuller batch is worth waiting for.

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
        rows = min(limit, lead_rows + other_rows)
        reason = self._close_reason(rows, route, now)
        if reason is None:
            return None
        size = self._preferred(rows, route)
        lead_share = min(lead_rows, size - min(other_rows, size // 2))
        segments = self._take(lead, lead_share)
        segments += self._take(other, min(other_rows, size - lead_share))
        size = sum(segment.high - segment.low for segment in segments)
        self._lead = other
        self._running = Batch(tuple(segments), size, self._bucket(size), route, reason)
        return self._running

    def settle(
        self, scores: Scores, shadow: Scores | None, poison: Mapping[int, str], seconds: float | None = None
    ) -> list[Block]:
        """Take the results of the running batch, row for row, and free the slot. Returns the blocks now complete.
        `seconds` is what a batch that went through in one piece has taken."""
        if self._running is None:
            raise RuntimeError("no batch is running")
        batch, self._running = self._running, None
        if seconds is not None:
            self.cost(batch.route).observe(batch.bucket, seconds)
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
        """When `expire` or `next` has something to do: None while nothing waits, the past when it is due already. Ask
        after `next`, which decides how long to wait."""
        if self._running is not None or self._leader() is None:
            return None
        while self._deadlines and self._deadlines[0][2].fate is not Fate.WAITING:
            heapq.heappop(self._deadlines)
        return min(self._look_at, self._deadlines[0][0]) if self._deadlines else self._look_at

    def _leader(self) -> Lane | None:
        for queue in self._queues.values():
            while queue and queue[0].fate is not Fate.WAITING:
                queue.pop(0)
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

    def _close_reason(self, rows: int, route: Route, now: float) -> CloseReason | None:
        """Why a batch of so many rows should go now; None sets `_look_at`, when to ask again at the latest."""
        if rows >= self._limits.max_rows:
            return CloseReason.FULL
        if self._draining:
            return CloseReason.DRAIN
        rate, bucket = self._rate.per_second(now), self._bucket(rows)
        seconds = self.cost(route).seconds(bucket)
        if self._limits.max_wait_s == 0 or rows >= rate * seconds:
            return CloseReason.IDLE_SLOT
        oldest = min(queue[0].submitted_at for queue in self._queues.values() if queue)
        longest = oldest + self._limits.max_wait_s
        if longest <= now:
            return CloseReason.MAX_WAIT
        # by when a full batch must begin, if whoever is most in a hurry is to have it in time
        full = self.cost(route).seconds(self._limits.buckets[-1])
        latest = self._deadlines[0][0] - full if self._deadlines else longest
        if latest <= now:
            return CloseReason.DEADLINE
        self._look_at = min(longest, latest, now + max(1, bucket - rows) / rate)
        return None

    def _preferred(self, rows: int, route: Route) -> int:
        """All of them padded, or first as many as fill a bucket: what takes less time in all."""
        above = self._bucket(rows)
        below = max((bucket for bucket in self._limits.buckets if bucket <= rows), default=0)
        if below in (0, rows):
            return rows
        seconds = self.cost(route).seconds
        return below if seconds(below) + seconds(self._bucket(rows - below)) < seconds(above) else rows

    def _longest_of_smallest(self) -> float:
        smallest = self._limits.buckets[0]
        return max((cost.seconds(smallest) for cost in self._costs.values()), default=0.0)

    def _take(self, lane: Lane, rows: int) -> list[Segment]:
        segments = []
        queue = self._queues[lane]
        self._waiting[lane] -= rows
        done = 0
        while rows:
            block = queue[done]
            if block.fate is Fate.WAITING:
                high = min(len(block.rows), block.taken + rows)
                segments.append(Segment(block, block.taken, high))
                rows -= high - block.taken
                block.taken = high
                if high < len(block.rows):
                    break
            done += 1
        del queue[:done]
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


def _rank(block: Block) -> float:
    return block.rank


_OTHER = {Lane.KAFKA: Lane.HTTP, Lane.HTTP: Lane.KAFKA}
