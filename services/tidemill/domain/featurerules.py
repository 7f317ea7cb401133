"""What must hold for the features of a pipeline file: fields that exist, and aggregates that make sense of a window."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import NamedTuple

from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.filters import Comparison, FilterError, parse_filter
from tidemill.domain.pipeline import NumberField, Pipeline
from tidemill.domain.pipelinerules import Mistake, Path, listed, repeated
from tidemill.domain.windowrules import window_mistakes

LONGEST_NAME = 63

_NUMBERS = frozenset({"sum", "mean", "min", "max", "std", "first", "last", "quantile", "ratio_to_mean"})
"""Aggregates of a number field."""

_TEXTS = frozenset({"distinct", "share"})
"""Aggregates of a text field."""

_KINDS = ("calendar", "value", "one_hot", "aggregate", "expression")

_OPTIONS = (("k", "last"), ("q", "quantile"), ("equals", "share"))
"""What is said for one aggregate only."""


_OF_EVENTS_ONLY = ("share", "label_rate", "ratio_to_mean")
"""Aggregates that compare with the event itself, its label or its categories."""


class Subject(NamedTuple):
    """What a feature aggregates, with where the file declares it."""

    name: str
    numbers: Mapping[str, NumberField]
    texts: tuple[str, ...]
    has_numbers: str
    has_texts: str


def feature_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong with `features.stages`."""
    features = pipeline.features
    entities = pipeline.event.entities
    for position, entity in repeated(stage.entity for stage in features.stages):
        yield Mistake(("features", "stages", position, "entity"), f"a second stage for {entity!r}; put both in one")
    if features.stages[0].entity != pipeline.primary_entity:
        yield Mistake(
            ("features", "stages", 0, "entity"),
            f"the first stage reads the events, which are keyed by {pipeline.primary_entity!r} (the first of "
            f"event.entities), so it must be its stage, not {features.stages[0].entity!r}'s",
        )
    if features.replaces is not None and features.state == "memory":
        yield Mistake(
            ("features", "replaces"),
            "with state: memory no window outlives its process, so a version takes over nothing; leave replaces out",
        )
    if features.replaces is not None and features.replaces >= features.version:
        yield Mistake(
            ("features", "replaces"),
            f"version {features.version} cannot take over from version {features.replaces}; raise features.version",
        )
    names: dict[str, str] = {}
    for at, stage in enumerate(features.stages):
        where: Path = ("features", "stages", at)
        if stage.entity not in entities:
            yield Mistake((*where, "entity"), f"unknown entity {stage.entity!r}; the event has {listed(entities)}")
        for position, feature in enumerate(stage.features):
            path: Path = (*where, "features", position)
            taken = next((name for name in feature.columns if name in names), None)
            if taken is not None:
                yield Mistake((*path, "name"), f"a feature of {names[taken]!r} is called {taken!r} already")
            longest = max(feature.columns, key=len, default="")
            if len(longest) > LONGEST_NAME:
                yield Mistake((*path, "name"), f"{longest!r} is longer than {LONGEST_NAME} characters")
            names |= dict.fromkeys(feature.columns, stage.entity)
            yield from _feature(pipeline, feature, path)


