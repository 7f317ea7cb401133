"""`tidemill features`: what each feature means; the same features over history; whether served ones can be repeated."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from tidemill.cli.app import group
from tidemill.cli.output import JsonFlag, PipelineArgument, console, write_json
from tidemill.features.core.explanation import COSTS, PipelineExplanation, StageExplanation, explain
from tidemill.runtime.pipelinefile import load_pipeline

app = group("A pipeline's features: what they mean, and the same ones computed over history.")


@app.command("explain")
def explain_features(
    pipeline: PipelineArgument,
    rows: Annotated[int, typer.Option(min=1, max=100_000_000, help="Rows a key, for the example of memory.")] = 60,
    json: JsonFlag = False,
) -> None:
    """Show each feature's exact definition, when it is null, what it costs, and what a key's state weighs.

    Intervals are in event time, t being the event's own. Starts nothing and asks no Kafka.

    Example: tidemill features explain fraud --rows 100
    """
    explanation = explain(load_pipeline(pipeline), rows)
    if json:
        write_json({**asdict(explanation), "costs": COSTS})
        return
    _show(explanation)


def _show(explanation: PipelineExplanation) -> None:
    out = console()
    out.print(
        f"Pipeline {explanation.pipeline}, feature set {explanation.feature_set} (version {explanation.version}); "
        "intervals are in event time, t being the event's own"
    )
    for stage in explanation.stages:
        out.print(_table(stage))
        out.print(
            f"Memory a key: {stage.formula} bytes; {stage.example_bytes:,} at {stage.example_rows:,} rows. An event is "
            f"a row, its label another; both stay for {stage.retention}. Accepted up to {stage.lateness} late.\n"
        )
    used = {feature.cost for stage in explanation.stages for feature in stage.features}
    for cost, meaning in COSTS.items():
        if cost in used:
            out.print(f"{cost}: {meaning}")


def _table(stage: StageExplanation) -> Table:
    table = Table("feature", "definition", "null", "cost", title=f"Stage {stage.entity}", title_justify="left")
    for feature in stage.features:
        table.add_row(feature.name, feature.definition, feature.null, feature.cost)
    return table
