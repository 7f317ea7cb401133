"""The learning loop around fakes: its course, its resumption after a crash at any write, and what it gives up."""

import asyncio
from pathlib import Path

import pytest

from tidemill.domain.model import Activation, Manifest, decode
from tidemill.retrain.core.policy import ManualRequest
from tidemill.retrain.messages import CompareReport, Job, JobRefused, Report
from tidemill.runtime.service import OutRecord
from unit.retrain.retrainworld import PUBLIC, Crash, World, alarm, day, pipeline, statistics


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, pipeline())


def activations(world: World) -> list[Activation]:
    records = world.topics.records.get(world.pipeline.topic("models"), [])
    found = [decode(record.value or b"", PUBLIC) for record in records]
    return [record for record in found if isinstance(record, Activation)]


def to_promotion(world: World) -> None:
    world.feed(statistics(9), statistics(15), statistics(21), statistics(22))


def test_a_first_model_is_trained_shadowed_and_promoted(world: World) -> None:
    to_promotion(world)
    assert world.kinds() == ["retrain/1", "candidate/1", "promoted/1"]
    assert [(step.epoch, step.champion, step.challenger) for step in activations(world)] == [(1, None, 1), (2, 1, None)]
    assert world.loop.view()["champion"] == 1


def test_chunks_are_written_before_the_manifest_and_that_before_the_activation(world: World) -> None:
    order: list[str] = []
    write = world.topics.write

    def noting(records: list[OutRecord]) -> None:
        order.extend(record.topic.removeprefix("fraud-") for record in records)
        write(records)

    world.recorder._publisher._write = noting
    world.feed(statistics(9))
    assert order == ["decisions", "model-chunks", "models", "models", "decisions"]


def test_a_refusal_says_which_gate_failed_and_publishes_nothing(world: World) -> None:
    world.jobs.gain = -0.2
    world.feed(statistics(9))
    refused = world.topics.decisions(world.pipeline)[-1]
    assert refused.kind == "refused"
    assert "holdout_gain is -0.2, the limit is 0" in refused.reason
    assert activations(world) == []


def test_a_rejected_candidate_leaves_what_was_live(world: World) -> None:
    to_promotion(world)
    world.jobs.better = False
    world.feed(alarm(1), statistics(30), statistics(45))
    assert "rejected/2" in world.kinds()
    step = next(step for step in activations(world) if step.decision == "rejected/2")
    assert (step.champion, step.challenger) == (1, None)
    assert world.loop.view()["champion"] == 1


@pytest.mark.parametrize("writes", range(12))
def test_a_crash_at_any_write_is_finished_after_the_restart_with_the_same_records(
    world: World, tmp_path: Path, writes: int
) -> None:
    undisturbed = World(tmp_path, pipeline())
    to_promotion(undisturbed)
    world.topics.writes_until_crash = writes
    days = [statistics(9), statistics(15), statistics(21), statistics(22)]
    fed = 0
    for record in days:
        try:
            world.feed(record)
            fed += 1
        except Crash:
            break
    world.topics.writes_until_crash = None
    world.start()
    asyncio.run(world.loop.settle())
    world.feed(*days[fed:])
    assert world.kinds() == undisturbed.kinds()
    last = {step.epoch: (step.champion, step.challenger) for step in activations(world)}
    assert last == {1: (None, 1), 2: (1, None)}
    manifests = world.topics.records[world.pipeline.topic("models")]
    versions = {record.key: record.value for record in manifests if record.key == b"fraud-mlp/1"}
    published = decode(versions[b"fraud-mlp/1"] or b"", PUBLIC)
    assert isinstance(published, Manifest)


def test_a_restart_decides_nothing_twice(world: World) -> None:
    to_promotion(world)
    world.feed(alarm(1), statistics(30))
    before = world.kinds()
    for _ in range(3):
        world.start()
        asyncio.run(world.loop.settle())
    assert world.kinds() == before


