"""`tidemill features`: what each feature means; the same features over history; whether served ones can be repeated.

numba and pyarrow are imported by the commands that need them, once it is settled where compiled kernels are kept.
"""

import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
import typer
from rich.table import Table

from tidemill.cli.app import group
from tidemill.cli.counter import RecordCounter
from tidemill.cli.kernels import use_kernel_cache
from tidemill.cli.output import (
    BootstrapServers,
    JsonFlag,
    KafkaOptions,
    PipelineArgument,
    console,
    parse_kafka_options,
    require_servers,
    say,
    write_json,
)
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline

if TYPE_CHECKING:
    from tidemill.features.core.explanation import PipelineExplanation, StageExplanation
    from tidemill.features.offline.backfill import Request, Result

_MISMATCH = 1
_SHOWN_MISMATCHES = 20
_KAFKA = "kafka"

app = group("A pipeline's features: what they mean, the same ones over history, and whether they can be repeated.")

Workers = Annotated[
    int | None,
    typer.Option(min=1, max=1_024, help="Processes, by default one a processor; at most one a partition is used."),
]
TempDir = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="For what passes between stages; about as large as the input.")
]


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

    Reads the pipeline's events and labels from Kafka, or from Parquet files. With --from, as much is read before as the
    windows look back; what is written are the events of the range. Position, feature set and range are also in the
    file's metadata.

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
    with RecordCounter() as counter:
        columns: dict[str, Any] = dict.fromkeys(("id", *entities), "text") | {"event_time": "integer"}
        columns = {name: columns[name] for name in ("id", "event_time", *entities)} | dict.fromkeys(names, "number")
        with ParquetSink(out, columns) as sink:
            with _source(request, sources, labels or [], arrival, counter)(bootstrap_servers, kafka_options) as result:
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


@app.command("verify")
def verify_served(
    pipeline: PipelineArgument,
    sample: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="How many served vectors to compute again.")
    ] = 1_000,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only events of this event time or later.")] = None,
    topic: Annotated[
        Literal["predictions", "features"], typer.Option(help="Where served vectors are taken from.")
    ] = "predictions",
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws another sample.")] = 0,
    workers: Workers = None,
    temp_dir: TempDir = None,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Compute a seeded sample of served vectors again, from events and labels, and list what differs.

    Exits 1 if any value differs in any bit, or no vector of this feature set was served.

    Example: tidemill features verify fraud --sample 500 --since 2018-07-25
    """
    use_kernel_cache()
    from tidemill.features.offline.backfill import Request
    from tidemill.features.offline.bounds import parse_bound
    from tidemill.features.offline.topicinput import Connection
    from tidemill.features.offline.verification import Sample, verify

    loaded = load_pipeline(pipeline)
    begin = None if since is None else parse_bound(since, "--since")
    if begin is not None and begin.time is None:
        raise ConfigurationError("--since is an event time", hint="Write it as 2018-07-25, or in milliseconds.")
    connection = Connection(require_servers(bootstrap_servers), parse_kafka_options(kafka_options))
    wanted = Sample(loaded.topic(topic), sample, seed, None if begin is None else begin.time)
    with RecordCounter() as counter:
        request = Request(loaded, workers=workers or os.cpu_count() or 1, temp_dir=temp_dir)
        verdict = verify(request, wanted, connection, counter)
    differing = len({(at.id, at.event_time) for at in verdict.mismatches})
    if json:
        report = {**asdict(verdict), "mismatches": [at._asdict() for at in verdict.mismatches]}
        write_json({"pipeline": loaded.name, "topic": wanted.topic, "differing_vectors": differing, **report})
    else:
        table = Table("id", "event_time", "feature", "served", "recomputed")
        for at in verdict.mismatches[:_SHOWN_MISMATCHES]:
            feature = "the whole vector" if at.feature is None else at.feature
            table.add_row(at.id, str(at.event_time), feature, _value(at.served), _value(at.recomputed))
        if verdict.mismatches:
            console().print(table)
        typer.echo(f"{verdict.sampled:,} of {verdict.served:,} served vectors computed again, {differing:,} differ")
        if verdict.other:
            say(f"{verdict.other:,} vectors of another feature set were left out")
    if verdict.mismatches:
        raise typer.Exit(_MISMATCH)


def _source(
    request: "Request", sources: list[str], labels: list[Path], arrival: str | None, counter: RecordCounter
) -> Any:
    """A function of the Kafka options that begins the backfill."""
    from tidemill.features.offline.backfill import backfill_files, backfill_topics
    from tidemill.features.offline.topicinput import Connection

    if _KAFKA in sources:
        if len(sources) > 1 or labels or arrival is not None:
            raise ConfigurationError(
                "--input kafka goes with no file, --labels or --arrival", hint="Topics have the labels and the order."
            )

        def from_kafka(servers: str | None, options: str | None) -> AbstractContextManager["Result"]:
            connection = Connection(require_servers(servers), parse_kafka_options(options))
            return backfill_topics(request, connection, counter)

        return from_kafka
    if arrival is None:
        raise ConfigurationError(
            "files do not say in which order their events arrived",
            hint="Name the column with --arrival COLUMN, or say --arrival event_time if they arrived in time order.",
        )
    from tidemill.features.offline.fileinput import Files, split

    files = Files(tuple(map(Path, sources)), tuple(labels), arrival)

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
            name: {"records": report.records, "vectors": report.vectors, "refused": dict(report.refused)}
            for name, report in result.reports.items()
        },
    }


def _value(value: float | None) -> str:
    return "null" if value is None else repr(value)


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
            f"a row, its label another; both stay for {stage.retention}. Accepted up to {stage.lateness} late."
            f"{''.join(f' {said}' for said in stage.bounds)}\n"
        )
    used = {feature.cost for stage in explanation.stages for feature in stage.features}
    for cost, meaning in costs.items():
        if cost in used:
            out.print(f"{cost}: {meaning}")


def _table(stage: "StageExplanation") -> Table:
    table = Table("feature", "definition", "null", "cost", title=f"Stage {stage.entity}", title_justify="left")
    for feature in stage.features:
        table.add_row(feature.name, feature.definition, feature.null, feature.cost)
    return table
