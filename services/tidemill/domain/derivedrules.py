"""What must hold for derived features: an expression that can be read, over names that can be known by then."""

import difflib
from collections.abc import Iterator, Mapping

from tidemill.domain.expressions import Expression, ExpressionError, Name, names, parse
from tidemill.domain.featurespec import StageSpec
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.pipelinerules import Mistake, Path, listed


def derived_mistakes(pipeline: Pipeline) -> Iterator[Mistake]:
    """Everything wrong with `expression` in all stages. A name means a feature first, then a number field; a feature's
    own name in its expression means the field."""
    earlier: list[str] = []
    for at, stage in enumerate(pipeline.features.stages):
        trees: dict[str, Expression] = {}
        later = {
            name: behind.entity
            for behind in pipeline.features.stages[at + 1 :]
            for feature in behind.features
            for name in feature.columns
        }
        for position, feature in enumerate(stage.features):
            if feature.expression is None:
                continue
            path: Path = ("features", "stages", at, "features", position, "expression")
            try:
                tree = parse(feature.expression)
            except ExpressionError as error:
                yield Mistake(path, _pointed(feature.expression, error.column, error.message))
                continue
            trees[feature.name] = tree
            known = {*earlier, *(name for other in stage.features if other is not feature for name in other.columns)}
            known |= set(pipeline.event.numbers)
            for name in names(tree):
                if name.name not in known:
                    message = _unknown(name, known, later, feature.name)
                    yield Mistake(path, _pointed(feature.expression, name.column, message))
        for position, feature in enumerate(stage.features):
            if feature.expression is not None and feature.name in trees:
                circle = _circle(feature.name, trees)
                if circle is not None:
                    path = ("features", "stages", at, "features", position, "expression")
                    name = next(name for name in names(trees[feature.name]) if name.name == circle[1])
                    yield Mistake(
                        path, _pointed(feature.expression, name.column, f"goes in a circle: {' → '.join(circle)}")
                    )
        earlier += [name for feature in stage.features for name in feature.columns]


def evaluation_order(stage: StageSpec) -> list[tuple[str, Expression]]:
    """The derived features of a stage without mistakes, each behind those it reads."""
    trees = {feature.name: parse(feature.expression) for feature in stage.features if feature.expression is not None}
    ordered: dict[str, Expression] = {}

    def put(feature: str) -> None:
        if feature in ordered:
            return
        for name in names(trees[feature]):
            if name.name in trees and name.name != feature:
                put(name.name)
        ordered[feature] = trees[feature]

    for feature in trees:
        put(feature)
    return list(ordered.items())


def _circle(start: str, trees: Mapping[str, Expression]) -> list[str] | None:
    """`start`, …, `start` along names of derived features; None if no way leads back."""
    ways = [[start]]
    seen = {start}
    while ways:
        way = ways.pop()
        for name in names(trees[way[-1]]):
            if name.name == start and len(way) > 1:
                return [*way, start]
            if name.name in trees and name.name not in seen:
                seen.add(name.name)
                ways.append([*way, name.name])
    return None


def _unknown(name: Name, known: set[str], later: Mapping[str, str], own: str) -> str:
    if name.name in later:
        return f"{name.name!r} is a feature of the later stage {later[name.name]!r}"
    if name.name == own:
        return f"{own!r} is the feature itself, and no number field"
    near = difflib.get_close_matches(name.name, sorted(known), n=1)
    advice = f"did you mean {near[0]!r}?" if near else f"known here: {listed(sorted(known))}"
    return f"unknown name {name.name!r}; {advice}"


def _pointed(text: str, column: int, message: str) -> str:
    return f"column {column} of {text!r}: {message}" if len(text) <= 120 else f"column {column}: {message}"
