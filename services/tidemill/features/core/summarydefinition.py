"""The summaries of one stage, compiled: which integer columns an event brings, and what each window does with them."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from tidemill.domain.filters import parse_filter
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.summaryspec import SummaryAggregate, SummaryField, SummarySpec
from tidemill.domain.windows import HoppingWindow, SessionWindow
from tidemill.features.core.columns import Column, conditions_of, ordered, text_condition

ALWAYS = -1
"""In place of a column: of every event; or, of a value, none."""


@dataclass(frozen=True)
class Line:
    """One value of a summary. `taken` is the column that is 1 where the filter holds, `value` what is aggregated, in
    fixed point at `scale` (of a share: 1 where the text is equal)."""

    name: str
    aggregate: SummaryAggregate
    taken: int
    value: int
    scale: int


@dataclass(frozen=True)
class SummaryDefinition:
    """One summary. Of a tumbling or hopping window `size` and `hop` are above 0, of a session `gap` and `within`."""

    name: str
    size: int
    hop: int
    gap: int
    within: int
    corrections_for: int
    """How long a closed window is kept for corrections; 0 where late events are dropped."""
    lines: tuple[Line, ...]
    fingerprint: int
    """32 bits over what a window's state means; that of another fingerprint cannot be continued."""
    has_squares: bool
    """Whether a line sums up squares."""


@dataclass(frozen=True)
class StageSummaries:
    """All summaries of a stage, and the columns that their lines name, in the order of `Column`s to fill."""

    columns: tuple[Column, ...]
    definitions: tuple[SummaryDefinition, ...]


class _Columns:
    """Numbers the columns, each once."""

    def __init__(self, scales: Mapping[str, int]) -> None:
        self._scales = scales
        self.found: dict[Column, int] = {}

    def line(self, field: SummaryField) -> Line:
        where = conditions_of(parse_filter(field.where) if field.where else None, self._scales)
        taken = self._number(Column("taken", None, where)) if where else ALWAYS
        value, scale = ALWAYS, 1
        if field.aggregate == "share":
            value = self._number(
                Column("taken", None, ordered([text_condition(field.field or "", "==", field.equals or "")]))
            )
        elif field.field is not None:
            value, scale = self._number(Column("value", field.field, ())), self._scales[field.field]
        return Line(field.name, field.aggregate, taken, value, scale)

    def _number(self, column: Column) -> int:
        return self.found.setdefault(column, len(self.found))


def compile_summaries(pipeline: Pipeline, index: int) -> StageSummaries:
    """Those of stage `index`; assumes a validated pipeline."""
    columns = _Columns({name: number.scale for name, number in pipeline.event.numbers.items()})
    definitions = tuple(
        _definition(pipeline, summary, columns) for summary in pipeline.features.stages[index].summaries
    )
    return StageSummaries(tuple(columns.found), definitions)


def _definition(pipeline: Pipeline, summary: SummarySpec, columns: _Columns) -> SummaryDefinition:
    window = summary.window
    fields = [
        [
            field.name,
            field.aggregate,
            field.field,
            field.equals,
            str(parse_filter(field.where)) if field.where else None,
        ]
        for field in summary.fields
    ]
    scales = {field.field: pipeline.event.numbers[field.field].scale for field in summary.fields
              if field.field in pipeline.event.numbers}  # fmt: skip
    meaning = [window.model_dump(), fields, summary.corrections_for, scales]
    return SummaryDefinition(
        name=summary.name,
        size=0 if isinstance(window, SessionWindow) else window.size,
        hop=window.hop
        if isinstance(window, HoppingWindow)
        else 0
        if isinstance(window, SessionWindow)
        else window.size,
        gap=window.gap if isinstance(window, SessionWindow) else 0,
        within=window.within if isinstance(window, SessionWindow) else 0,
        corrections_for=summary.corrections_for,
        lines=tuple(columns.line(field) for field in summary.fields),
        fingerprint=zlib.crc32(orjson.dumps(meaning, option=orjson.OPT_SORT_KEYS)),
        has_squares=any(field.aggregate == "std" for field in summary.fields),
    )
