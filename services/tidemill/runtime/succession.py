"""One stage in the place of others: it waits until they have stopped, marks their groups, and learns how far they came.

The mark is the metadata of a replaced group's committed offsets. Kafka takes it only while the group has no member, and
a stage looks for it before it joins and again with each assignment: of a replaced stage and its successor, one goes on.
A group that has no offset cannot be marked.
"""

from collections.abc import Iterable, Mapping
from threading import Event

from tidemill import clock
from tidemill.errors import ConfigurationError
from tidemill.runtime.config import RuntimeConfig
from tidemill.runtime.health import Health
from tidemill.runtime.kafka import Admin, check_not_replaced, group_offsets, mark_replaced
from tidemill.runtime.logs import get_logger
from tidemill.runtime.ports import Partition
from tidemill.runtime.spec import ServiceSpec

_ASK_EVERY_S = 0.5
_TELL_EVERY_S = 10.0
_log = get_logger("succession")


def check_still_current(config: RuntimeConfig, spec: ServiceSpec) -> None:
    """Raises ConfigurationError where another group has taken this stage's place."""
    check_not_replaced(config.bootstrap_servers, config.kafka_options, spec.group, _inputs(config, spec))


def take_place(config: RuntimeConfig, spec: ServiceSpec, health: Health, stop: Event) -> dict[Partition, int]:
    """Block until no process is a member of a predecessor's group, or `stop` is set; returns where they stopped.

    Raises ConfigurationError where there is nothing to go on from: they never ran, and nor did this stage.
    """
    partitions = _inputs(config, spec)
    while not stop.is_set():
        wait_for_groups_to_end(config, spec.predecessors, health, stop)
        found = offsets_of_groups(config.bootstrap_servers, config.kafka_options, spec.predecessors, partitions)
        # Asked only where it decides: a process that was killed in a transaction would wait for that to time out.
        if not any(found.values()) and not group_offsets(
            config.bootstrap_servers, config.kafka_options, spec.group, partitions
        ):
            raise ConfigurationError(
                f"{spec.group} is to replace a version that never ran: {_none_of(spec.predecessors)}",
                hint="check features.replaces; where there is nothing to replace, take it out of the file",
            )
        if all(_mark(config, spec, group, offsets) for group, offsets in found.items()):
            return furthest(found)
        stop.wait(_ASK_EVERY_S)
    return {}


def offsets_of_groups(
    bootstrap_servers: str, options: Mapping[str, str], groups: Iterable[str], partitions: list[Partition]
) -> dict[str, dict[Partition, int]]:
    """Committed offsets by group; partitions without one are left out."""
    return {group: group_offsets(bootstrap_servers, options, group, partitions) for group in groups}


def furthest(offsets: Mapping[str, Mapping[Partition, int]]) -> dict[Partition, int]:
    """The largest offset a partition. All before it was answered: a version writes nothing only for what those that it
    replaced have answered."""
    largest: dict[Partition, int] = {}
    for of_group in offsets.values():
        for at, offset in of_group.items():
            largest[at] = max(offset, largest.get(at, offset))
    return largest


def wait_for_groups_to_end(config: RuntimeConfig, groups: Iterable[str], health: Health, stop: Event) -> None:
    """Return once no process is a member of any of `groups`, or `stop` is set. Says what it waits for."""
    admin = Admin(config.bootstrap_servers, config.kafka_options)
    told_at = float("-inf")
    for group in groups:
        while not stop.is_set() and (members := admin.group_members(group)):
            health.beat()
            health.set_ready(False, f"waiting for {group} to be stopped")
            if clock.monotonic() - told_at >= _TELL_EVERY_S:
                told_at = clock.monotonic()
                _log.info(
                    "waiting for the replaced version", group=group, members=members, next_step="stop its processes"
                )
            stop.wait(_ASK_EVERY_S)
        health.beat()


def _mark(config: RuntimeConfig, spec: ServiceSpec, group: str, offsets: Mapping[Partition, int]) -> bool:
    """False where the group has a member again."""
    return not offsets or mark_replaced(config.bootstrap_servers, config.kafka_options, group, spec.group, offsets)


def _inputs(config: RuntimeConfig, spec: ServiceSpec) -> list[Partition]:
    counts = Admin(config.bootstrap_servers, config.kafka_options).partition_counts()
    return [(topic.name, number) for topic in spec.inputs for number in range(counts[topic.name])]


def _none_of(groups: tuple[str, ...]) -> str:
    return f"{groups[0]} has no offset" if len(groups) == 1 else f"none of {', '.join(groups)} has an offset"
