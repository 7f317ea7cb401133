"""`tidemill status`: how each stage of a running pipeline is doing."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tidemill import clock
from tidemill.cli.output import JsonFlag, console, write_json
from tidemill.cli.table import stage_table
from tidemill.errors import ConfigurationError
from tidemill.local.scrape import look, read_endpoints, statuses
from tidemill.local.supervisor import Endpoint

_BETWEEN_LOOKS_S = 1.0
_UNHEALTHY = 1


def status(
    data_dir: Annotated[Path, typer.Option(help="The folder that `tidemill up` was given.")] = Path("tidemill-data"),
    url: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Ask this service instead; may be given several times.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Show state, rate, lag, model, drift and DLQ of every stage. Takes a second, to measure rates.

    Exits 0 if all are ready, 1 if one is not, 2 if none is known.

    Example: tidemill status --data-dir tidemill-data
    """
    if url:
        endpoints = [Endpoint(address.rstrip("/").rpartition("//")[2], 0, 0, address.rstrip("/")) for address in url]
    else:
        endpoints = read_endpoints(data_dir / "logs")
    if not endpoints:
        raise ConfigurationError(
            f"No service has announced itself in {data_dir / 'logs'}.",
            hint="Start them with `tidemill up fraud`, name the folder with --data-dir, or services with --url.",
        )
    before = [look(endpoint) for endpoint in endpoints]
    clock.pause(_BETWEEN_LOOKS_S)
    rows = statuses(before, [look(endpoint) for endpoint in endpoints])
    if json:
        write_json({"healthy": all(row.healthy for row in rows), "stages": [asdict(row) for row in rows]})
    else:
        console().print(stage_table(rows))
    if not all(row.healthy for row in rows):
        raise typer.Exit(_UNHEALTHY)
