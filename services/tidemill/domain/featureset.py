"""The name of a feature set: what a model was trained on and what the stream computes must carry the same one."""

import hashlib

import orjson

from tidemill.domain.pipeline import Pipeline


def feature_set_hash(pipeline: Pipeline) -> str:
    """12 hex digits over everything that decides the vector's values: names, windows, lateness, version, scales.

    `max_idle_ms` and `state` are left out: how long a stage waits and where it keeps rows changes no definition.
    """
    document = {
        "features": pipeline.features.model_dump(mode="json", by_alias=True, exclude={"max_idle_ms", "state"}),
        "scales": {name: number.scale for name, number in pipeline.event.numbers.items()},
    }
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
