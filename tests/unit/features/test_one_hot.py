"""A text field as columns of 0 and 1."""

import orjson
import pytest

from support.featurestages import keyed_stage
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.featurespec import FeatureSpec, StageSpec
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.explanation import explain_feature
from tidemill.features.offline.backfill import Request
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.service import Record

FRAUD = load_pipeline("fraud")
CHANNEL = {"name": "channel", "one_hot": "channel", "values": ("web", "POS", "in-app"), "other": True}


def pipeline(*features: dict[str, object]) -> Pipeline:
    event = FRAUD.event.model_copy(update={"categories": ("channel",)})
    stage = StageSpec.model_validate({"entity": "customer", "features": features})
    features_spec = FRAUD.features.model_copy(update={"stages": (stage,)})
    return FRAUD.model_copy(update={"event": event, "features": features_spec})


def record(channel: object, number: int = 0) -> Record:
    value = {"id": f"p{number}", "event_time": 10**9 + number, "customer": "c", "amount": 5, "channel": channel}
    return Record("fraud-events", 0, 0, 10**9 + number, b"c", orjson.dumps(value))


def vectors(chosen: Pipeline, *channels: object) -> list[list[float]]:
    stage = keyed_stage(chosen, 0)
    stage.add([record(channel, number) for number, channel in enumerate(channels)], 0.0)
    return [orjson.loads(out.value or b"")["features"] for out in stage.flush(0.0).records]


def test_each_value_has_its_column_in_the_order_of_the_file_and_other_the_last() -> None:
    chosen = pipeline({"name": "amount", "value": "amount"}, CHANNEL, {"name": "night", "calendar": "night"})
    assert chosen.feature_names == ("amount", "channel_web", "channel_pos", "channel_in_app", "channel_other", "night")
    found = [vector[1:5] for vector in vectors(chosen, "in-app", "web", "POS", "pos", "", "web ")]
    assert found == [
        [0, 0, 1, 0],
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 1],
        [0, 0, 0, 1],
    ]


def test_a_backfill_names_every_column() -> None:
    last = {"name": "recent", "aggregate": "last", "field": "amount", "k": 2, "window": "1d"}
    chosen = pipeline(CHANNEL, last)
    assert Request(chosen).names == chosen.feature_names
    assert chosen.feature_names[-3:] == ("channel_other", "recent_1", "recent_2")


def test_without_other_an_unknown_text_is_zero_everywhere() -> None:
    chosen = pipeline({**CHANNEL, "other": False})
    assert vectors(chosen, "fax", "web") == [[0, 0, 0], [1, 0, 0]]


def test_an_event_without_the_text_is_refused_by_name() -> None:
    stage = keyed_stage(pipeline(CHANNEL), 0)
    stage.add([record(None), record("web", 1)], 0.0)
    output = stage.flush(0.0)
    assert [(dead.code, dead.message) for dead in output.dead] == [("bad_record", "event field 'channel' is missing")]
    assert [orjson.loads(out.value or b"")["features"] for out in output.records] == [[1, 0, 0, 0]]


def test_expressions_and_aggregates_of_the_same_text_stand_beside_it() -> None:
    share = {"name": "web_share", "aggregate": "share", "field": "channel", "equals": "web", "window": "1d"}
    sum_of = {"name": "card", "expression": "channel_web + channel_pos * 10 + web_share * 100"}
    chosen = pipeline(sum_of, CHANNEL, share)
    assert [vector[0] for vector in vectors(chosen, "web", "POS")] == [101.0, 60.0]


def test_a_one_hot_feature_keeps_nothing_of_a_key() -> None:
    plain = pipeline({"name": "n", "aggregate": "count", "window": "1d"})
    more = pipeline({"name": "n", "aggregate": "count", "window": "1d"}, CHANNEL)
    assert compile_stage(plain, 0).fingerprint == compile_stage(more, 0).fingerprint
    assert feature_set_hash(plain) != feature_set_hash(more)


@pytest.mark.parametrize("change", [{"values": ("POS", "web", "in-app")}, {"other": False}, {"one_hot": "terminal"}])
def test_what_is_said_about_it_names_the_feature_set(change: dict[str, object]) -> None:
    assert feature_set_hash(pipeline(CHANNEL)) != feature_set_hash(pipeline({**CHANNEL, **change}))


def test_it_is_explained_column_by_column() -> None:
    said = explain_feature(pipeline(CHANNEL), "customer", FeatureSpec.model_validate(CHANNEL))
    assert said.definition == (
        "the event's channel: 1 in channel_web if it is 'web', 1 in channel_pos if it is 'POS', 1 in channel_in_app "
        "if it is 'in-app', 1 in channel_other if it is none of them; else 0"
    )
    assert (said.null, said.cost) == ("never null", "field")
