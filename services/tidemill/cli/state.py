"""`tidemill state`: what a stage remembers, read from its changelog while it runs."""

from collections.abc import Iterable, Iterator
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.table import Table

from tidemill.cli.app import group
from tidemill.cli.kernels import use_kernel_cache
from tidemill.cli.output import (
    BootstrapServers,
    JsonFlag,
    KafkaOptions,
    PipelineArgument,
    console,
    open_readers,
    say,
    utc,
    write_json,
)
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline

if TYPE_CHECKING:
    from tidemill.features.stateview import StateView

_ROW_GROUP = 100_000

app = group("What a stage remembers, read from its changelog; the stage may run meanwhile.")

Stage = Annotated[str, typer.Option(metavar="STAGE", help="An entity of the pipeline's stages, or outcomes.")]
Order = Annotated[
    Literal["key", "rows", "bytes", "newest"], typer.Option(help="List by key, or the largest (newest) first.")
]


@app.command("ls")
def list_keys(
    pipeline: PipelineArgument,
    stage: Stage,
    order: Order = "rows",
    limit: Annotated[int, typer.Option(min=1, help="Show so many keys.")] = 20,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """List a stage's keys with their rows, oldest and newest event time, and bytes in the changelog.

    Exits 6 if the state was written by another definition of the stage.

    Example: tidemill state ls fraud --stage customer --limit 5
    """
    view = _view(pipeline, stage, bootstrap_servers, kafka_options)
    keys: list[dict[str, Any]] = [
        {"partition": partition, **summary._asdict()} for partition, summary in view.summaries()
    ]
    keys.sort(key=itemgetter("key"))
    if order != "key":
        keys.sort(key=lambda key: key[order] or 0, reverse=True)
    total = {
        "keys": len(keys),
        "rows": sum(key["rows"] for key in keys),
        "bytes": sum(key["bytes"] or 0 for key in keys),
    }
    if json:
        write_json({"pipeline": view.pipeline, "stage": stage, **total, "listed": keys[:limit]})
        return
    table = Table("key", "partition", "rows", "oldest", "newest", "bytes", title=f"{total['keys']:,} keys of {stage}")
    for key in keys[:limit]:
        size = "" if key["bytes"] is None else f"{key['bytes']:,}"
        table.add_row(
            key["key"], str(key["partition"]), f"{key['rows']:,}", utc(key["oldest"]), utc(key["newest"]), size
        )
    console().print(table)
    typer.echo(f"{total['rows']:,} rows, {total['bytes']:,} bytes in the changelog")


@app.command("show")
def show_key(
    pipeline: PipelineArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `state ls` prints it; for outcomes, an event's id.")],
    stage: Stage,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Show every row of one key: event time, id hash, values in units, label.

    Example: tidemill state show fraud c-00042 --stage customer
    """
    view = _view(pipeline, stage, bootstrap_servers, kafka_options)
    rows = [{"partition": partition, **row} for partition, row in view.rows(key)]
    if not rows:
        raise ConfigurationError(
            f"the stage {stage} of {view.pipeline} holds no key {key!r}",
            hint="`tidemill state ls` lists keys; one is forgotten when nothing can look back to it any more.",
        )
    if json:
        write_json({"pipeline": view.pipeline, "stage": stage, "key": key, "rows": rows})
        return
    names = [name for name in view.holdings.columns if name != "key"]
    table = Table(*names, title=f"{len(rows):,} rows of {key}")
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in names))
    console().print(table)


@app.command("export")
def export_rows(
    pipeline: PipelineArgument,
    stage: Stage,
    to: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write; replaced if it is there.")],
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Write every row of a stage's state to a Parquet file, with its key and partition.

    Example: tidemill state export fraud --stage customer --to customer-state.parquet
    """
    view = _view(pipeline, stage, bootstrap_servers, kafka_options)
    from tidemill.features.core.holdings import ColumnType
    from tidemill.features.parquet import ParquetSink

    columns: dict[str, ColumnType] = {"partition": "integer", **view.holdings.columns}
    with ParquetSink(to, columns) as sink:
        rows = ({"partition": partition, **row} for partition, row in view.rows())
        for block in _blocks(rows):
            sink.write({name: [row[name] for row in block] for name in columns})
        sink.close({"tidemill.pipeline": view.pipeline, "tidemill.stage": stage})
    if json:
        write_json({"file": str(to), "rows": sink.rows})
    else:
        say(f"{sink.rows:,} rows in {to}")


def _view(pipeline: str, stage: str, bootstrap_servers: str | None, kafka_options: str | None) -> "StateView":
    use_kernel_cache()
    from tidemill.features.stateview import state_view

    loaded = load_pipeline(pipeline)
    readers = open_readers(bootstrap_servers, kafka_options)
    return state_view(loaded, stage, lambda topic, only: readers(topic, only=None if only is None else {only}), say)


def _blocks(rows: Iterator[dict[str, Any]]) -> Iterable[list[dict[str, Any]]]:
    while block := list(islice(rows, _ROW_GROUP)):
        yield block


def _cell(name: str, value: object) -> str:
    if value is None:
        return ""
    return utc(value) if name in ("event_time", "known_at") and isinstance(value, int) else str(value)
