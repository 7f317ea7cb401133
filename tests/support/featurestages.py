"""Keyed stages and joins without a Kafka: built as the service builds them, driven record by record."""

from tidemill.domain.pipeline import Pipeline
from tidemill.features.metrics import FEATURES, OUTCOMES, SUMMARIES, JoinMetrics, StageMetrics
from tidemill.features.shell import KeyedStage
from tidemill.runtime.metrics import Metrics


def keyed_stage(pipeline: Pipeline, index: int) -> KeyedStage:
    return KeyedStage(pipeline, index, StageMetrics(metrics(pipeline)))


def join_metrics(pipeline: Pipeline) -> JoinMetrics:
    return JoinMetrics(metrics(pipeline))


def metrics(pipeline: Pipeline) -> Metrics:
    return Metrics({"pipeline": pipeline.name, "service": "features"}, (*FEATURES, *SUMMARIES, *OUTCOMES))