def test_a_failing_job_is_tried_again_and_then_given_up(world: World) -> None:
    def fail(job: Job) -> Report:
        return JobRefused("the training process ended with exit code -9")

    world.jobs.answer = fail
    world.feed(statistics(9), statistics(10))
    assert world.kinds() == ["retrain/1"]
    world.feed(statistics(11))
    assert world.kinds() == ["retrain/1", "refused/1"]
    assert "exit code -9" in world.topics.decisions(world.pipeline)[-1].reason


def test_an_evaluation_waits_until_the_shadow_scores_span_their_time(world: World) -> None:
    world.feed(statistics(9))
    world.jobs.answer = lambda job: CompareReport(comparison=None, complete_at=day(24))
    world.feed(statistics(21), statistics(22), statistics(23))
    assert len(world.jobs.asked) == 2
    world.jobs.answer = None
    world.feed(statistics(24))
    assert world.kinds()[-1] == "promoted/1"


def test_a_candidate_that_nobody_scores_is_rejected_in_the_end(world: World) -> None:
    world.feed(statistics(9))
    world.jobs.answer = lambda job: CompareReport(comparison=None)
    world.feed(statistics(30))
    assert world.kinds()[-1] == "candidate/1"
    world.feed(statistics(36.1))
    rejected = next(decision for decision in world.topics.decisions(world.pipeline) if decision.kind == "rejected")
    assert "too few shadow scores" in rejected.reason


def test_a_floor_alarm_after_a_promotion_brings_the_version_before_back(world: World) -> None:
    to_promotion(world)
    world.feed(alarm(1), statistics(30), statistics(45))
    assert world.kinds()[-1] == "promoted/2"
    # a day later a training is under way; its shadow phase is not over when the promotion is questioned
    world.feed(statistics(50), alarm(2, "floor", "performance"), statistics(58))
    assert world.kinds()[-2:] == ["candidate/3", "rollback/2"]
    assert world.loop.view()["champion"] == 1
    step = activations(world)[-1]
    assert (step.champion, step.challenger, step.decision) == (1, 3, "rollback/2")


def test_a_promotion_that_holds_is_questioned_once(world: World) -> None:
    to_promotion(world)
    world.feed(alarm(1), statistics(30), statistics(45))
    world.jobs.better = False
    world.feed(alarm(2, "floor", "performance"), statistics(58), statistics(59))
    assert world.kinds().count("skip/performance/rollback/2") == 1
    assert world.loop.view()["champion"] == 2


def test_one_failed_comparison_does_not_end_the_question_of_a_promotion(world: World) -> None:
    to_promotion(world)
    world.feed(alarm(1), statistics(30), statistics(45))
    world.jobs.answer = lambda job: JobRefused("the training process was killed")
    world.feed(alarm(2, "floor", "performance"), statistics(58))
    assert not [name for name in world.kinds() if "rollback" in name]
    world.jobs.answer = None
    world.feed(statistics(59))
    assert "rollback/2" in world.kinds()


def test_a_comparison_that_keeps_failing_leaves_the_promotion_as_it_is(world: World) -> None:
    to_promotion(world)
    world.feed(alarm(1), statistics(30), statistics(45))
    world.jobs.answer = lambda job: JobRefused("the training process was killed")
    world.feed(alarm(2, "floor", "performance"), *(statistics(58 + number) for number in range(4)))
    assert world.kinds().count("skip/performance/rollback/2") == 1
    assert world.loop.view()["champion"] == 2


def test_a_record_that_is_no_drift_record_is_counted_and_passed_over(world: World) -> None:
    asyncio.run(world.loop.take(b'{"kind":"weather"}', 0))
    world.feed(statistics(9))
    assert world.kinds() == ["retrain/1", "candidate/1"]


def test_a_manual_request_returns_its_decision(world: World) -> None:
    to_promotion(world)

    async def ask() -> list[str]:
        await world.feed_async(statistics(30))
        return [decision.id for decision in await world.loop.step(ManualRequest("request/1", "please"))]

    assert asyncio.run(ask()) == ["retrain/2"]
