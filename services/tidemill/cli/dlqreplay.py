"""`tidemill dlq replay`: puts dead letters back where they came from, each once."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from tidemill.cli.counter import RecordCounter
from tidemill.cli.interruption import interrupted_by_sigterm
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
from tidemill.features.offline.bounds import parse_bound
from tidemill.runtime.letters import Selection, parse_positions
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.redelivery import Order, Tally, deliver, look
from tidemill.runtime.reinjection import HELD_BACK, MARKERS, Fate, Places

_LEFT_BEHIND = 1
_STDIN = Path("-")


def replay_dead_letters(
    pipeline: PipelineArgument,
    code: Annotated[
        list[str] | None, typer.Option(metavar="CODE", help="Only this reason, such as out_of_range; repeatable.")
    ] = None,
    stage: Annotated[
        list[str] | None, typer.Option(metavar="SERVICE", help="Only what this stage refused, as `ls` prints it.")
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(metavar="TOPIC", help="Only records of this topic; repeatable.")
    ] = None,
    position: Annotated[
        list[str] | None, typer.Option(metavar="PARTITION:OFFSET", help="Only this letter; repeatable.")
    ] = None,
    from_: Annotated[
        str | None, typer.Option("--from", metavar="TIME", help="Only records of this timestamp or later.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only records before this timestamp.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Put back at most so many; the same again takes the next.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0.1, max=1_000_000, help="At most so many a second, so that live records go on.")
    ] = 1_000.0,
    max_attempts: Annotated[
        int, typer.Option(min=1, max=1_000, help="Leave a record that was put back so often and died each time.")
    ] = 3,
    value_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put the one letter of --position back with this value; - reads it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it without asking. Off a terminal, and with --json, nothing is done else.")
    ] = False,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Put dead letters back where they came from, byte for byte, each exactly once.

    Repair the cause first: the pipeline file, the mapping, the model. A record goes back into its own partition with
    its key, value, timestamp and headers; the header tidemill.attempt counts how often, tidemill.for names the stage
    that refused it, and other stages that read the same topic leave it alone. Programs of yours that read a source
    topic see the record a second time.

    Records and their markers (topic dlq-replays) are written in transactions. A letter that was put back is done: the
    same command again repeats nothing, also after a crash, and when two run at once the later one goes on alone. What
    dies again is a new letter.

    Event time has moved on meanwhile. What ingest refused and now accepts may be late for the feature stage, which then
    refuses it as late; windows that were computed without it stay as they are. A record of an inner topic, such as
    features, is answered as if it came now.

    Exits 1 if letters that were asked for are left behind: no stage reads their topic any more, or --max-attempts.

    Repair one letter: tidemill dlq show fraud 2:17 --raw > record.bin; edit record.bin; tidemill dlq replay fraud
    --position 2:17 --value-file record.bin --yes

    Example: tidemill dlq replay fraud --code out_of_range --from 2018-07-25 --rate 200
    """
    selection = _selection(code, stage, topic, position, from_, until)
    repaired = None if value_file is None else _repaired(value_file, selection)
    from tidemill.runtime.kafka import Admin, LetterDesk, RedeliveryProducer

    loaded = load_pipeline(pipeline)
    servers, options = require_servers(bootstrap_servers), parse_kafka_options(kafka_options)
    dlq_topic, marker_topic = loaded.topic("dlq"), loaded.topic(MARKERS)
    desk = LetterDesk(servers, options, dlq_topic, marker_topic)
    places = Places.of(loaded, Admin(servers, options).partition_counts())
    order = Order(selection, places, max_attempts, limit, rate, repaired)
    expected = look(desk, order)
    if value_file is not None and not expected.fates:
        raise ConfigurationError(f"There is no dead letter at {position}.", hint="`tidemill dlq ls` shows positions.")
    dry = dry_run or not expected.replayed or not (yes or _agreed(expected, json))
    if dry:
        _report(expected, dry=True, json=json)
    else:
        with interrupted_by_sigterm(), RecordCounter() as counter:
            writer = RedeliveryProducer(servers, options, f"{loaded.name}-{MARKERS}")
            try:
                done = deliver(desk, writer, order, lambda letters: counter("replay", letters))
            except KeyboardInterrupt:
                say("interrupted; what was put back is not put back again, so the same command does the rest")
                raise
            finally:
                writer.close()
        _report(done, dry=False, json=json)
        expected = done
    if dry and expected.replayed:
        say(f"nothing was written; {expected.replayed:,} would be put back with --yes")
    if expected.in_need:
        raise typer.Exit(_LEFT_BEHIND)


