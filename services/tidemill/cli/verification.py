"""`tidemill features verify`: whether served vectors can be computed again, once or for as long as it runs.

numba is imported by the command, once it is settled where compiled kernels are kept.
"""

import os
import signal
from dataclasses import asdict
from threading import Event
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

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
from tidemill.domain.durations import parse_duration_ms
from tidemill.errors import ConfigurationError
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.pipelinefile import load_pipeline

if TYPE_CHECKING:
    from tidemill.features.offline.backfill import Request
    from tidemill.features.offline.topicinput import Connection
    from tidemill.features.offline.verification import Sample, Verdict

_MISMATCH = 1
_SHOWN_MISMATCHES = 20


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
    every: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Look again so often, such as 10m, until stopped, and serve /metrics."),
    ] = None,
    http_port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Of /metrics with --every; 0 takes a free one.")
    ] = 0,
    workers: Workers = None,
    temp_dir: TempDir = None,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Compute a seeded sample of served vectors again, from events and labels, and list what differs.

    Exits 1 if any value differs in any bit, or there is no vector of this feature set that can be repeated: none was
    served, or the topics have lost what they look back to. With --every it goes on with what is served from then on,
    and the counts are metrics.

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
    request = Request(loaded, workers=workers or os.cpu_count() or 1, temp_dir=temp_dir)
    if every is not None:
        raise typer.Exit(_MISMATCH if _watch(request, wanted, connection, every, http_port, json) else 0)
    with interrupted_by_sigterm(), RecordCounter() as counter:
        verdict = verify(request, wanted, connection, counter)
    _tell(verdict, loaded.name, wanted.topic, json)
    if verdict.mismatches or not verdict.compared:
        raise typer.Exit(_MISMATCH)


def _watch(
    request: "Request", sample: "Sample", connection: "Connection", every: str, http_port: int, json: bool
) -> int:
    """Until a signal. Returns how many vectors differed."""
    from tidemill.features.metrics import VERIFICATION
    from tidemill.features.offline.watch import keep_verifying
    from tidemill.runtime.health import Health, serve_http
    from tidemill.runtime.metrics import Metrics

    try:
        every_s = parse_duration_ms(every) / 1_000
    except ValueError as error:
        raise ConfigurationError(f"--every: {error}", hint="Write it as 30s, 10m or 1h.") from None
    if every_s < 1:
        raise ConfigurationError(f"--every: {every} is shorter than 1s", hint="Write it as 30s, 10m or 1h.")
    name = request.pipeline.name
    config = RuntimeConfig(bootstrap_servers=connection.bootstrap_servers, pipeline=name, http_port=http_port)
    health = Health("verification", Metrics({"pipeline": name, "service": "verification"}, VERIFICATION))
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = serve_http(config, health)
    say(f"metrics at {server.url}/metrics")
    try:
        with RecordCounter() as counter:
            return keep_verifying(
                request,
                sample,
                connection,
                every_s,
                health,
                counter,
                lambda verdict: _tell(verdict, name, sample.topic, json),
                stop,
            )
    finally:
        server.close()


def _tell(verdict: "Verdict", pipeline: str, topic: str, json: bool) -> None:
    if json:
        report = {**asdict(verdict), "mismatches": [at._asdict() for at in verdict.mismatches]}
        del report["ends"]
        write_json({"pipeline": pipeline, "topic": topic, "differing_vectors": verdict.differing, **report})
    else:
        table = Table("id", "event_time", "feature", "served", "recomputed")
        for at in verdict.mismatches[:_SHOWN_MISMATCHES]:
            feature = "the whole vector" if at.feature is None else at.feature
            table.add_row(at.id, str(at.event_time), feature, _value(at.served), _value(at.recomputed))
        if verdict.mismatches:
            console().print(table)
        typer.echo(
            f"{verdict.compared:,} of {verdict.served:,} served vectors computed again, {verdict.differing:,} differ"
        )
        if verdict.unrepeatable:
            say(f"{verdict.unrepeatable:,} cannot be repeated: the topics have lost what they look back to")
        if verdict.other:
            say(f"{verdict.other:,} vectors of another feature set were left out")


def _value(value: float | None) -> str:
    return "null" if value is None else repr(value)
