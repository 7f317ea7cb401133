"""`tidemill demo`: the whole loop once, on a seeded stream, then an audit of it."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.output import BootstrapServers, JsonFlag, PipelineArgument, write_json
from tidemill.cli.screen import RunScreen
from tidemill.cli.summary import print_summary
from tidemill.local.demo import Demo, DemoSettings, refuse_short
from tidemill.local.stack import Stack, StackSettings
from tidemill.runtime.pipelinefile import load_pipeline

_FAILED = 1


def demo(
    pipeline: PipelineArgument,
    seed: Annotated[int, typer.Option(min=0, max=1_000, help="0 streams the published data.")] = 0,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="Days of stream time.")] = 100,
    days_per_minute: Annotated[float, typer.Option(min=0.001, max=1_000, help="Speed of stream time.")] = 25.0,
    customers: Annotated[int, typer.Option(min=1, max=200_000)] = 5_000,
    terminals: Annotated[int, typer.Option(min=2, max=400_000)] = 10_000,
    bad_share: Annotated[float, typer.Option(min=0, max=0.5, help="Bad records added per valid event.")] = 0.005,
    keep_data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Keep topics, models and logs in this new folder.")
    ] = None,
    bootstrap_servers: BootstrapServers = None,
    json: JsonFlag = False,
) -> None:
    """Stream a scenario through the whole system once: score, notice drift, retrain, promote; then audit it.

    Starts a local Kafka and all services, and stops them at the end. Exits 0 only if every event has exactly one
    prediction and a model that an alarm asked for was promoted over an earlier one.

    Example: tidemill demo fraud --days 100 --days-per-minute 25 --json
    """
    settings = DemoSettings(seed, days, days_per_minute, customers, terminals, bad_share)
    refuse_short(load_pipeline(pipeline), settings)
    with RunScreen() as screen, _folder(keep_data, screen) as folder:
        stack = Stack(StackSettings(pipeline, folder, bootstrap_servers), screen.message)
        with stack:
            summary = Demo(stack, settings, screen).run()
        screen.stop()
        if json:
            write_json(summary)
        else:
            print_summary(summary)
        for problem in summary["problems"]:
            screen.message(f"not as it should be: {problem}")
        if summary["problems"]:
            raise typer.Exit(_FAILED)


@contextmanager
def _folder(kept: Path | None, screen: RunScreen) -> Iterator[Path]:
    """The folder of this run; a temporary one is removed, unless the run failed and its logs may explain why."""
    if kept is not None:
        yield kept.absolute()
        screen.message(f"Everything is kept in {kept}")
        return
    folder = Path(tempfile.mkdtemp(prefix="tidemill-demo-"))
    finished = False
    try:
        yield folder
        finished = True
    finally:
        if finished:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            screen.message(f"The logs of this run are in {folder / 'logs'}")
