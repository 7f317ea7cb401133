"""Where `tidemill features backfill` reads from, as its options say, and what of that is refused."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tidemill.cli.counter import RecordCounter
from tidemill.cli.output import parse_kafka_options, require_servers
from tidemill.errors import ConfigurationError

if TYPE_CHECKING:
    from tidemill.features.offline.backfill import Request, Result

KAFKA = "kafka"


class BackfillFiles(NamedTuple):
    """What the options say about input."""

    sources: list[str]
    labels: list[Path]
    no_labels: bool
    streams: list[str]
    arrival: str | None

    def by_stream(self) -> dict[str, tuple[Path, ...]]:
        found: dict[str, tuple[Path, ...]] = {}
        for text in self.streams:
            name, equals, path = text.partition("=")
            if not (name and equals and path):
                raise ConfigurationError(f"--stream: {text!r} is not NAME=FILE", hint="Such as limits=limits.parquet.")
            found[name] = (*found.get(name, ()), Path(path))
        return found

    @property
    def paths(self) -> list[Path]:
        sources = [Path(source) for source in self.sources if source != KAFKA]
        return [*sources, *self.labels, *(path for paths in self.by_stream().values() for path in paths)]


def refuse_overwriting(out: Path, given: BackfillFiles) -> None:
    if same := [path for path in given.paths if path.resolve() == out.resolve()]:
        raise ConfigurationError(
            f"--out is {same[0]}, which is read", hint="Name another file: what is read must stay as it is."
        )


def _refuse_unknown_labels(request: "Request", given: BackfillFiles) -> None:
    """Rates without labels are 0, which no one can tell from rates of harmless events."""
    stages = request.pipeline.features.stages[: request.last + 1]
    rates = [feature.name for stage in stages for feature in stage.features if feature.aggregate == "label_rate"]
    if rates and not (given.labels or given.no_labels):
        raise ConfigurationError(
            f"{rates[0]} is a rate of labels, and no file of labels is given",
            hint="Add --labels FILE; or --no-labels, and it is computed as if no label had come.",
        )
    if given.labels and given.no_labels:
        raise ConfigurationError("--labels and --no-labels are given", hint="Say one of the two.")


def begin_backfill(request: "Request", given: BackfillFiles, counter: RecordCounter) -> Any:
    """A function of the Kafka options that begins the backfill."""
    from tidemill.features.offline.backfill import backfill_files, backfill_topics
    from tidemill.features.offline.topicinput import Connection

    if KAFKA in given.sources:
        if given != BackfillFiles([KAFKA], [], False, [], None):
            raise ConfigurationError(
                "--input kafka goes with no file, --labels, --no-labels, --stream or --arrival",
                hint="Topics have the labels, the streams and the order.",
            )

        def from_kafka(servers: str | None, options: str | None) -> AbstractContextManager["Result"]:
            connection = Connection(require_servers(servers), parse_kafka_options(options))
            return backfill_topics(request, connection, counter)

        return from_kafka
    if given.arrival is None:
        raise ConfigurationError(
            "files do not say in which order their events arrived",
            hint="Name the column with --arrival COLUMN, or say --arrival event_time if they arrived in time order.",
        )
    _refuse_unknown_labels(request, given)
    from tidemill.features.offline.fileinput import Files, split

    files = Files(tuple(map(Path, given.sources)), tuple(given.labels), given.arrival, given.by_stream())

    def from_files(_: str | None, __: str | None) -> AbstractContextManager["Result"]:
        bounds = (request.start, request.end)
        return backfill_files(
            request, lambda count, folder: split(request.pipeline, files, count, folder, bounds), counter
        )

    return from_files
