"""The name of a feature set: what a model was trained on and what the stream computes must carry the same one."""

import hashlib
from typing import Any

import orjson

from tidemill.domain.featurespec import FeatureSpec
from tidemill.domain.filters import parse_filter
from tidemill.domain.pipeline import Pipeline, StreamSpec
from tidemill.domain.windows import SlidingWindow

_OPTIONAL = ("where", "k", "q", "equals", "expression", "stream", "one_hot", "values", "other")
_OPTIONAL_OF_STAGES = ("max_rows_per_key", "bucket")
"""Left out of the document where they are not said, so that a feature that says none keeps its name."""

_OPERATED = ("max_idle_ms", "idle_timeout", "state", "state_limits", "replaces")


def feature_set_hash(pipeline: Pipeline) -> str:
    """12 hex digits over everything that decides the vector's values: names, windows, filters, lateness, version,
    scales; of streams that features join also how far they may lead.

    How long a stage waits, where it keeps rows and how many, and where it begins are left out, as they change no
    definition, and so are summaries, which no vector holds. A duration and the sliding window of it, and two spellings
    of a filter, are the same.
    """
    left_out: dict[str, Any] = dict.fromkeys(_OPERATED, True)
    left_out["stages"] = {"__all__": {"summaries"}}
    features = pipeline.features.model_dump(mode="json", by_alias=True, exclude=left_out)
    for stage, written in zip(pipeline.features.stages, features["stages"], strict=True):
        written["features"] = [_document(feature) for feature in stage.features]
        for name in _OPTIONAL_OF_STAGES:
            if written[name] is None:
                del written[name]
    scales = {name: number.scale for name, number in pipeline.event.numbers.items()}
    document: dict[str, Any] = {"features": features, "scales": scales}
    if joined := pipeline.streams_into(0):
        document["streams"] = {name: _stream(pipeline.streams[name]) for name in joined}
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def _stream(stream: StreamSpec) -> dict[str, Any]:
    scales = {name: number.scale for name, number in stream.numbers.items()}
    return {"scales": scales, "max_lead": stream.max_lead}


def _document(feature: FeatureSpec) -> dict[str, Any]:
    document = feature.model_dump(mode="json", by_alias=True)
    for name in _OPTIONAL:
        if document[name] is None or document[name] is False:
            del document[name]
    if feature.where is not None:
        document["where"] = str(parse_filter(feature.where))
    if isinstance(feature.window, SlidingWindow) and feature.window.bucket is None:
        document["window"] = feature.window.size
    return document
