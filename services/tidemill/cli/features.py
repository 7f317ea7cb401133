"""`tidemill features`: what each feature means; the same features over history; whether served ones can be repeated.

numba and pyarrow are imported by the commands that need them, once it is settled where compiled kernels are kept.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import orjson
import typer
from rich.table import Table

from tidemill.cli.app import group
from tidemill.cli.backfillfiles import KAFKA, BackfillFiles, begin_backfill, refuse_overwriting
from tidemill.cli.counter import RecordCounter
from tidemill.cli.interruption import interrupted_by_sigterm
from tidemill.cli.kernels import use_kernel_cache
from tidemill.cli.output import (
    BootstrapServers,
    JsonFlag,
    KafkaOptions,
    PipelineArgument,
    TempDir,
    Workers,
    console,
    parse_kafka_options,
    require_servers,
    say,
    warn_of_expiry,
    write_json,
)
from tidemill.cli.verification import verify_served
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline

if TYPE_CHECKING:
    from tidemill.features.core.explanation import PipelineExplanation, StageExplanation
    from tidemill.features.offline.backfill import Result

app = group("A pipeline's features: what they mean, the same ones over history, and whether they can be repeated.")


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
    use_kernel_cache()
    from tidemill.features.core.explanation import COSTS, explain

    explanation = explain(load_pipeline(pipeline), rows)
    if json:
        write_json({**asdict(explanation), "costs": COSTS})
        return
    _show(explanation, COSTS)


@app.command("backfill")
def backfill(
    pipeline: PipelineArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write; replaced if it is there.")],
    stage: Annotated[str | None, typer.Option(help="Stop behind this stage; left out: all stages.")] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="BOUND", help="Event time, or events/0=OFFSET,labels/0=OFFSET,…")
    ] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="BOUND", help="The same; exclusive.")] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="kafka|FILE", help="Several Parquet files may be given.")
    ] = None,
    labels: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Parquet files of labels, for --input FILE.")
    ] = None,
    stream: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Parquet files of a joined stream's records, for --input FILE."),
    ] = None,
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Compute rates of labels as if no label had come, for --input FILE.")
    ] = False,
    arrival: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="When each event arrived, ms; event_time says that event time stands in."),
    ] = None,
    row_group: Annotated[int, typer.Option(min=1, max=10_000_000, help="Rows written at once.")] = 100_000,
    workers: Workers = None,
    temp_dir: TempDir = None,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Compute features over history with the very operators of the stream, and say where the stream takes over.

    Reads the pipeline's events, labels and joined streams from Kafka, or from Parquet files. With --from, as much is
    read before as the windows look back; what is written are the events of the range. Position, feature set and range
    are also in the file's metadata.

    Example: tidemill features backfill fraud --from 2018-07-25 --to 2018-08-15 --out features.parquet
    """
    use_kernel_cache()
    from tidemill.features.offline.backfill import Request, columns_of
    from tidemill.features.offline.bounds import parse_bound, shown
    from tidemill.features.offline.reach import is_whole
    from tidemill.features.parquet import ParquetSink

    loaded = load_pipeline(pipeline)
    start = None if from_ is None else parse_bound(from_, "--from")
    end = None if to is None else parse_bound(to, "--to")
    request = Request(loaded, stage, start, end, workers or os.cpu_count() or 1, temp_dir)
    names, entities = request.names, loaded.event.entities
    if taken := {"id", "event_time", *entities} & set(names):
        raise ConfigurationError(
            f"a feature and a column of the file are both called {', '.join(sorted(taken))}", hint="Rename the feature."
        )
    sources = input_ or [KAFKA]
    given = BackfillFiles(sources, labels or [], no_labels, stream or [], arrival)
    refuse_overwriting(out, given)
    with interrupted_by_sigterm(), RecordCounter() as counter:
        begin = begin_backfill(request, given, counter)
        columns: dict[str, Any] = dict.fromkeys(("id", *entities), "text") | {"event_time": "integer"}
        columns = {name: columns[name] for name in ("id", "event_time", *entities)} | dict.fromkeys(names, "number")
        with ParquetSink(out, columns) as sink:
            with begin(bootstrap_servers, kafka_options) as result:
                for block in columns_of(result.vectors, entities, names, row_group):
                    sink.write(block)
            report = _report(result, out, sink.rows)
            sink.close(
                {
                    "tidemill.pipeline": loaded.name,
                    "tidemill.feature_set": result.feature_set,
                    "tidemill.features_version": str(loaded.features.version),
                    "tidemill.stages": ",".join(result.reports),
                    "tidemill.input": ",".join(sources),
                    "tidemill.from": from_ or "",
                    "tidemill.to": to or "",
                    "tidemill.position": orjson.dumps(result.position).decode(),
                    "tidemill.whole_from": "never" if result.whole_from is None else str(result.whole_from),
                }
            )
    if not is_whole(0 if start is None else start.time or 0, result.whole_from):
        warn_of_expiry("these vectors", result.whole_from)
    if json:
        write_json(report)
        return
    say(f"{sink.rows:,} vectors of feature set {result.feature_set} in {out}")
    for name, stage_report in result.reports.items():
        for code, count in stage_report.refused.most_common():
            say(f"stage {name} refused {count:,}: {code}")
    typer.echo(f"the stream takes over at {shown(result.position)}")


