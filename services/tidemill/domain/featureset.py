"""The name of a feature set: what a model was trained on and what the stream computes must carry the same one."""

import hashlib

import orjson

from tidemill.domain.pipeline import Pipeline

_ADDED_LATER = ("expression",)


def feature_set_hash(pipeline: Pipeline) -> str:
    """12 hex digits over everything that decides the vector's values: names, windows, lateness, version, scales.

    `max_idle_ms` is left out: how long a stage waits changes no definition. A key that came later than version 0.1 is
    left out where it is not used, so that the feature sets before it keep their names.
    """
    features = pipeline.features.model_dump(mode="json", by_alias=True, exclude={"max_idle_ms"})
    for stage in features["stages"]:
        for feature in stage["features"]:
            for name in _ADDED_LATER:
                if feature[name] is None:
                    del feature[name]
    document = {
        "features": features,
        "scales": {name: number.scale for name, number in pipeline.event.numbers.items()},
    }
    return hashlib.sha256(orjson.dumps(document, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]
