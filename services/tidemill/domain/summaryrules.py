"""What must hold for the summaries of a pipeline file."""

from collections.abc import Iterator

from tidemill.domain.durations import LONGEST_MS
from tidemill.domain.featurerules import comparison_fault, the_event
from tidemill.domain.filters import FilterError, parse_filter
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.pipelinerules import Mistake, Path, listed, repeated
from tidemill.domain.summaryspec import SummaryField, SummarySpec
from tidemill.domain.windows import HoppingWindow, SessionWindow

MOST_OVERLAPPING = 1_000
"""Hopping windows that one event may lie in: each is updated by it."""

MOST_CLOSED_SESSIONS = 1_000
"""Closed sessions of a key that may be kept for corrections."""


def summary_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong with `summaries` of any stage."""
    features = pipeline.features
    for at, stage in enumerate(features.stages):
        where: Path = ("features", "stages", at, "summaries")
        for position, name in repeated(summary.name for summary in stage.summaries):
            yield Mistake((*where, position, "name"), f"a second summary of {stage.entity!r} is called {name!r}")
        for position, summary in enumerate(stage.summaries):
            yield from _summary(pipeline, summary, (*where, position))


def _summary(pipeline: Pipeline, summary: SummarySpec, path: Path) -> Iterator[Mistake]:
    yield from _window(summary, path)
    if summary.on_late == "correct" and not summary.corrections_for:
        yield Mistake(path, f"{summary.name!r} corrects, but for how long? Say corrections_for, such as 1d")
    if summary.on_late == "drop" and summary.corrections_for:
        yield Mistake((*path, "corrections_for"), "corrections_for is for on_late: correct")
    for position, name in repeated(field.name for field in summary.fields):
        yield Mistake((*path, "fields", position, "name"), f"{summary.name!r} has a field {name!r} already")
    for position, field in enumerate(summary.fields):
        yield from _field(pipeline, field, (*path, "fields", position))


def _window(summary: SummarySpec, path: Path) -> Iterator[Mistake]:
    window = summary.window
    if isinstance(window, HoppingWindow):
        if window.size % window.hop:
            yield Mistake((*path, "window", "hop"), f"hop ({window.hop} ms) must divide size ({window.size} ms)")
        if window.size // window.hop > MOST_OVERLAPPING:
            yield Mistake(
                (*path, "window", "hop"),
                f"every event would lie in {window.size // window.hop:,} windows; at most {MOST_OVERLAPPING:,} may",
            )
    if isinstance(window, SessionWindow) and summary.corrections_for > MOST_CLOSED_SESSIONS * window.gap:
        yield Mistake(
            (*path, "corrections_for"),
            f"a key might keep {summary.corrections_for // max(1, window.gap):,} closed sessions, and each event is "
            f"held against all of them; corrections_for may be {MOST_CLOSED_SESSIONS:,} times gap",
        )
    if isinstance(window, SessionWindow) and window.within < window.gap:
        yield Mistake((*path, "window", "within"), f"within ({window.within} ms) is shorter than gap ({window.gap} ms)")
    if window.reach + summary.corrections_for > LONGEST_MS:
        yield Mistake(path, f"window and corrections_for of {summary.name!r} together are longer than 3650d")


def _field(pipeline: Pipeline, field: SummaryField, path: Path) -> Iterator[Mistake]:
    subject = the_event(pipeline)
    if field.aggregate == "count":
        if field.field is not None:
            yield Mistake((*path, "field"), "count takes no field")
    else:
        texts = field.aggregate == "share"
        known = subject.texts if texts else tuple(subject.numbers)
        if field.field is None:
            yield Mistake(path, f"{field.aggregate} of {field.name!r} needs a field: one of {listed(known)}")
        elif field.field not in known:
            source = subject.has_texts if texts else subject.has_numbers
            yield Mistake((*path, "field"), f"unknown field {field.field!r}; {source} {listed(known)}")
    if (field.equals is None) == (field.aggregate == "share"):
        said = "needs equals, the value whose share is taken" if field.equals is None else "takes no equals"
        yield Mistake(path if field.equals is None else (*path, "equals"), f"{field.aggregate} {said}")
    if field.where is not None:
        try:
            condition = parse_filter(field.where)
        except FilterError as error:
            yield Mistake((*path, "where"), f"cannot read the filter {field.where!r}: {error}")
            return
        for comparison in condition.comparisons:
            fault = comparison_fault(subject, comparison)
            if fault is not None:
                yield Mistake((*path, "where"), fault)
