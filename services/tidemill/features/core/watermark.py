"""How far a partition of a stage has come in event time, and what tells it: events, and watermark records in the log.

A watermark w says: no event older than w is waited for. In the first stage it is the newest event time accepted less
the allowed lateness; in a later one the smallest of the watermarks that its sources, the partitions of the stage
before, have written into its input. It never falls. Nothing but records moves it, at their place in the partition, so
a replay moves it at the same places.

A partition in which nothing happens moves nothing. So when none has come for `idle_timeout` of processing time the
first stage writes a record into its own input: its watermark, and as much more as time has passed. Once every window
behind has closed it writes a null, `idle`: nothing is to be waited for here, until the next event.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec
import orjson

from tidemill.features.core.codec import EventTime

NOTHING = -(1 << 62)
"""The watermark before anything was seen."""


class Watermark(msgspec.Struct, tag_field="kind", tag="watermark", frozen=True):
    """A record without a key. `stage` and `partition` are those it speaks for; `watermark` None says idle."""

    v: int
    stage: str
    partition: int
    watermark: EventTime | None

    def encode(self) -> bytes:
        return _encode(self)


_Number = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
_Sources = dict[str, _Number | None]
_Packed = tuple[_Number, _Number, _Number, _Number, bool, _Sources, _Number, _Number | None, bool]
_decode_packed: Callable[[bytes], tuple[Any, ...]] = msgspec.json.Decoder(_Packed).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Watermark).decode


def read_watermark(value: bytes | None) -> Watermark | None:
    """The watermark record that `value` is, if it is one."""
    try:
        return _decode(value or b"")
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


class Policy(NamedTuple):
    """`lateness` counts in the first stage only, where `sources` is 0; in later ones it is how many are waited for.
    `grid` is how often, in ms of event time, the watermark is handed on, and `span` how far behind an event the last
    window that holds it closes; both are 0 where no later stage has summaries. `idle_timeout` 0 means never."""

    lateness: int
    sources: int
    grid: int
    span: int
    idle_timeout: int


@dataclass(slots=True)
class PartitionWatermark:
    """The watermark of one partition; pure but for what is passed in as `now`, monotonic seconds."""

    policy: Policy
    value: int = NOTHING
    newest: int = NOTHING
    """Largest event time accepted."""
    idle: bool = False
    sources: dict[int, int | None] = field(default_factory=dict)
    handed_on: int | None = None
    """The grid cell told last; None if nothing was, or that it is idle."""
    told_idle: bool = False
    changed: bool = False
    quiet_since: float | None = None
    """When the last record came; None until the first look at the clock. Not part of the state."""

    def event(self, time: int) -> None:
        """An event was accepted."""
        self.newest = max(self.newest, time)
        self.changed = True
        if self.policy.sources == 0:
            self.value = max(self.value, time - self.policy.lateness)
            self.idle = False

    def heard(self, source: int, watermark: int | None) -> None:
        """A watermark record was read: of this partition itself in the first stage, of a source in a later one."""
        self.changed = True
        if self.policy.sources == 0:
            # Said before what lies between was written, it is no news: windows that are open since would wait for ever.
            self.idle = watermark is None and not self._waited_for
            self.value = max(self.value, NOTHING if watermark is None else watermark)
            return
        self.sources[source] = watermark
        if len(self.sources) < self.policy.sources:
            return
        busy = [one for one in self.sources.values() if one is not None]
        self.idle = not busy
        self.value = max(self.value, min(busy, default=NOTHING))

    def to_hand_on(self) -> tuple[int | None, ...]:
        """What to tell the next stage now, in this order."""
        grid = self.policy.grid
        if not grid:
            return ()
        if self.idle:
            if self.told_idle:
                return ()
            self.told_idle, self.handed_on, self.changed = True, None, True
            # Between two steps of the grid it may have passed the end of a window there, and it will not come again.
            return (None,) if self.value == NOTHING else (self.value, None)
        if self.value == NOTHING or (self.handed_on is not None and self.value // grid <= self.handed_on):
            return ()
        self.told_idle, self.handed_on, self.changed = False, self.value // grid, True
        return (self.value,)

    def idle_at(self, next_closing: int | None) -> float | None:
        """When `speak` may have something to say: monotonic seconds, or None. `next_closing` is the earliest watermark
        that closes a window."""
        if not self.policy.idle_timeout or self.policy.sources:
            return None
        wait = self.policy.idle_timeout
        if not self.policy.grid or self.idle:
            if next_closing is None:
                return None
            wait = max(wait, next_closing - self.value + 1)
        return 0.0 if self.quiet_since is None else self.quiet_since + wait / 1000

    def speak(self, now: float, next_closing: int | None) -> tuple[int | None] | None:
        """What to write into this partition because nothing came, in a tuple of one; None if it is not time."""
        if self.quiet_since is None:
            self.quiet_since = now
        due = self.idle_at(next_closing)
        if due is None or now < due:
            return None
        reached = self.value + int((now - self.quiet_since) * 1000) if self.value != NOTHING else NOTHING
        closes = next_closing is not None and reached >= next_closing
        self.quiet_since = now
        if closes or (self.policy.grid and self._waited_for):
            return (max(0, reached),)
        return (None,) if self.policy.grid else None

    @property
    def _waited_for(self) -> bool:
        """Whether a window of a later stage may be open that holds an event of this partition."""
        return self.newest != NOTHING and self.value <= self.newest + self.policy.span

    def pack(self) -> bytes:
        """The state as bytes."""
        sources = {str(source): watermark for source, watermark in sorted(self.sources.items())}
        return orjson.dumps(
            [
                *self._meaning(),
                self.value,
                self.newest,
                self.idle,
                sources,
                self.policy.grid,
                self.handed_on,
                self.told_idle,
            ]
        )

    def restore(self, packed: bytes) -> None:
        """Raises ValueError if it was packed with another policy, or is not packed at all."""
        try:
            lateness, waited_for, *state = _decode_packed(packed)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ValueError(f"is no watermark: {error}") from None
        if [lateness, waited_for] != self._meaning():
            raise ValueError("was written with another lateness or number of partitions")
        self.value, self.newest, self.idle, sources, grid, handed_on, told_idle = state
        self.sources = {int(source): watermark for source, watermark in sources.items()}
        if grid == self.policy.grid:  # else what waits behind is another: tell it anew
            self.handed_on, self.told_idle = handed_on, told_idle

    def _meaning(self) -> list[int]:
        return [self.policy.lateness, self.policy.sources]
