from tidemill.local.closing import minimum_days
from tidemill.runtime.pipelinefile import load_pipeline


def test_the_fraud_pipeline_closes_its_loop_well_within_the_default_hundred_days() -> None:
    assert 54 <= minimum_days(load_pipeline("fraud"), 25.0) <= 90


def test_a_faster_stream_needs_more_days_because_training_takes_its_time() -> None:
    pipeline = load_pipeline("fraud")
    assert minimum_days(pipeline, 5.0) < minimum_days(pipeline, 50.0)


def test_a_longer_maturity_needs_more_days() -> None:
    pipeline = load_pipeline("fraud")
    slower = pipeline.model_copy(
        update={"outcomes": pipeline.outcomes.model_copy(update={"maturity": 2 * pipeline.outcomes.maturity})}
    )
    assert minimum_days(slower, 25.0) > minimum_days(pipeline, 25.0)
