"""Our side of B1 and B2: the pipeline file of a run, and how the real service is started on it."""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tidemill.domain.pipeline import Pipeline
from tidemill.local.supervisor import ServiceCommand
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.pipelinefile import pipeline_text as shipped_text
from tidemill.runtime.topics import TopicDefinition, plan

OUR_STATE = {"b1": "memory", "b2": "changelog", "latency": "changelog"}
"""`features.state` of the pipeline file, by workload: B1 asks for no durable state from anybody."""

_TEMPLATE = Path(__file__).with_name("pipeline.yaml")


def pipeline_text(name: str, state: str) -> str:
    """The benchmark's pipeline file under another name, so that each run has topics and a group of its own."""
    text = _TEMPLATE.read_text("utf-8").replace("\nname: bench\n", f"\nname: {name}\n")
    return text.replace("state: changelog", f"state: {state}")


def write_pipeline(name: str, folder: Path, workload: str) -> tuple[Path, Pipeline]:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(pipeline_text(name, OUR_STATE[workload]), "utf-8")
    return file, load_pipeline(str(file))


def write_fraud_pipeline(
    name: str, folder: Path, state: str = "changelog", partitions: int | None = None
) -> tuple[Path, Pipeline]:
    """The shipped fraud pipeline under another name, for the same reason."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    text = shipped_text("fraud")[0].replace("\nname: fraud\n", f"\nname: {name}\n")
    if partitions is not None:
        text = re.sub(r"\n  partitions: \d+\n", f"\n  partitions: {partitions}\n", text, count=1)
    file.write_text(text.replace("\nfeatures:\n", f"\nfeatures:\n  state: {state}\n"), "utf-8")
    return file, load_pipeline(str(file))


def stage_topics(pipeline: Pipeline, stages: Sequence[str]) -> list[TopicDefinition]:
    """The topics that these stages read and write; those of other services are not needed."""
    roles = {"events", "labels", "features", "dlq"}
    roles |= {f"{stage}-state" for stage in stages} | {f"by-{stage}" for stage in stages[1:]}
    names = {pipeline.topic(role) for role in roles}
    return [topic for topic in plan(pipeline) if topic.name in names]


def stage_command(
    pipeline: str, stage: str, environment: Mapping[str, str], folder: Path, suffix: str = ""
) -> ServiceCommand:
    """`python -m tidemill.features` for one stage, as the supervisor of `tidemill up` starts it. `suffix` ends the name
    of one of several instances."""
    env = {
        "TIDEMILL_PIPELINE": pipeline,
        "TIDEMILL_STAGE": stage,
        "TIDEMILL_LOG_FORMAT": "json",
        "TIDEMILL_DATA_DIR": str(folder / f"features-{stage}"),
        **environment,
    }
    return ServiceCommand(f"features-{stage}{suffix}", (sys.executable, "-m", "tidemill.features"), env)


def service_environment(bootstrap_servers: str, compression: str) -> dict[str, str]:
    """What all our processes are given beside their stage: the same compression as every peer's producer."""
    return {
        "TIDEMILL_BOOTSTRAP_SERVERS": bootstrap_servers,
        "TIDEMILL_KAFKA_OPTIONS": json.dumps({"compression.type": compression}),
    }
