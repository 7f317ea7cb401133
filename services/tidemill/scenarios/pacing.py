"""When each record of a stream is due on the wall clock. Pure: times in, seconds after the start out."""

import numpy as np
from numpy.typing import NDArray

_DAY_MS = 86_400_000
_MINUTE_S = 60.0


def due_by_stream_time(times_ms: NDArray[np.int64], origin_ms: int, days_per_minute: float) -> NDArray[np.float64]:
    """Seconds after the start at which each record is due when `days_per_minute` of stream time pass in a minute."""
    return (times_ms - origin_ms) / (_DAY_MS * days_per_minute) * _MINUTE_S


def due_by_rate(events_before: NDArray[np.int64], events_per_second: float) -> NDArray[np.float64]:
    """Seconds after the start when events come evenly, `events_per_second`; records between two events come with them.

    `events_before` is the number of events that precede each record.
    """
    return events_before / events_per_second
