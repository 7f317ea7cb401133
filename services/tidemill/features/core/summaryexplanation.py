"""What each summary of a stage means, in words."""

from dataclasses import dataclass

from tidemill.domain.durations import format_duration_ms
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.summaryspec import SummaryField, SummarySpec
from tidemill.domain.windows import HoppingWindow, SessionWindow


@dataclass(frozen=True, slots=True)
class SummaryExplanation:
    """One summary. `closes` says when it is written, `late` what becomes of an event behind that."""

    name: str
    topic: str
    window: str
    closes: str
    late: str
    values: dict[str, str]


def explain_summaries(pipeline: Pipeline, index: int) -> tuple[SummaryExplanation, ...]:
    """Those of stage `index`, in the order of the file; assumes a validated pipeline."""
    stage = pipeline.features.stages[index]
    topic = pipeline.topic(f"{stage.entity}-summaries")
    return tuple(_explained(pipeline, summary, index, topic) for summary in stage.summaries)


def _explained(pipeline: Pipeline, summary: SummarySpec, index: int, topic: str) -> SummaryExplanation:
    span, window = format_duration_ms, summary.window
    if isinstance(window, SessionWindow):
        shape = f"from the first event to the last + {span(window.gap)}, no silence in it longer than that, "
        shape += f"{span(window.within)} at most from first to last"
    else:
        hop = window.hop if isinstance(window, HoppingWindow) else window.size
        shape = f"[n·{span(hop)}, n·{span(hop)} + {span(window.size)}) for every n"
    passes = "passes" if isinstance(window, SessionWindow) else "reaches"
    watermark = "the smallest of those of the stage before"
    if index == 0:
        watermark = f"the partition's newest event time − {span(pipeline.features.allowed_lateness)}"
    late = "counted and left out"
    if summary.on_late == "correct":
        late = f"the summary is written again, revision + 1, for {span(summary.corrections_for)}; then {late}"
    return SummaryExplanation(
        name=summary.name,
        topic=topic,
        window=shape,
        closes=f"when the watermark, {watermark}, {passes} its end",
        late=late,
        values={field.name: _value(field) for field in summary.fields},
    )


def _value(field: SummaryField) -> str:
    said = f"{field.aggregate} of {field.field}" if field.field else field.aggregate
    if field.equals is not None:
        said += f" == {field.equals!r}"
    return f"{said} where {field.where}" if field.where else said
