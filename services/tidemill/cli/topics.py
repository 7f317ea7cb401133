"""`tidemill topics`: the topics a pipeline needs, and making a broker have them."""

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.table import Table

from tidemill.cli.app import group
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
from tidemill.runtime import topics
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.topics import Action, AddPartitions, AlterConfig, Conflict, Create, TopicAdmin, TopicDefinition

_CONFLICT = 1

app = group("The topics that a pipeline needs: show them, or make a broker have them.")


@app.command("plan")
def show_plan(
    pipeline: PipelineArgument,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    json: JsonFlag = False,
) -> None:
    """Show a pipeline's topics; with a broker, what `apply` would change there. Changes nothing.

    Exits 1 if a topic on the broker conflicts with the plan.

    Example: tidemill topics plan fraud --bootstrap-servers localhost:9092
    """
    planned = topics.plan(load_pipeline(pipeline))
    actions: list[Action] | None = None
    if bootstrap_servers is not None:
        admin = connect(bootstrap_servers, parse_kafka_options(kafka_options))
        actions = topics.diff(planned, admin.describe_topics([topic.name for topic in planned]))
    if json:
        report: dict[str, object] = {"topics": [_topic(topic) for topic in planned]}
        write_json(report if actions is None else report | {"actions": [_action(action) for action in actions]})
    elif actions is None:
        console().print(_table(planned))
    else:
        _list(actions, none=f"the broker has all {len(planned)} topics as planned")
    if any(isinstance(action, Conflict) for action in actions or ()):
        raise typer.Exit(_CONFLICT)


@app.command("apply")
def apply_plan(
    pipeline: PipelineArgument,
    bootstrap_servers: BootstrapServers = None,
    kafka_options: KafkaOptions = None,
    wait_s: Annotated[float, typer.Option(min=1, max=3_600, help="Wait this long for Kafka to answer.")] = 10.0,
    json: JsonFlag = False,
) -> None:
    """Create missing topics and set the settings that differ. Running it again changes nothing.

    Topics that users write into are created where they are missing, and never altered. If a topic conflicts with the
    plan, nothing at all is changed and the command exits 2.

    Example: tidemill topics apply fraud --bootstrap-servers localhost:9092
    """
    planned = topics.plan(load_pipeline(pipeline))
    done = topics.apply(
        connect(require_servers(bootstrap_servers), parse_kafka_options(kafka_options), wait_s), planned
    )
    if json:
        write_json({"topics": [topic.name for topic in planned], "actions": [_action(action) for action in done]})
    else:
        _list(done, none=f"the broker has all {len(planned)} topics as planned already")
        say(f"{len(planned)} topics are ready")


def connect(bootstrap_servers: str, options: dict[str, str], wait_s: float = 10.0) -> TopicAdmin:
    """The topics of a Kafka that answers. Raises TidemillError if it does not within `wait_s`."""
    from tidemill.runtime.kafka import Admin

    admin = Admin(bootstrap_servers, options)
    admin.topic_names(wait_s)
    return admin


def _list(actions: Sequence[Action], *, none: str) -> None:
    for action in actions:
        typer.echo(_sentence(action))
    if not actions:
        typer.echo(none)


def _sentence(action: Action) -> str:
    match action:
        case Create(topic):
            partitions = f"{topic.partitions} partition{'s' if topic.partitions > 1 else ''}"
            return f"create   {topic.name} ({partitions}, {topic.configs['cleanup.policy']})"
        case AlterConfig(name, changes):
            return f"alter    {name}: " + ", ".join(f"{key} {old} → {new}" for key, (old, new) in changes.items())
        case AddPartitions(name, existing, planned):
            return f"extend   {name}: {existing} → {planned} partitions"
        case Conflict(name, reason):
            return f"conflict {name}: {reason}"


def _action(action: Action) -> dict[str, object]:
    match action:
        case Create(topic):
            return {"action": "create", "topic": topic.name}
        case AlterConfig(name, changes):
            return {"action": "alter", "topic": name, "changes": {key: list(pair) for key, pair in changes.items()}}
        case AddPartitions(name, existing, planned):
            return {"action": "extend", "topic": name, "partitions": [existing, planned]}
        case Conflict(name, reason):
            return {"action": "conflict", "topic": name, "reason": reason}


def _topic(topic: TopicDefinition) -> dict[str, object]:
    return {
        "name": topic.name,
        "partitions": topic.partitions,
        "replication_factor": topic.replication_factor,
        "owner": topic.owner,
        "written_by": topic.written_by,
        "read_by": topic.read_by,
        "schemas": topic.schemas,
        "configs": topic.configs,
    }


def _table(planned: Sequence[TopicDefinition]) -> Table:
    table = Table("topic", "partitions", "cleanup", "retention", "owner", "schemas", box=None, pad_edge=False)
    for topic in planned:
        retention = int(topic.configs["retention.ms"])
        table.add_row(
            topic.name,
            str(topic.partitions),
            topic.configs["cleanup.policy"],
            "for ever" if retention < 0 else f"{retention / 86_400_000:g} d",
            topic.owner,
            ", ".join(topic.schemas),
        )
    return table