@app.command("prepare")
def prepare_version(
    pipeline: PipelineArgument,
    workers: Workers = None,
    temp_dir: TempDir = None,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Make the state of a new feature-set version from history, while the version that it replaces goes on.

    The file says features.version and features.replaces. State and the offsets to go on from are written in one
    transaction. Then stop the replaced stages and start the new ones: they read what came since, and answer from the
    very event on that the replaced ones had not. Without this command they read the whole history first.

    Example: tidemill features prepare fraud-v2.yaml
    """
    use_kernel_cache()
    from tidemill.features.offline.bounds import shown
    from tidemill.features.offline.preparation import prepare
    from tidemill.features.offline.reach import is_whole
    from tidemill.features.offline.topicinput import Connection

    loaded = load_pipeline(pipeline)
    connection = Connection(require_servers(bootstrap_servers), parse_kafka_options(kafka_options))
    with interrupted_by_sigterm(), RecordCounter() as counter:
        made = prepare(loaded, connection, counter, workers or os.cpu_count() or 1, temp_dir)
    if not is_whole(made.newest, made.whole_from):
        warn_of_expiry("vectors of the new version", made.whole_from)
    if json:
        write_json({"pipeline": loaded.name, **asdict(made)})
        return
    for stage, count in made.state_records.items():
        say(f"stage {stage}: {made.records_read[stage]:,} records read, {count:,} state records written")
    typer.echo(f"version {made.version} is ready to replace version {made.replaces} from {shown(made.position)}")


def _report(result: "Result", out: Path, rows: int) -> dict[str, object]:
    return {
        "file": str(out),
        "rows": rows,
        "feature_set": result.feature_set,
        "position": result.position,
        "whole_from": result.whole_from,
        "stages": {
            name: {
                "records": report.records,
                "vectors": report.vectors,
                "passed_on": report.passed_on,
                "refused": dict(report.refused),
            }
            for name, report in result.reports.items()
        },
    }


def _show(explanation: "PipelineExplanation", costs: Mapping[Any, str]) -> None:
    out = console()
    out.print(
        f"Pipeline {explanation.pipeline}, feature set {explanation.feature_set} (version {explanation.version}); "
        "intervals are in event time, t being the event's own"
    )
    for stage in explanation.stages:
        out.print(_table(stage))
        out.print(
            f"Memory a key: {stage.formula} bytes; {stage.example_bytes:,} at {stage.example_rows:,} rows. An event is "
            f"a row, its label another, and so is a record of a joined stream; all stay for {stage.retention}. "
            f"Accepted up to {stage.lateness} late.{''.join(f' {said}' for said in stage.bounds)}\n"
        )
        if stage.summaries:
            out.print(_summaries(stage))
    used = {feature.cost for stage in explanation.stages for feature in stage.features}
    for cost, meaning in costs.items():
        if cost in used:
            out.print(f"{cost}: {meaning}")


def _table(stage: "StageExplanation") -> Table:
    table = Table("feature", "definition", "null", "cost", title=f"Stage {stage.entity}", title_justify="left")
    for feature in stage.features:
        table.add_row(feature.name, feature.definition, feature.null, feature.cost)
    return table


def _summaries(stage: "StageExplanation") -> Table:
    title = f"Summaries of stage {stage.entity}, in {stage.summaries[0].topic}"
    table = Table("summary", "window", "written", "late events", "values", title=title, title_justify="left")
    for one in stage.summaries:
        values = "\n".join(f"{name}: {meaning}" for name, meaning in one.values.items())
        table.add_row(one.name, one.window, one.closes, one.late, values)
    return table


app.command("verify")(verify_served)
