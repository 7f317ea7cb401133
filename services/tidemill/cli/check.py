"""`tidemill check`: every mistake of a pipeline file, with its line and column."""

from typing import Annotated

import typer

from tidemill.cli.output import JsonFlag, say, write_json
from tidemill.domain.pipeline import Pipeline
from tidemill.runtime.pipelinefile import Problem, parse_pipeline, pipeline_text, problems
from tidemill.runtime.topics import plan

_WRONG = 2


def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A pipeline file, or a shipped pipeline's name.")],
    json: JsonFlag = False,
) -> None:
    """List every mistake in a pipeline file, with its line and column. Starts nothing.

    Exits 0 if there is none, else 2.

    Example: tidemill check deploy/pipelines/shop.yaml
    """
    text, source = pipeline_text(file)
    found = problems(text)
    pipeline = None if found else parse_pipeline(text, source)
    if json:
        write_json(_report(file, pipeline, found))
    else:
        for problem in found:
            where = f"{problem.path}: " if problem.path else ""
            typer.echo(f"{file}:{problem.line}:{problem.column}: {where}{problem.message}")
        if pipeline is not None:
            typer.echo(
                f"{source} is right: pipeline {pipeline.name}, {len(pipeline.feature_names)} features in "
                f"{len(pipeline.features.stages)} stages, {len(plan(pipeline))} topics"
            )
    if found:
        say(f"{len(found)} mistake{'s' if len(found) > 1 else ''} in {source}")
        raise typer.Exit(_WRONG)


def _report(file: str, pipeline: Pipeline | None, found: list[Problem]) -> dict[str, object]:
    report: dict[str, object] = {"file": file, "valid": not found, "problems": [problem._asdict() for problem in found]}
    if pipeline is not None:
        report["pipeline"] = pipeline.name
        report["features"] = list(pipeline.feature_names)
        report["topics"] = [topic.name for topic in plan(pipeline)]
    return report
