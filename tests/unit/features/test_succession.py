"""A version that takes over from another: what that one answered fills the windows, and nothing is written for it."""

import random

import pytest

from support.featurestages import keyed_stage
from support.featurestreams import SHOP
from support.livechain import live_vectors, logs, released
from support.paymentstream import payments_and_labels
from support.summaryoracle import Payment
from support.summarystreams import arrivals, as_record, shop, stage_of, written
from tidemill.domain.pipeline import Pipeline, TopicSettings
from tidemill.domain.summaryspec import SummarySpec
from tidemill.errors import ConfigurationError
from tidemill.features.offline.preparation import prepare
from tidemill.features.offline.topicinput import Connection
from tidemill.features.process import service_spec
from tidemill.features.shell import ANSWERED, KeyedStage
from tidemill.features.summarizing import SummarizingStage
from tidemill.runtime.pipelinefile import load_pipeline, parse_pipeline, pipeline_text
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import DeadLetter, OutRecord, Record
from tidemill.runtime.succession import furthest
from tidemill.runtime.topics import plan

PARTITIONS = 2


@pytest.fixture(scope="module")
def second() -> Pipeline:
    return parse_pipeline(second_text("version: 2\n  replaces: 1\n"))


def second_text(version: str) -> str:
    text, _ = pipeline_text("fraud")
    assert "features:\n  version: 1\n" in text
    return text.replace("features:\n  version: 1\n", f"features:\n  {version}")


def drive(
    service: KeyedStage, records: list[Record], chance: random.Random
) -> tuple[list[OutRecord], list[DeadLetter]]:
    written: list[OutRecord] = []
    dead: list[DeadLetter] = []
    rest = list(records)
    while rest:
        cut = chance.randrange(1, 90)
        service.add(rest[:cut], 0.0)
        rest = rest[cut:]
        output = service.flush(0.0)
        assert len(service.origins) == len(output.records)
        written += output.records
        dead += output.dead
    return written, dead


