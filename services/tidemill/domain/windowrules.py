"""What must hold for the windows of features: lengths that can be held, and aggregates that can say something there."""

from collections.abc import Iterator

from tidemill.domain.durations import LONGEST_MS
from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.pipelinerules import Mistake, Path, listed
from tidemill.domain.windows import MOST_HALF_LIVES, CountWindow, DecayWindow, HoppingWindow, SessionWindow

_DECAYING = ("count", "sum", "mean")
"""Aggregates that a weight a row makes sense for."""

_OF_ONE_ROW = {"std": "0"}
"""What an aggregate of one row is, whatever is in it."""

_OF_ITSELF = {"since_last": "null", "ratio_to_mean": "1", "count": "1", "distinct": "1"}
"""The same of the event that asks."""

_AS_A_TRUTH = ("count", "distinct")
"""With a filter these say whether the row passes it."""


def window_mistakes(pipeline: Pipeline, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    """Everything wrong with `window` and `delay` of an aggregate."""
    yield from _window(feature, path)
    yield from _kept(pipeline, feature, path)
    yield from _delay(pipeline, feature, path)


def _window(feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    window = feature.shape
    where = (*path, "window")
    if window is None:
        yield Mistake(path, f"the aggregate {feature.aggregate} of {feature.name!r} needs a window, such as 7d")
        return
    if isinstance(window, HoppingWindow) and window.size % window.hop:
        yield Mistake((*where, "hop"), f"hop ({window.hop} ms) must divide size ({window.size} ms)")
    if isinstance(window, SessionWindow) and window.within < window.gap:
        yield Mistake((*where, "within"), f"within ({window.within} ms) is shorter than gap ({window.gap} ms)")
    if isinstance(window, DecayWindow) and feature.aggregate not in _DECAYING:
        yield Mistake(where, f"a decaying window is for {listed(_DECAYING)}, not for {feature.aggregate}")
    if isinstance(window, DecayWindow) and window.reach > MOST_HALF_LIVES * window.half_life:
        yield Mistake((*where, "within"), f"after {MOST_HALF_LIVES:,} half-lives nothing is left; shorten within")
    if isinstance(window, CountWindow):
        yield from _last_events(feature, window, path)
    if feature.look_back > LONGEST_MS:
        yield Mistake(path, f"window and delay of {feature.name!r} together are longer than 3650d")


def _last_events(feature: FeatureSpec, window: CountWindow, path: Path) -> Iterator[Mistake]:
    """A window of so few events that an aggregate of it says nothing."""
    where = (*path, "window")
    if feature.aggregate == "label_rate":
        yield Mistake(where, "label_rate needs a window of time: labels are no events, so they cannot be counted off")
    if feature.k is not None and feature.k > window.last:
        yield Mistake((*path, "k"), f"the window holds {window.last} at most, so columns beyond would always be null")
    # Without a delay the event itself is the newest of its window; another stream's records are no events.
    itself = not feature.delay and feature.stream is None
    always = _OF_ONE_ROW.get(feature.aggregate or "") or (itself and _OF_ITSELF.get(feature.aggregate or ""))
    if window.last == 1 and always and (feature.where is None or feature.aggregate not in _AS_A_TRUTH):
        what = "the event itself" if itself else "one row"
        yield Mistake((*where, "last"), f"the last 1 is {what}, of which {feature.aggregate} is always {always}")


def _kept(pipeline: Pipeline, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    """A window that topics do not hold could never be computed again."""
    retention = pipeline.topics.retention_ms
    needed = feature.look_back + pipeline.features.allowed_lateness
    if retention is not None and 0 <= retention < needed and feature.shape is not None:
        yield Mistake(
            (*path, "window"),
            f"the window of {feature.name!r} reaches back {needed} ms, with delay and lateness, but events are kept "
            f"for topics.retention_ms ({retention}) only; a backfill could not fill it",
        )


def _delay(pipeline: Pipeline, feature: FeatureSpec, path: Path) -> Iterator[Mistake]:
    lateness = pipeline.features.label_lateness
    if feature.delay < 0:
        yield Mistake(
            (*path, "delay"),
            f"the window of {feature.name!r} would end {-feature.delay} ms after its event, and no vector is held back "
            "for what is still to come: move the window into the past by a delay of 0 or more, or learn from what "
            "comes later as a label, which outcomes joins with the prediction",
        )
        return
    if feature.aggregate == "label_rate" and feature.stream is None and feature.delay < lateness:
        where = (*path, "delay") if feature.delay else path
        yield Mistake(
            where,
            f"the window of {feature.name!r} opens before its labels are in: delay ({feature.delay} ms) must be at "
            f"least features.label_lateness ({lateness} ms)",
        )
    if feature.aggregate == "since_last" and feature.delay:
        yield Mistake((*path, "delay"), "since_last asks for the event before this one; it takes no delay")
