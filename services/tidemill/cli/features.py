"""`tidemill features`: what each feature means; the same features over history; whether served ones can be repeated.

numba and pyarrow are imported by the commands that need them, once it is settled where compiled kernels are kept.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import orjson
import typer
from rich.table import Table

from tidemill.cli.app import group
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
    write_json,
)
from tidemill.cli.verification import verify_served
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline

if TYPE_CHECKING:
    from tidemill.features.core.explanation import PipelineExplanation, StageExplanation
    from tidemill.features.offline.backfill import Request, Result

_KAFKA = "kafka"

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
    sources = input_ or [_KAFKA]
    given = _Files(sources, labels or [], no_labels, stream or [], arrival)
    _refuse_overwriting(out, given)
    with interrupted_by_sigterm(), RecordCounter() as counter:
        begin = _source(request, given, counter)
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
                }
            )
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
    from tidemill.features.offline.topicinput import Connection

    loaded = load_pipeline(pipeline)
    connection = Connection(require_servers(bootstrap_servers), parse_kafka_options(kafka_options))
    with interrupted_by_sigterm(), RecordCounter() as counter:
        made = prepare(loaded, connection, counter, workers or os.cpu_count() or 1, temp_dir)
    if json:
        write_json({"pipeline": loaded.name, **asdict(made)})
        return
    for stage, count in made.state_records.items():
        say(f"stage {stage}: {made.records_read[stage]:,} records read, {count:,} state records written")
    typer.echo(f"version {made.version} is ready to replace version {made.replaces} from {shown(made.position)}")


class _Files(NamedTuple):
    """What the options say about input."""

    sources: list[str]
    labels: list[Path]
    no_labels: bool
    streams: list[str]
    arrival: str | None

    def by_stream(self) -> dict[str, tuple[Path, ...]]:
        found: dict[str, tuple[Path, ...]] = {}
        for text in self.streams:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                raise ConfigurationError(f"--stream: {text!r} is not NAME=FILE", hint="Such as limits=limits.parquet.")
            found[name] = (*found.get(name, ()), Path(path))
        return found

    @property
    def paths(self) -> list[Path]:
        sources = [Path(source) for source in self.sources if source != _KAFKA]
        return [*sources, *self.labels, *(path for paths in self.by_stream().values() for path in paths)]


def _refuse_overwriting(out: Path, given: _Files) -> None:
    if same := [path for path in given.paths if path.resolve() == out.resolve()]:
        raise ConfigurationError(
            f"--out is {same[0]}, which is read", hint="Name another file: what is read must stay as it is."
        )


def _refuse_unknown_labels(request: "Request", given: _Files) -> None:
    """Rates without labels are 0, which no one can tell from rates of harmless events."""
    stages = request.pipeline.features.stages[: request.last + 1]
    rates = [feature.name for stage in stages for feature in stage.features if feature.aggregate == "label_rate"]
    if rates and not (given.labels or given.no_labels):
        raise ConfigurationError(
            f"{rates[0]} is a rate of labels, and no file of labels is given",
            hint="Add --labels FILE; or --no-labels, and it is computed as if no label had come.",
        )
    if given.labels and given.no_labels:
        raise ConfigurationError("--labels and --no-labels are given", hint="Say one of the two.")


def _source(request: "Request", given: _Files, counter: RecordCounter) -> Any:
    """A function of the Kafka options that begins the backfill."""
    from tidemill.features.offline.backfill import backfill_files, backfill_topics
    from tidemill.features.offline.topicinput import Connection

    if _KAFKA in given.sources:
        if given != _Files([_KAFKA], [], False, [], None):
            raise ConfigurationError(
                "--input kafka goes with no file, --labels, --no-labels, --stream or --arrival",
                hint="Topics have the labels, the streams and the order.",
            )

        def from_kafka(servers: str | None, options: str | None) -> AbstractContextManager["Result"]:
            connection = Connection(require_servers(servers), parse_kafka_options(options))
            return backfill_topics(request, connection, counter)

        return from_kafka
    if given.arrival is None:
        raise ConfigurationError(
            "files do not say in which order their events arrived",
            hint="Name the column with --arrival COLUMN, or say --arrival event_time if they arrived in time order.",
        )
    _refuse_unknown_labels(request, given)
    from tidemill.features.offline.fileinput import Files, split

    files = Files(tuple(map(Path, given.sources)), tuple(given.labels), given.arrival, given.by_stream())

    def from_files(_: str | None, __: str | None) -> AbstractContextManager["Result"]:
        bounds = (request.start, request.end)
        return backfill_files(
            request, lambda count, folder: split(request.pipeline, files, count, folder, bounds), counter
        )

    return from_files


def _report(result: "Result", out: Path, rows: int) -> dict[str, object]:
    return {
        "file": str(out),
        "rows": rows,
        "feature_set": result.feature_set,
        "position": result.position,
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
