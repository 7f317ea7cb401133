"""One process of the feature processor: a keyed stage, or the join with labels."""

from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.features.config import FeaturesConfig
from tidemill.features.metrics import FEATURES, OUTCOMES, JoinMetrics, StageMetrics
from tidemill.features.outcomes import OutcomeStage, outcome_inputs
from tidemill.runtime.health import Health, serve_http
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.logs import get_logger
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import run_service
from tidemill.runtime.service import Service
from tidemill.runtime.spec import ServiceSpec

OUTCOMES_STAGE = "outcomes"
_OUTCOMES_GAP_MS = 100.0
"""An outcome is days old when it is written."""


def run(config: FeaturesConfig, pipeline: Pipeline) -> int:
    """Blocks until a signal or a fatal error; returns the exit code. Raises TidemillError before anything runs."""
    spec = service_spec(pipeline, config.stage)
    metrics = Metrics(
        {"pipeline": pipeline.name, "service": spec.name}, OUTCOMES if config.stage == OUTCOMES_STAGE else FEATURES
    )
    health = Health(spec.name, metrics, config.instance)
    server = serve_http(config, health)
    try:
        return run_service(spec, config, _service(pipeline, config.stage, metrics, health), health)
    finally:
        server.close()


def service_spec(pipeline: Pipeline, stage: str) -> ServiceSpec:
    """What the loop reads and where state goes. Raises ConfigurationError for a stage the pipeline does not have."""
    entities = [one.entity for one in pipeline.features.stages]
    if stage == OUTCOMES_STAGE:
        inputs, state = outcome_inputs(pipeline), "outcomes-state"
    elif stage not in entities:
        raise ConfigurationError(
            f"pipeline {pipeline.name} has no feature stage {stage!r}",
            hint=f"its stages (TIDEMILL_STAGE, --stage) are: {', '.join([*entities, OUTCOMES_STAGE])}",
        )
    elif stage == entities[0]:
        inputs, state = (InputTopic(pipeline.topic("events")), InputTopic(pipeline.topic("labels"))), f"{stage}-state"
    else:
        inputs, state = (InputTopic(pipeline.topic(f"by-{stage}")),), f"{stage}-state"
    return ServiceSpec(
        pipeline=pipeline.name,
        name=f"features-{stage}",
        inputs=inputs,
        dlq_topic=pipeline.topic("dlq"),
        state_topic=pipeline.topic(state),
        max_idle_ms=pipeline.features.max_idle_ms,
        gap_ms=_OUTCOMES_GAP_MS if stage == OUTCOMES_STAGE else 0.0,
    )


def _service(pipeline: Pipeline, stage: str, metrics: Metrics, health: Health) -> Service:
    if stage == OUTCOMES_STAGE:
        return OutcomeStage(pipeline, JoinMetrics(metrics))
    # numba is imported here and not above: the join does without it.
    from tidemill.features.shell import KeyedStage
    from tidemill.features.warmup import compile_kernels

    log = get_logger("features")
    health.set_ready(False, "compiling kernels")
    log.info("compiling kernels…", stage=stage)
    began = clock.monotonic()
    compile_kernels()
    log.info("kernels ready", seconds=round(clock.monotonic() - began, 2))
    index = [one.entity for one in pipeline.features.stages].index(stage)
    return KeyedStage(pipeline, index, StageMetrics(metrics))
