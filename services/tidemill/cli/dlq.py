"""`tidemill dlq`: what was refused, why, and the original bytes; and the way back."""

import sys
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import typer
from rich.table import Table

from tidemill.cli.app import group
from tidemill.cli.dlqreplay import replay_dead_letters
from tidemill.cli.output import BootstrapServers, JsonFlag, PipelineArgument, console, require_servers, write_json
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

_PREFIX = "__connect.errors."

app = group("The dead-letter topic: what was refused, with its reasons and its original bytes, and the way back.")
app.command("replay")(replay_dead_letters)


@app.command("ls")
def list_dead_letters(
    pipeline: PipelineArgument,
    bootstrap_servers: BootstrapServers = None,
    code: Annotated[str | None, typer.Option(help="Only this reason, such as not_json.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Show the newest so many.")] = 20,
    json: JsonFlag = False,
) -> None:
    """List dead letters, newest last, and how many there are of each reason.

    Example: tidemill dlq ls fraud --bootstrap-servers localhost:9092 --code late
    """
    letters = [letter for letter in _letters(pipeline, bootstrap_servers) if code in (None, letter["code"])]
    counts = Counter(letter["code"] for letter in letters)
    shown = letters[-limit:]
    if json:
        write_json({"total": len(letters), "by_code": dict(counts), "records": [_brief(letter) for letter in shown]})
        return
    table = Table("position", "code", "from", "stage", "message", title=f"{len(letters)} dead letters")
    for letter in shown:
        table.add_row(letter["position"], letter["code"], letter["source"], letter["stage"], letter["message"])
    console().print(table)
    for name, count in counts.most_common():
        typer.echo(f"{count:>8,}  {name}")


@app.command("show")
def show_dead_letter(
    pipeline: PipelineArgument,
    position: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="As `dlq ls` prints it.")],
    bootstrap_servers: BootstrapServers = None,
    raw: Annotated[bool, typer.Option("--raw", help="Write the original bytes and nothing else.")] = False,
    json: JsonFlag = False,
) -> None:
    """Show one dead letter with its headers and its original bytes.

    Example: tidemill dlq show fraud 2:17 --raw > record.bin
    """
    for letter in _letters(pipeline, bootstrap_servers):
        if letter["position"] == position:
            break
    else:
        raise ConfigurationError(f"There is no dead letter at {position}.", hint="`tidemill dlq ls` shows positions.")
    value: bytes = letter["value"]
    if raw:
        sys.stdout.buffer.write(value)
        return
    if json:
        write_json({**_brief(letter), "value": value.decode("utf-8", "backslashreplace")})
        return
    for name in ("position", "code", "message", "source", "stage", "key"):
        typer.echo(f"{name:<9} {letter[name]}")
    typer.echo(f"value     {value.decode('utf-8', 'backslashreplace')}")


def _letters(pipeline: str, bootstrap_servers: str | None) -> Iterator[dict[str, Any]]:
    """Every dead letter up to the topic's end at this moment."""
    from tidemill.runtime.kafka import TopicReader

    topic = load_pipeline(pipeline).topic("dlq")
    reader = TopicReader(require_servers(bootstrap_servers), [topic])
    try:
        while True:
            records = reader.poll(1_000, 0.5)
            yield from (_describe(record) for record in records)
            if not records and reader.at_end():
                return
    finally:
        reader.close()


def _describe(record: Record) -> dict[str, Any]:
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers}
    origin = (headers.get(f"{_PREFIX}{part}", "?") for part in ("topic", "partition", "offset"))
    return {
        "position": f"{record.partition}:{record.offset}",
        "code": headers.get("tidemill.code", "?"),
        "message": headers.get(f"{_PREFIX}exception.message", ""),
        "source": ":".join(origin),
        "stage": headers.get(f"{_PREFIX}stage", "?"),
        "key": (record.key or b"").decode("utf-8", "backslashreplace"),
        "timestamp": record.timestamp,
        "headers": headers,
        "value": record.value or b"",
    }


def _brief(letter: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in letter.items() if name != "value"}
