"""What bounds the state of a stage, outside the kernels: the table they read, and which keys go when a cap is met."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tidemill.domain.statebounds import Merging
from tidemill.errors import StateFull
from tidemill.features.core import merging, rings
from tidemill.features.core.rings import Int64s

EVICTED_SHARE = 64
"""One key in so many goes at a time, and at least one: looking for the oldest then costs little an eviction."""

_UNBOUNDED = 1 << 62


@dataclass(frozen=True)
class Caps:
    """What a partition may hold. With `evict` old keys make room; else the service stops."""

    keys: int | None
    size: int | None
    """In bytes: rows × row width + keys × line width."""
    evict: bool


def bounds_table(merged: Merging | None, caps: Caps | None, row_bytes: int, line_bytes: int) -> Int64s | None:
    """The `bounds` of `merging`; None for a stage that has neither."""
    if merged is None and caps is None:
        return None
    table = np.zeros(merging.BOUNDS, np.int64)
    if merged is not None:
        table[merging.BUCKET] = merged.bucket
        table[merging.SETTLED_AFTER] = merged.settled_after
        table[merging.MOST_ROWS] = merged.max_rows
    table[merging.CAP_KEYS] = _UNBOUNDED if caps is None or caps.keys is None else caps.keys
    table[merging.CAP_BYTES] = _UNBOUNDED if caps is None or caps.size is None else caps.size
    table[merging.ROW_BYTES] = row_bytes
    table[merging.KEY_BYTES] = line_bytes
    # Which key is newest decides what expires, so the last one is never evicted.
    table[merging.SPARED] = 2 if caps is not None and caps.evict else 0
    return table


def count_held(meta: Int64s, ctl: Int64s) -> None:
    """Set the counts that the caps are held against, after keys came or went beside the kernels."""
    ctl[rings.HELD_ROWS] = int((meta[:, rings.HEAD] - meta[:, rings.TAIL]).sum())
    ctl[rings.HELD_KEYS] = np.count_nonzero(meta[:, rings.CAP])


def oldest_keys(meta: Int64s, names: Sequence[bytes]) -> Int64s:
    """The slots to evict: those of the keys whose newest event is oldest, equal ones in the order of their bytes.
    At least two keys are held."""
    held = np.flatnonzero(meta[: len(names), rings.CAP])
    newest = meta[held, rings.NEWEST]
    count = max(1, len(held) // EVICTED_SHARE)
    bound = np.partition(newest, count - 1)[count - 1]
    older = held[newest < bound]
    equal = sorted(held[newest == bound].tolist(), key=names.__getitem__)
    return np.array([*older.tolist(), *equal[: count - len(older)]], np.int64)


def full(entity: str, caps: Caps | None, ctl: Int64s, bounds: Int64s) -> StateFull:
    """What to raise where a cap is met and nothing may be evicted."""
    keys, rows = int(ctl[rings.HELD_KEYS]), int(ctl[rings.HELD_ROWS])
    size = rows * int(bounds[merging.ROW_BYTES]) + keys * int(bounds[merging.KEY_BYTES])
    met = "max_keys" if caps is not None and caps.keys is not None and keys >= caps.keys else "max_bytes"
    limit = caps and (caps.keys if met == "max_keys" else caps.size)
    return StateFull(
        f"a partition of stage {entity} holds {keys:,} keys and {rows:,} rows, {size:,} bytes, and one more would pass "
        f"features.state_limits.{met} ({limit:,})",
        hint="raise the limit, set when_full: evict, shorten the windows, or spread the keys over more partitions",
    )
