"""How far back vectors reach, and from when on logs whose beginning has expired still have all of it."""

from collections.abc import Iterable

from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.definition import compile_stage


def look_back_ms(pipeline: Pipeline) -> int:
    """How long before an event the records may be that its features depend on, where `reaches_beginning` is false."""
    return max(compile_stage(pipeline, index).retention for index in range(len(pipeline.features.stages)))


def reaches_beginning(pipeline: Pipeline) -> bool:
    """Whether what a stage holds depends on what it held earlier, and so on, without end: it merges rows, or forgets
    keys, by how much there is."""
    stages = [compile_stage(pipeline, index) for index in range(len(pipeline.features.stages))]
    return any((at.merging and at.merging.max_rows > 0) or (at.caps and at.caps.evict) for at in stages)


def reads_labels(pipeline: Pipeline) -> bool:
    """Whether any feature depends on labels, be it by the rows that they take."""
    features = [feature for stage in pipeline.features.stages for feature in stage.features]
    return reaches_beginning(pipeline) or any(feature.aggregate == "label_rate" for feature in features)


def whole_from(pipeline: Pipeline, firsts: Iterable[int | None]) -> int | None:
    """Event time in ms from which on vectors have all that they look back to; 0: all have; None: none is certain to.

    `firsts` are the first timestamps of the logs that have lost their beginning, None where nothing is left.
    """
    whole = 0
    for first in firsts:
        if first is None or reaches_beginning(pipeline):
            return None
        whole = max(whole, first + look_back_ms(pipeline) + 1)
    return whole


def is_whole(event_time: int, whole: int | None) -> bool:
    """Whether a vector of that time has all that it looks back to. `whole` is what `whole_from` returned."""
    return whole is not None and event_time >= whole
