"""No two things that a pipeline needs share a topic: which two, and where in the file, is said."""

import pytest

from support.joinedpipeline import JOINED_TEXT
from tidemill.runtime.pipelinefile import pipeline_text, problems

SHIPPED = pipeline_text("fraud")[0]
EVENT = "entities: [customer, terminal]\n  numbers"
STAGE = "    - entity: terminal\n"
SUMMARIES = (
    "      summaries:\n        - {name: s, window: {type: tumbling, size: 1h}, fields: [{name: n, aggregate: count}]}\n"
)


def _said(text: str, *changes: tuple[str, str]) -> list[tuple[str, str]]:
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new, 1)
    return [(problem.path, problem.message) for problem in problems(text) if "topic" in problem.message]


def _stages(*entities: str) -> tuple[tuple[str, str], ...]:
    """The event with these entities, the first two of which have stages."""
    first, second, *_ = entities
    return (
        (EVENT, f"entities: [{', '.join(entities)}]\n  numbers"),
        ("    - entity: customer\n", f"    - entity: {first}\n"),
        (STAGE, f"    - entity: {second}\n"),
    )


def test_an_input_and_a_changelog_of_one_name() -> None:
    assert _said(SHIPPED, *_stages("by_terminal", "terminal_state")) == [
        (
            "features.stages.1.entity",
            "the topic fraud-by-terminal-state would be both by-terminal_state and by_terminal-state, which "
            "features-by_terminal writes; choose another name",
        )
    ]


def test_the_summaries_of_an_entity_and_the_input_of_another() -> None:
    changes = _stages("by_terminal", "terminal_summaries")
    assert _said(SHIPPED, *changes) == []
    (found,) = _said(SHIPPED, *changes, ("    - entity: terminal_summ", f"{SUMMARIES}    - entity: terminal_summ"))
    assert found[0] == "features.stages.1.entity"
    assert "fraud-by-terminal-summaries would be both" in found[1]


def test_a_stream_and_the_changelog_of_an_entity() -> None:
    text = JOINED_TEXT.replace("terminal", "stream_x").replace("limits", "x-state")
    (found,) = _said(text)
    assert found == (
        "features.stages.1.entity",
        "the topic fraud-stream-x-state would be both stream_x-state and stream-x-state, which ingest writes; "
        "choose another name",
    )


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("entities", [("terminal", "terminal_v2"), ("customer", "terminal_v2")])
def test_an_entity_called_as_a_version_of_no_other_is_let_be(version: int, entities: tuple[str, str]) -> None:
    """The first stage reads the events, so it has no topic that another version could mistake for its own."""
    assert (
        _said(SHIPPED, *_stages(*entities), ("features:\n  version: 1\n", f"features:\n  version: {version}\n")) == []
    )


@pytest.mark.parametrize(
    ("version", "stage", "said"),
    [
        (1, 2, "would be both by-terminal_v2 and by-terminal-v2 of version 2 of the features"),
        (2, 1, "would be both by-terminal-v2 and by-terminal_v2 of version 1 of the features"),
    ],
)
def test_an_entity_called_as_a_version_of_another(version: int, stage: int, said: str) -> None:
    third = "    - entity: terminal_v2\n      features: [{name: x, aggregate: count, window: 1h}]\n"
    entities = (EVENT, "entities: [customer, terminal, terminal_v2]\n  numbers")
    end = SHIPPED.index("\noutcomes:")
    text = SHIPPED[:end].rstrip("\n") + "\n" + third + SHIPPED[end:]
    version_line = "features:\n  version: "
    (found,) = _said(text, entities, (f"{version_line}1\n", f"{version_line}{version}\n"))
    assert found[0] == f"features.stages.{stage}.entity"
    assert f"fraud-by-terminal-v2 {said}" in found[1]


@pytest.mark.parametrize("topic", ["fraud-events", "fraud-by-terminal", "fraud-dlq", "fraud-customer-state"])
def test_a_sources_topic_that_is_written_by_a_service(topic: str) -> None:
    ((path, message),) = _said(SHIPPED, ("fraud-raw-chargebacks", topic))
    assert path == "ingest.sources.1.topic"
    assert message.startswith(f"{topic!r} is the topic {topic.removeprefix('fraud-')}, which ")


def test_two_sources_of_a_topic_are_reported_once() -> None:
    (found,) = problems(SHIPPED.replace("fraud-raw-chargebacks", "fraud-raw-payments"))
    assert (found.path, "by the source 'card-payments'" in found.message) == ("ingest.sources.1.topic", True)


def test_the_shipped_names_clash_in_no_version() -> None:
    for version in (1, 2, 3):
        text = SHIPPED.replace("features:\n  version: 1\n", f"features:\n  version: {version}\n")
        assert problems(text) == []
