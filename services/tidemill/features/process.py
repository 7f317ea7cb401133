"""One process of the feature processor: keyed stages and joins with labels, of one pipeline or several."""

from collections.abc import Sequence

from tidemill import clock
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.features.config import OUTCOMES_STAGE, FeaturesConfig
from tidemill.features.metrics import FEATURES, OUTCOMES, SUMMARIES, JoinMetrics, StageMetrics, SummaryMetrics
from tidemill.features.outcomes import OutcomeStage, outcome_inputs
from tidemill.runtime.health import Health, SharedHealth, serve_http
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.logs import get_logger
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import Unit, run_units
from tidemill.runtime.spec import ServiceSpec

_OUTCOMES_GAP_MS = 100.0
"""An outcome is days old when it is written."""


def run(config: FeaturesConfig, pipelines: Sequence[Pipeline]) -> int:
    """Blocks until a signal or a fatal error; returns the exit code. Raises TidemillError before anything runs."""
    chosen = chosen_stages(config, pipelines)
    specs = [service_spec(pipeline, stage) for pipeline, stage in chosen]
    metrics: list[Metrics] = []
    for spec, (_, stage) in zip(specs, chosen, strict=True):
        constant = {"pipeline": spec.pipeline, "service": spec.name}
        declared = OUTCOMES if stage == OUTCOMES_STAGE else (*FEATURES, *SUMMARIES)
        metrics.append(Metrics(constant, declared, metrics[0] if metrics else None))
    healths = [
        Health(spec.name if len(chosen) == 1 else spec.group, metric, config.instance)
        for spec, metric in zip(specs, metrics, strict=True)
    ]
    server = serve_http(config, healths[0] if len(healths) == 1 else SharedHealth(healths))
    try:
        units = [
            _unit(spec, pipeline, stage, health)
            for spec, (pipeline, stage), health in zip(specs, chosen, healths, strict=True)
        ]
        return run_units(units, config)
    finally:
        server.close()


def preload(config: FeaturesConfig, pipelines: Sequence[Pipeline]) -> None:
    """Everything that takes a while and is the same in every worker process of these stages: numba and the kernels,
    compiled (a minute, the first time on a machine) or read from the cache (a second). Raises as `run` does."""
    keyed = [(pipeline, stage) for pipeline, stage in chosen_stages(config, pipelines) if stage != OUTCOMES_STAGE]
    if not keyed:
        return
    from tidemill.features.core.definition import compile_stage
    from tidemill.features.warmup import compile_kernels

    log = get_logger("features")
    log.info("compiling kernels…", stages=[stage for _, stage in keyed])
    began = clock.monotonic()
    definitions = [compile_stage(pipeline, _index(pipeline, stage)) for pipeline, stage in keyed]
    compile_kernels(
        rowwise=any(one.tables.rowwise for one in definitions),
        bounded=any(one.bounds is not None for one in definitions),
    )
    log.info("kernels ready", seconds=round(clock.monotonic() - began, 2))


def chosen_stages(config: FeaturesConfig, pipelines: Sequence[Pipeline]) -> list[tuple[Pipeline, str]]:
    """Each stage to run. Raises ConfigurationError where one is named twice, or two pipelines have one name."""
    chosen = [
        (pipeline, stage)
        for pipeline in pipelines
        for stage in config.stages_of([one.entity for one in pipeline.features.stages])
    ]
    names = [service_spec(pipeline, stage).group for pipeline, stage in chosen]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(
            f"this process would run {', '.join(twice)} more than once",
            hint="TIDEMILL_PIPELINE and TIDEMILL_STAGE name each pipeline and stage once",
        )
    return chosen


def service_spec(pipeline: Pipeline, stage: str) -> ServiceSpec:
    """What the loop reads and where state goes. Raises ConfigurationError for a stage the pipeline does not have."""
    entities = [one.entity for one in pipeline.features.stages]
    features = pipeline.features
    if stage == OUTCOMES_STAGE:
        return ServiceSpec(
            pipeline=pipeline.name,
            name=f"features-{OUTCOMES_STAGE}",
            inputs=outcome_inputs(pipeline),
            dlq_topic=pipeline.topic("dlq"),
            # Kept whatever `features.state` says: labels that wait for days cannot be seen again.
            state_topic=pipeline.topic("outcomes-state"),
            max_idle_ms=features.max_idle_ms,
            max_skew_ms=features.max_skew_ms,
            gap_ms=_OUTCOMES_GAP_MS,
        )
    if stage not in entities:
        raise ConfigurationError(
            f"pipeline {pipeline.name} has no feature stage {stage!r}",
            hint=f"its stages (TIDEMILL_STAGE, --stage) are: {', '.join([*entities, OUTCOMES_STAGE])}",
        )
    index = entities.index(stage)
    predecessors: tuple[str, ...] = ()
    if index == 0:
        topics = tuple(pipeline.first_topics().values())
        if features.replaces is not None:
            # That one may have stopped before it had come to where the version that it replaced had stopped.
            earlier = range(1, features.replaces + 1)
            predecessors = tuple(f"{pipeline.name}-{pipeline.stage_service(0, version)}" for version in earlier)
    else:
        topics = (pipeline.topic(pipeline.stage_input_role(index)),)
    return ServiceSpec(
        pipeline=pipeline.name,
        name=pipeline.stage_service(index),
        inputs=tuple(map(InputTopic, topics)),
        dlq_topic=pipeline.topic("dlq"),
        state_topic=pipeline.topic(pipeline.stage_state_role(index)) if features.state == "changelog" else None,
        max_idle_ms=features.max_idle_ms,
        max_skew_ms=features.max_skew_ms,
        predecessors=predecessors,
        replaceable=index == 0,
    )


def _unit(spec: ServiceSpec, pipeline: Pipeline, stage: str, health: Health) -> Unit:
    if stage == OUTCOMES_STAGE:
        return Unit(spec, OutcomeStage(pipeline, JoinMetrics(health.metrics)), health)
    # numba is imported here and not above: the join does without it.
    from tidemill.features.shell import KeyedStage
    from tidemill.features.summarizing import SummarizingStage

    index = _index(pipeline, stage)
    metrics = StageMetrics(health.metrics)
    summarizing = pipeline.features.stages[index].summaries or pipeline.features.summaries_behind(index)
    service = (
        SummarizingStage(pipeline, index, metrics, SummaryMetrics(health.metrics))
        if summarizing
        else KeyedStage(pipeline, index, metrics)
    )
    return Unit(spec, service, health, service.succeed)


def _index(pipeline: Pipeline, stage: str) -> int:
    return [one.entity for one in pipeline.features.stages].index(stage)