def _feature(pipeline: Pipeline, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    numbers = pipeline.event.numbers
    kinds = [kind for kind in _KINDS if getattr(feature, kind) is not None]
    if len(kinds) != 1:
        said = "has " + " and ".join(kinds) if kinds else "has none of them"
        yield Mistake(
            path, f"feature {feature.name!r} needs one of {', '.join(_KINDS[:-1])} and {_KINDS[-1]}, and {said}"
        )
        return
    if feature.value is not None and feature.value not in numbers:
        yield Mistake((*path, "value"), f"unknown field {feature.value!r}; event.numbers has {listed(numbers)}")
    if feature.one_hot is not None:
        yield from _one_hot(pipeline, feature, path)
    else:
        for name in ("values", "other"):
            if getattr(feature, name):
                yield Mistake((*path, name), f"{name} is for one_hot; {feature.name!r} has {kinds[0]}")
    if feature.aggregate is None:
        for name in ("field", "window", "delay", "where", "k", "q", "equals", "stream"):
            if getattr(feature, name):
                yield Mistake((*path, name), f"{name} is for aggregates; {feature.name!r} has {kinds[0]}")
        return
    subject = _subject(pipeline, feature)
    if subject is None:
        known = listed(pipeline.streams)
        yield Mistake((*path, "stream"), f"unknown stream {feature.stream!r}; streams has {known}")
    elif feature.stream is not None and feature.aggregate in _OF_EVENTS_ONLY:
        yield Mistake((*path, "aggregate"), f"{feature.aggregate} is of events; it cannot be taken of {subject.name}")
    else:
        yield from _field(subject, feature, path)
        yield from _where(subject, feature, path)
    yield from _options(feature, path)
    yield from window_mistakes(pipeline, feature, path)


def _one_hot(pipeline: Pipeline, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    texts, values = pipeline.event.texts, feature.values or ()
    if feature.one_hot not in texts:
        yield Mistake(
            (*path, "one_hot"),
            f"unknown text {feature.one_hot!r}; the event's entities and categories are {listed(texts)}",
        )
    if not values:
        yield Mistake(path, f"one_hot of {feature.name!r} needs values: the texts that get a column, at least one")
    for position, value in repeated(values):
        yield Mistake((*path, "values", position), f"the value {value!r} is named twice")
    for position, name in repeated(feature.columns):
        if position == len(values):
            yield Mistake((*path, "other"), f"the column {name!r} is that of a value already")
        elif values[position] not in values[:position]:
            yield Mistake((*path, "values", position), f"its column would be {name!r}, which another value has")
    for position, value in enumerate(values):
        if feature.columns[position] == f"{feature.name}_":
            yield Mistake((*path, "values", position), f"{value!r} has no letter or digit that could name its column")


def the_event(pipeline: Pipeline) -> Subject:
    event, has_texts = pipeline.event, "the event's entities and categories are"
    return Subject("the event", event.numbers, event.texts, "event.numbers has", has_texts)


def _subject(pipeline: Pipeline, feature: FeatureSpec) -> Subject | None:
    """None for a stream that the file does not declare."""
    name = feature.stream
    if name is None:
        return the_event(pipeline)
    stream = pipeline.streams.get(name)
    if stream is None:
        return None
    has_numbers, has_texts = f"streams.{name}.numbers has", f"streams.{name}.entities has"
    return Subject(f"the stream {name!r}", stream.numbers, stream.entities, has_numbers, has_texts)


def _field(subject: Subject, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    aggregate, field = feature.aggregate, feature.field
    if aggregate in _NUMBERS:
        known, source = tuple(subject.numbers), subject.has_numbers
    elif aggregate in _TEXTS:
        known, source = subject.texts, subject.has_texts
    else:
        if field is not None:
            yield Mistake((*path, "field"), f"{aggregate} takes no field")
        return
    if field is None:
        yield Mistake(path, f"{aggregate} of {feature.name!r} needs a field: one of {listed(known)}")
    elif field not in known:
        yield Mistake((*path, "field"), f"unknown field {field!r}; {source} {listed(known)}")


def _options(feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    for option, aggregate in _OPTIONS:
        given = getattr(feature, option) is not None
        if given and feature.aggregate != aggregate:
            yield Mistake((*path, option), f"{option} is for the aggregate {aggregate}, not for {feature.aggregate}")
        if not given and feature.aggregate == aggregate and option != "k":
            yield Mistake(path, f"{aggregate} of {feature.name!r} needs {option}")


def _where(subject: Subject, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    if feature.where is None:
        return
    path = (*path, "where")
    try:
        condition = parse_filter(feature.where)
    except FilterError as error:
        yield Mistake(path, f"cannot read the filter {feature.where!r}: {error}")
        return
    for comparison in condition.comparisons:
        fault = comparison_fault(subject, comparison)
        if fault is not None:
            yield Mistake(path, fault)


def comparison_fault(subject: Subject, comparison: Comparison) -> str | None:
    """What is wrong with it, if anything."""
    field, value = comparison.field, comparison.value
    if field in subject.texts:
        return None if isinstance(value, str) else f"{field!r} is a text; compare it with a quoted one, not {value}"
    if field not in subject.numbers:
        known = listed([*subject.texts, *subject.numbers])
        return f"unknown field {field!r} in a filter; {subject.name} has {known}"
    if isinstance(value, str):
        return f"{field!r} is a number; compare it with one, not with the text {value!r}"
    scale = subject.numbers[field].scale
    scaled = value * Decimal(scale)
    if comparison.operator in ("==", "!=") and scaled != scaled.to_integral_value():
        return f"{field!r} is kept in units of 1/{scale}, so it never equals {value}"
    return _never_passed(comparison, value, subject.numbers[field])


def _never_passed(comparison: Comparison, value: Decimal, number: NumberField) -> str | None:
    """Nothing outside its bounds is accepted, so an aggregate behind such a filter would be of nothing."""
    least, largest = Decimal(number.min), Decimal(number.max)
    never = {
        "==": not least <= value <= largest,
        "<": value <= least,
        "<=": value < least,
        ">": value >= largest,
        ">=": value > largest,
    }
    if never.get(comparison.operator, False):
        return f"{comparison.field!r} lies in {number.min:g} to {number.max:g}, so nothing passes {comparison}"
    return None
