"""`tidemill simulate`: a scenario's raw records as JSON lines."""

import os
import sys
from typing import Annotated

import typer

from tidemill.scenarios import catalog

_LINES_AT_ONCE = 2_000


def simulate(
    scenario: Annotated[str, typer.Argument(help="Name of the scenario, such as fraud.")],
    days: Annotated[int, typer.Option(min=1, max=3_650, help="Days of stream time.")] = 1,
    seed: Annotated[int, typer.Option(min=0, max=1_000, help="Seed; for fraud, 0 gives the published data.")] = 0,
    labels: Annotated[
        bool, typer.Option("--labels", help="Write the labels (chargebacks) instead of the events.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Changes nothing: the output is JSON lines either way.")] = True,
) -> None:
    """Write a scenario's raw records to standard output, one JSON object a line, in order of time.

    The same arguments give the same lines on every machine.

    Example: tidemill simulate fraud --days 2 --seed 0 | head -3
    """
    chosen = catalog.get(scenario)
    records = chosen.labels(days, seed) if labels else chosen.events(days, seed)
    out = sys.stdout.buffer
    block: list[bytes] = []
    try:
        for record in records:
            block.append(record)
            if len(block) == _LINES_AT_ONCE:
                out.write(b"\n".join(block) + b"\n")
                block.clear()
        if block:
            out.write(b"\n".join(block) + b"\n")
        out.flush()
    except BrokenPipeError:
        # The reader (such as `head`) has enough. The interpreter would flush again at its end, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
