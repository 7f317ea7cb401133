"""The state of a new feature-set version, made from history while the version that it replaces goes on.

What is written is what the new version's stages would hold had they read the input themselves up to a position that the
replaced version has passed: changelog entries of every stage and the offsets to go on from, in one transaction. The new
version reads on from there; what the replaced one has answered by then it takes for its rows only.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError
from tidemill.features.offline.backfill import Say
from tidemill.features.offline.bounds import Bound
from tidemill.features.offline.chain import Chain
from tidemill.features.offline.spill import spill_folder
from tidemill.features.offline.topicinput import Connection, topic_input
from tidemill.features.process import service_spec
from tidemill.runtime.kafka import Admin, abort_seeding, group_offsets, seed_groups
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import OutRecord
from tidemill.runtime.spec import ServiceSpec
from tidemill.runtime.succession import furthest


@dataclass(frozen=True, slots=True)
class Prepared:
    """What was written. `position` is exclusive, by `role/partition`; the counts are by stage.

    Vectors before the event time `whole_from` would lack what has expired from the topics (0: none, None: all);
    `newest` is how far the input went.
    """

    version: int
    replaces: int
    position: Mapping[str, int]
    records_read: Mapping[str, int]
    state_records: Mapping[str, int]
    whole_from: int | None
    newest: int


def prepare(
    pipeline: Pipeline, connection: Connection, say: Say, workers: int = 1, temp_dir: Path | None = None
) -> Prepared:
    """Blocks until the new version's state is committed.

    Raises ConfigurationError where nothing is replaced, the replaced version never ran, a topic is missing, or the new
    version has begun already.
    """
    features = pipeline.features
    specs = [service_spec(pipeline, stage.entity) for stage in features.stages]
    if features.replaces is None:
        raise ConfigurationError(
            f"feature-set version {features.version} of {pipeline.name} replaces no other",
            hint="Raise features.version and name the one that runs now with features.replaces.",
        )
    if features.state == "memory":
        raise ConfigurationError("with features.state: memory there is no state to prepare", hint="Start it as it is.")
    if features.summaries_behind(-1):
        raise ConfigurationError(
            "windows of summaries cannot be prepared: they close as records come",
            hint=f"Start version {features.version} as it is: it reads the whole history first, and writes nothing "
            f"that version {features.replaces} has written.",
        )
    admin = Admin(connection.bootstrap_servers, connection.options)
    counts = admin.partition_counts()
    wanted = {at.name for spec in specs for at in spec.inputs} | {str(spec.state_topic) for spec in specs}
    if missing := sorted(wanted - counts.keys()):
        raise ConfigurationError(
            f"topics are missing: {', '.join(missing)}", hint="`tidemill topics apply` with this file creates them."
        )
    transactional_id = f"{specs[0].group}-prepare"
    abort_seeding(connection.bootstrap_servers, connection.options, transactional_id)
    for spec in specs:
        if admin.group_members(spec.group) or _offsets_of(connection, spec.group, spec, counts):
            raise ConfigurationError(
                f"version {features.version} has begun already: group {spec.group} has members or offsets",
                hint="It reads on by itself; to prepare it anew, stop it and delete its groups and state topics.",
            )
    groups = specs[0].predecessors
    end = _position(
        pipeline, connection, furthest({group: _offsets_of(connection, group, specs[0], counts) for group in groups})
    )
    source = topic_input(pipeline, connection, None, Bound(None, end))
    with spill_folder("prepare", temp_dir) as folder:
        partitions = [counts[spec.inputs[0].name] for spec in specs]
        chain = Chain(pipeline, len(specs) - 1, partitions, folder, workers, keep_state=True)
        reports, _ = chain.run(source, say)
        written = dict.fromkeys((stage.entity for stage in features.stages), 0)
        seed_groups(
            connection.bootstrap_servers,
            connection.options,
            transactional_id,
            _entries(chain, specs, written),
            {spec.group: _offsets(pipeline, spec, counts, end) for spec in specs},
        )
    read = {stage.entity: report.records for stage, report in zip(features.stages, reports, strict=True)}
    newest = reports[0].newest
    return Prepared(features.version, features.replaces, end, read, written, source.whole_from, newest)


def _offsets_of(
    connection: Connection, group: str, spec: ServiceSpec, counts: Mapping[str, int]
) -> dict[Partition, int]:
    inputs = [(topic.name, number) for topic in spec.inputs for number in range(counts[topic.name])]
    return group_offsets(connection.bootstrap_servers, connection.options, group, inputs)


def _position(pipeline: Pipeline, connection: Connection, committed: Mapping[Partition, int]) -> dict[str, int]:
    """Where the replaced versions stand; the beginning of a partition that they have read nothing of."""
    version = pipeline.features.replaces
    topics = {topic: role for role, topic in pipeline.first_topics().items()}
    if not committed:
        raise ConfigurationError(
            f"no version up to {version} has an offset for {' or '.join(topics)}: the version to replace never ran",
            hint="Check features.replaces; where nothing is to be taken over, start the new version without it.",
        )
    with closing(connection.reader(list(topics))) as reader:
        marks = reader.watermarks()
    holding = {topic for (topic, _), (low, high) in marks.items() if low < high}
    if unread := sorted(holding - {topic for topic, _ in committed}):
        raise ConfigurationError(
            f"no version up to {version} ever read {', '.join(unread)}: how much of it belongs before where version "
            f"{version} stands is not known",
            hint="Start the new version as it is: it reads the whole history first, and writes nothing twice.",
        )
    if gone := sorted(at for at, offset in committed.items() if offset < marks[at].low):
        at, low = gone[0], marks[gone[0]].low
        raise ConfigurationError(
            f"version {version} stands at {topics[at[0]]}/{at[1]}={committed[at]}, but the log begins at {low}",
            hint=f"Where its writers use transactions, that may be a marker and no record. Stop version {version} in "
            "good order and start it again: it commits how far it has read, markers included. If it refuses to start, "
            "its message says how to go on.",
        )
    return {f"{topics[at[0]]}/{at[1]}": committed.get(at, low) for at, (low, _) in sorted(marks.items())}


def _offsets(
    pipeline: Pipeline, spec: ServiceSpec, counts: Mapping[str, int], end: Mapping[str, int]
) -> dict[Partition, int]:
    """Where the group goes on. What later stages read begins with the new version, so they start at its beginning."""
    roles = {topic: role for role, topic in pipeline.first_topics().items()}
    return {
        (topic.name, number): end.get(f"{roles.get(topic.name)}/{number}", 0)
        for topic in spec.inputs
        for number in range(counts[topic.name])
    }


def _entries(chain: Chain, specs: list[ServiceSpec], written: dict[str, int]) -> Iterator[OutRecord]:
    for index, (spec, entity) in enumerate(zip(specs, written, strict=True)):
        for item in chain.state(index):
            written[entity] += 1
            yield OutRecord(str(spec.state_topic), item.key, item.value, item.timestamp, item.partition)
