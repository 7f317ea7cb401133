"""Summaries in the pipeline file: aggregates over whole windows, written once when the window has closed.

A feature answers as of an event; a summary answers for a window [window_start, window_end], when its stage's watermark
says that nothing more is expected in it.
"""

from typing import Annotated, Literal

from pydantic import Field

from tidemill.domain.durations import DurationMs
from tidemill.domain.section import FieldName, Name, Section
from tidemill.domain.windows import HoppingWindow, SessionWindow, TumblingWindow

SummaryWindow = TumblingWindow | HoppingWindow | SessionWindow

SummaryAggregate = Literal["count", "sum", "mean", "min", "max", "std", "first", "last", "share"]


class SummaryField(Section):
    """One value of a summary: an aggregate over the window's events that `where` takes, defined as for a feature.

    Over nothing count and sum are 0, and everything else is null.
    """

    name: FieldName
    aggregate: SummaryAggregate
    field: FieldName | None = Field(None, description="the event field that is aggregated")
    where: str | None = Field(None, description='which events count, such as `channel == "web" and amount > 10`')
    equals: str | None = Field(None, description="the value of `field` whose share is taken")


class SummarySpec(Section):
    """One record a key and window, when the window closes: at the watermark reaching the end of a tumbling or hopping
    window, [start, end), or passing that of a session, whose end is its last event + gap.

    tumbling: [n·size, (n + 1)·size). hopping: [n·hop, n·hop + size). session: events with no silence longer than gap
    between them; one that would make it longer than `within` begins another.
    """

    name: Name
    window: Annotated[SummaryWindow, Field(discriminator="type")]
    fields: tuple[SummaryField, ...] = Field(min_length=1)
    on_late: Literal["drop", "correct"] = Field(
        "drop", description="an event behind the window's closing is counted only, or the summary is written once more"
    )
    corrections_for: DurationMs = Field(
        0, description="for on_late: correct, how long a closed window is kept, by the watermark"
    )

    @property
    def span(self) -> int:
        """How far the watermark may be behind an event's time plus this, until nothing that holds it is open."""
        return self.window.gap if isinstance(self.window, SessionWindow) else self.window.size

    @property
    def told_apart_for(self) -> int:
        """How far behind the watermark an event may be and still count: so long its duplicates must be known."""
        if self.on_late == "correct":
            return self.window.reach + self.span + self.corrections_for
        return self.window.reach + (self.window.gap if isinstance(self.window, SessionWindow) else 0)