def _selection(
    code: list[str] | None,
    stage: list[str] | None,
    topic: list[str] | None,
    position: list[str] | None,
    from_: str | None,
    until: str | None,
) -> Selection:
    try:
        positions = parse_positions(position or ())
    except ValueError as error:
        raise ConfigurationError(
            f"--position: {error}", hint="Write it as 2:17, partition and offset, as `tidemill dlq ls` prints it."
        ) from None
    since, before = _time(from_, "--from"), _time(until, "--until")
    if since is not None and before is not None and since >= before:
        raise ConfigurationError("--from is not before --until", hint="--until is exclusive.")
    return Selection(
        frozenset(code or ()), frozenset(stage or ()), frozenset(topic or ()), positions, since, before
    )  # fmt: skip


def _time(text: str | None, option: str) -> int | None:
    if text is None:
        return None
    bound = parse_bound(text, option)
    if bound.time is None:
        raise ConfigurationError(f"{option} is a time", hint="Write it as 2018-07-25, or in milliseconds.")
    return bound.time


def _repaired(file: Path, selection: Selection) -> bytes:
    if len(selection.positions) != 1:
        raise ConfigurationError(
            "--value-file replaces the value of one letter", hint="Name it with one --position PARTITION:OFFSET."
        )
    if file == _STDIN:
        return sys.stdin.buffer.read()
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"--value-file {file}: {error.strerror}", hint="Name a file, or - for a pipe."
        ) from None


def _agreed(expected: Tally, json: bool) -> bool:
    """Asks where somebody is there to answer; elsewhere nothing is done."""
    if json or not (sys.stdout.isatty() and sys.stdin.isatty()):
        return False
    _show(expected, dry=True)
    return typer.confirm(f"Put {expected.replayed:,} dead letters back?", err=True)


def _report(tally: Tally, *, dry: bool, json: bool) -> None:
    if not json:
        _show(tally, dry=dry)
        return
    write_json(
        {
            "dry_run": dry,
            **{fate.value: tally.fates[fate] for fate in Fate},
            "unreadable": tally.unreadable,
            "by_code": +tally.codes,
            "by_topic": +tally.topics,
            "held_back": [{"position": str(position), "why": fate.value} for position, fate in tally.held_back],
        }
    )


def _show(tally: Tally, *, dry: bool) -> None:
    title = f"{tally.replayed:,} dead letters {'to put back' if dry else 'put back'}"
    table = Table("", "letters", title=title)
    for name, count in [*sorted((+tally.codes).items()), *sorted((+tally.topics).items())]:
        table.add_row(name, f"{count:,}")
    if tally.replayed:
        console().print(table)
    else:
        typer.echo(title)
    if before := tally.fates[Fate.REPLAYED_BEFORE]:
        typer.echo(f"{before:,} were put back before and are left alone")
    if tally.unreadable:
        typer.echo(f"{tally.unreadable:,} records of the topic do not tell where they came from, and are left alone")
    for fate, meaning in HELD_BACK.items():
        if count := tally.fates[fate]:
            named = [str(position) for position, why in tally.held_back if why is fate]
            more = f" and {count - len(named):,} more" if count > len(named) else ""
            typer.echo(f"{count:,} held back ({fate.value}): {meaning}: {', '.join(named)}{more}")