@pytest.mark.parametrize("seed", range(3))
def test_a_successor_answers_what_was_not_answered_as_if_it_had_read_everything(second: Pipeline, seed: int) -> None:
    chance = random.Random(seed)
    stream = payments_and_labels("fraud", PARTITIONS, count=900, days=40, seed=seed)
    records = released(service_spec(second, "customer").inputs, logs(stream, PARTITIONS))
    middle = chance.randrange(len(records) // 4, len(records) * 3 // 4)
    answered: dict[Partition, int] = {}
    for record in records[:middle]:
        answered[record.topic, record.partition] = record.offset + 1
    customer, terminal = keyed_stage(second, 0), keyed_stage(second, 1)
    customer.succeed(answered)
    passed, refused = drive(customer, records, chance)
    by_terminal = [
        record._replace(headers=out.headers) for record, out in zip(logs(passed, PARTITIONS), passed, strict=True)
    ]
    inputs = service_spec(second, "terminal").inputs
    found, _ = drive(terminal, released(inputs, by_terminal), chance)

    new = {record.value for record in records[middle:] if "events" in record.topic}
    whole = [value for value in live_vectors(second, stream, PARTITIONS) if is_of(value, new)]
    assert sorted(out.value or b"" for out in found) == sorted(whole)
    assert len(found) > 150
    assert all(record.offset >= answered.get((record.topic, record.partition), 0) for record, _, _ in dead(refused))
    assert refused, "the stream holds late events behind the middle too"
    marked = sum(out.headers == ANSWERED for out in passed)
    assert 0 < marked < len(passed)


@pytest.mark.parametrize("seed", range(3))
def test_a_successor_sums_up_what_was_answered_and_writes_only_what_closes_behind_it(seed: int) -> None:
    chance = random.Random(seed)
    tens = SummarySpec.model_validate(
        {"name": "tens", "window": {"type": "tumbling", "size": "10s"}, "fields": [{"name": "n", "aggregate": "count"}]}
    )
    features = shop([tens], 2_000, [tens]).features.model_copy(update={"version": 2, "replaces": 1})
    pipeline = SHOP.model_copy(update={"features": features, "topics": TopicSettings(partitions=1)})
    items = [item for item in arrivals(chance, 200, marks=False) if isinstance(item, Payment)]
    records = [as_record(item, offset) for offset, item in enumerate(items)]
    middle = chance.randrange(50, 150)

    def chain(answered: int) -> list[list[OutRecord]]:
        """What each stage writes."""
        first, second = summarizing(pipeline, 0), summarizing(pipeline, 1)
        first.succeed({("fraud-events", 0): answered})
        passed, _ = drive(first, records, random.Random(seed))
        onward = [out for out in passed if out.topic == "fraud-by-terminal-v2"]
        moved = [record._replace(headers=out.headers) for record, out in zip(logs(onward, 1), onward, strict=True)]
        return [passed, drive(second, moved, random.Random(seed))[0]]

    whole, after = chain(0), chain(middle)
    before = [drive(summarizing(pipeline, 0), records[:middle], random.Random(seed))[0]]
    for entity, index in (("customer", 0), ("terminal", 1)):
        everything, written_after = (written(made[index], entity) for made in (whole, after))
        assert written_after == everything[len(everything) - len(written_after) :]
        assert 3 < len(written_after) < len(everything)
    assert len(written(whole[0])) == len(written(before[0])) + len(written(after[0]))
    vectors = [out for out in after[1] if out.topic == "fraud-features"]
    assert vectors == [out for out in whole[1] if out.topic == "fraud-features"][-len(vectors) :]


def summarizing(pipeline: Pipeline, index: int) -> SummarizingStage:
    stage = stage_of(pipeline, index)
    stage.restore(0, ())
    return stage


def test_summaries_cannot_be_prepared(second: Pipeline) -> None:
    tens = SummarySpec.model_validate(
        {"name": "tens", "window": {"type": "tumbling", "size": "10s"}, "fields": [{"name": "n", "aggregate": "count"}]}
    )
    stage = second.features.stages[0].model_copy(update={"summaries": (tens,)})
    features = second.features.model_copy(update={"stages": (stage, *second.features.stages[1:])})
    nowhere = Connection("127.0.0.1:1", {})
    with pytest.raises(ConfigurationError, match="summaries cannot be prepared") as caught:
        prepare(second.model_copy(update={"features": features}), nowhere, lambda *_: None)
    assert "writes nothing that version 1 has written" in caught.value.hint


def dead(letters: list[DeadLetter]) -> list[tuple[Record, str, str]]:
    return [(letter.record, letter.code, letter.message) for letter in letters]


def is_of(vector: bytes, events: set[bytes | None]) -> bool:
    return vector.split(b',"fs":')[0] + b"}" in events


def test_state_and_internal_topics_and_groups_belong_to_a_version(second: Pipeline) -> None:
    first = load_pipeline("fraud")
    customer, terminal, outcomes = (service_spec(second, stage) for stage in ("customer", "terminal", "outcomes"))
    assert customer.group == "fraud-features-customer-v2"
    assert customer.predecessors == ("fraud-features-customer",)
    assert (terminal.group, terminal.predecessors) == ("fraud-features-terminal-v2", ())
    assert (customer.state_topic, terminal.state_topic) == ("fraud-customer-state-v2", "fraud-terminal-state-v2")
    assert [topic.name for topic in terminal.inputs] == ["fraud-by-terminal-v2"]
    assert outcomes == service_spec(first, "outcomes"), "the join knows no features"
    own = {topic.name for topic in plan(second)} - {topic.name for topic in plan(first)}
    assert own == {"fraud-customer-state-v2", "fraud-terminal-state-v2", "fraud-by-terminal-v2"}


def test_a_version_goes_on_with_the_work_of_all_versions_up_to_the_one_that_it_replaces() -> None:
    fourth = parse_pipeline(second_text("version: 4\n  replaces: 3\n"))
    customer = service_spec(fourth, "customer")
    group = "fraud-features-customer"
    assert customer.predecessors == (group, f"{group}-v2", f"{group}-v3")
    assert [service_spec(fourth, stage).replaceable for stage in ("customer", "terminal", "outcomes")] == [
        *(True, False, False)
    ]


def test_what_any_of_the_replaced_versions_has_passed_counts_as_answered() -> None:
    first, second = {("events", 0): 40, ("labels", 0): 7}, {("events", 0): 20, ("events", 1): 3}
    both = {("events", 0): 40, ("events", 1): 3, ("labels", 0): 7}
    assert furthest({"v1": first, "v2": second}) == furthest({"v2": second, "v1": first}) == both


@pytest.mark.parametrize("replaced", [2, 3])
def test_a_version_replaces_an_earlier_one(replaced: int) -> None:
    with pytest.raises(ConfigurationError, match="cannot take over from version"):
        parse_pipeline(second_text(f"version: 2\n  replaces: {replaced}\n"))
