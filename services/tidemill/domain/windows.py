"""The windows of a feature: which events of a key count, seen from one event.

For an event at time t the *reference instant* is u = t − delay. Only events of the same key with time ≤ u that have
arrived count; the event itself is among them where the delay is 0. Times are whole milliseconds since 1970 UTC, so
every edge below is exact. Events of equal time stand in the order of their arrival.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Discriminator, Field, Tag

from tidemill.domain.durations import DurationMs, SpanMs
from tidemill.domain.section import Section

DECAY_HALF_LIVES = 20
"""What a decaying window leaves out by default weighs less than a millionth of a new event."""

MOST_HALF_LIVES = 1_000
"""Further back a weight would leave the normal floats, and a mean over such events only would be of nothing."""


class SlidingWindow(Section):
    """Events in (u − size, u]. A plain duration means the same.

    With a `bucket`, events so old that nothing beside them can change any more are kept as one sum a cell of it
    (multiples of bucket since 1970). A cell counts at the time of its newest event: it counts whole if that lies in
    the window, and not at all if it does not, so each edge is off by less than a bucket.
    """

    type: Literal["sliding"]
    size: SpanMs
    bucket: SpanMs | None = Field(
        None, description="keep old events as sums of cells this wide; of several in a stage the smallest is taken"
    )

    @property
    def reach(self) -> int:
        """How far before u an event may lie and still count, in ms."""
        return self.size


class TumblingWindow(Section):
    """Events in [start, u], where start is the last multiple of size at or before u: the current window, so far."""

    type: Literal["tumbling"]
    size: SpanMs = Field(description="windows begin at multiples of this since 1970-01-01 00:00 UTC")

    @property
    def reach(self) -> int:
        return self.size


class HoppingWindow(Section):
    """Windows of `size` end at every multiple of `hop`; the one that ends first after u is taken, as it is at u: with
    b the last multiple of hop at or before u, events in [b + hop − size, u]. So of all windows that hold u it has
    seen the most. A hop of the whole size is a tumbling window."""

    type: Literal["hopping"]
    size: SpanMs
    hop: SpanMs = Field(description="must divide size; windows end at multiples of it since 1970-01-01 00:00 UTC")

    @property
    def reach(self) -> int:
        return self.size


class SessionWindow(Section):
    """Back from u to the first silence longer than `gap`: an event counts if no two neighbours of those between it
    and u, u itself among them, are more than gap apart. Nothing at or before u − within is looked at."""

    type: Literal["session"]
    gap: SpanMs
    within: SpanMs = Field(description="longest session that is seen, at least gap; decides how long rows are kept")

    @property
    def reach(self) -> int:
        return self.within


class CountWindow(Section):
    """The last `last` events at or before u, and of those the ones in (u − within, u]."""

    type: Literal["count"]
    last: int = Field(ge=1, le=10_000)
    within: SpanMs = Field(description="older events do not count; decides how long rows are kept")

    @property
    def reach(self) -> int:
        return self.within


class DecayWindow(Section):
    """Events in (u − within, u], each weighted by 2^(−age / half_life), where its age is u minus its time."""

    type: Literal["decay"]
    half_life: SpanMs
    within: SpanMs | None = Field(None, description="older events do not count; 20 half-lives if left out")

    @property
    def reach(self) -> int:
        return DECAY_HALF_LIVES * self.half_life if self.within is None else self.within


Window = SlidingWindow | TumblingWindow | HoppingWindow | SessionWindow | CountWindow | DecayWindow

WINDOW_TYPES = ("sliding", "tumbling", "hopping", "session", "count", "decay")
_DURATION = "duration"


def _tag(value: Any) -> str | None:
    """Which member of `WindowSpec` a part of the file is meant to be; None where it says no known type."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", _DURATION)
    return kind if kind in (*WINDOW_TYPES, _DURATION) and (kind != _DURATION) == _is_mapping(value) else None


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict | BaseModel)


WindowSpec = Annotated[
    Annotated[DurationMs, Tag(_DURATION)]
    | Annotated[SlidingWindow, Tag("sliding")]
    | Annotated[TumblingWindow, Tag("tumbling")]
    | Annotated[HoppingWindow, Tag("hopping")]
    | Annotated[SessionWindow, Tag("session")]
    | Annotated[CountWindow, Tag("count")]
    | Annotated[DecayWindow, Tag("decay")],
    Discriminator(
        _tag,
        custom_error_type="window_type",
        custom_error_message="must be a duration, such as 7d, or a mapping whose type is one of "
        + ", ".join(WINDOW_TYPES),
    ),
]
"""A window as it is written in the file."""
