"""`tidemill up`: the whole pipeline on this machine until Ctrl-C."""

import signal
from pathlib import Path
from typing import Annotated

import orjson
import typer

from tidemill import clock
from tidemill.cli.output import BootstrapServers, JsonFlag, PipelineArgument, say, write_json
from tidemill.cli.screen import RunScreen
from tidemill.errors import EnvironmentUnusable
from tidemill.local.scrape import Sample, statuses
from tidemill.local.stack import Stack, StackSettings
from tidemill.local.supervisor import ServiceCommand, Supervisor
from tidemill.runtime.kafka import TopicReader
from tidemill.runtime.topics import plan
from tidemill.scenarios import catalog

DEFAULT_DATA = Path("tidemill-data")
_TICK_S = 0.2
_LOOK_S = 1.0
_SAMPLE_TIMEOUT_S = 60.0


def up(
    pipeline: PipelineArgument,
    data_dir: Annotated[Path, typer.Option(help="Topics, models and logs are kept here.")] = DEFAULT_DATA,
    producer: Annotated[bool, typer.Option("--producer/--no-producer", help="Simulate an endless producer.")] = True,
    rate: Annotated[float, typer.Option(min=0.1, max=100_000, help="Simulated events per second.")] = 20.0,
    seed: Annotated[int, typer.Option(min=0, max=1_000)] = 0,
    bootstrap_servers: BootstrapServers = None,
    json: JsonFlag = False,
) -> None:
    """Start a local Kafka, the topics, the five services and a simulated producer; Ctrl-C drains and stops them.

    Prints the services' URLs, the topics and one sample prediction, then shows a live table on a terminal.

    Example: tidemill up fraud --rate 50
    """
    folder = data_dir.absolute()
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    with RunScreen() as screen:
        stack = Stack(StackSettings(pipeline, folder, bootstrap_servers, require_empty=False), screen.message)
        with stack:
            stack.wait_ready()
            source = Supervisor(folder / "logs")
            if producer:
                source.start([ServiceCommand("producer", _producer_command(stack, seed, rate))])
            sample = _sample_prediction(stack) if producer else None
            _announce(stack, sample, json)
            signal.signal(signal.SIGINT, stop)
            signal.signal(signal.SIGTERM, stop)
            before: list[Sample] = []
            looked = 0.0
            while not stopping:
                for ended in [*stack.watch(), *source.poll()]:
                    if ended.restart_in_s is None:
                        raise EnvironmentUnusable(
                            f"{ended.name} stopped: {ended.reason}", hint=f"Log: {ended.log_file}."
                        )
                    screen.message(f"{ended.name} stopped ({ended.reason}) and starts again")
                if clock.monotonic() - looked >= _LOOK_S:
                    looked = clock.monotonic()
                    now = stack.samples()
                    screen.update(statuses(before, now), f"Kafka at {stack.bootstrap_servers}; Ctrl-C stops")
                    before = now
                clock.pause(_TICK_S)
            screen.message("Draining")
            source.stop()
    say(f"Stopped. Everything is kept in {folder}")


def _producer_command(stack: Stack, seed: int, rate: float) -> list[str]:
    options: dict[str, str | int | float | bool] = {
        "bootstrap_servers": stack.bootstrap_servers,
        "pipeline": stack.settings.pipeline,
        "seed": seed,
        "rate": rate,
        "endless": True,
        "resume": True,
    }
    return catalog.get(stack.pipeline.scenario or "").producer_command(options)


def _sample_prediction(stack: Stack) -> object:
    """The first prediction there is, or None after a minute without one."""
    reader = TopicReader(stack.bootstrap_servers, [stack.pipeline.topic("predictions")])
    deadline = clock.monotonic() + _SAMPLE_TIMEOUT_S
    try:
        while clock.monotonic() < deadline:
            for record in reader.poll(1, 0.5):
                return orjson.loads(record.value or b"null")
    finally:
        reader.close()
    return None


def _announce(stack: Stack, sample: object, json: bool) -> None:
    urls = {endpoint.service: endpoint.url for endpoint in stack.endpoints()}
    topics = [topic.name for topic in plan(stack.pipeline)]
    if json:
        answer = {"bootstrap_servers": stack.bootstrap_servers, "urls": urls, "topics": topics, "prediction": sample}
        write_json({**answer, "data_dir": str(stack.settings.data_dir)})
        return
    typer.echo(f"Kafka    {stack.bootstrap_servers}")
    for service, url in urls.items():
        typer.echo(f"{service:<20} {url}   (/livez /readyz /metrics)")
    typer.echo("topics   " + "  ".join(topics))
    if sample is not None:
        typer.echo(f"sample   {orjson.dumps(sample).decode()}")
