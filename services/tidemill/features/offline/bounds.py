"""Where a backfill begins and ends: an event time, or an offset of every partition of the topics."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from tidemill.errors import ConfigurationError

_HINT = (
    "Write an event time as 2018-07-25, 2018-07-25T12:00:00Z or milliseconds of 10 digits or more; offsets as "
    "events/0=120,labels/0=33 with every partition of all topics that are read, as a backfill prints its position."
)


class Bound(NamedTuple):
    """One of the two: event time in ms, or `role/partition` → offset."""

    time: int | None
    offsets: Mapping[str, int]


def parse_bound(text: str, option: str) -> Bound:
    """Raises ConfigurationError, naming `option`, for anything else than its hint says."""
    text = text.strip()
    # Shorter numbers are dates without hyphens far more often than moments of 1970.
    if re.fullmatch(r"\d{10,16}", text):
        return Bound(int(text), {})
    if "=" in text:
        offsets: dict[str, int] = {}
        for part in text.split(","):
            match = re.fullmatch(r"\s*((?:events|labels|stream-[a-z0-9_-]+)/\d+)=(\d+)\s*", part)
            if match is None or match[1] in offsets:
                raise ConfigurationError(f"{option}: {part.strip()!r} is not a new offset", hint=_HINT)
            offsets[match[1]] = int(match[2])
        return Bound(None, offsets)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(f"{option}: {text!r} is neither a time nor offsets", hint=_HINT) from None
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return Bound(round(moment.timestamp() * 1000), {})


def shown(positions: Mapping[str, int]) -> str:
    """`events/0=120,events/1=98`, as `parse_bound` reads it."""
    return ",".join(f"{name}={offset}" for name, offset in sorted(positions.items(), key=_natural))


def _natural(item: tuple[str, int]) -> tuple[str, int]:
    place, _, number = item[0].rpartition("/")
    return (place, int(number)) if number.isdigit() else (item[0], 0)


def refuse_backwards(start: Bound | None, end: Bound | None) -> None:
    """Raises ConfigurationError where the end comes before the start, as far as the two can be compared."""
    if start is None or end is None:
        return
    if start.time is not None and end.time is not None and start.time >= end.time:
        raise ConfigurationError(f"--from ({start.time} ms) is not before --to ({end.time} ms)", hint=_HINT)
    behind = [name for name, offset in start.offsets.items() if offset > end.offsets.get(name, offset)]
    if behind:
        raise ConfigurationError(f"--from is behind --to in {', '.join(sorted(behind))}", hint=_HINT)
