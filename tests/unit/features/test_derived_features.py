"""Derived features in a pipeline: over both stages, in the record, and refused where they make no sense."""

import math

import orjson
import pytest

from support.featurestages import keyed_stage
from tidemill.domain.featureset import feature_set_hash
from tidemill.domain.pipeline import Pipeline
from tidemill.features.core.definition import compile_stage
from tidemill.features.core.explanation import explain
from tidemill.runtime.pipelinefile import load_pipeline, parse_pipeline, pipeline_text, problems
from tidemill.runtime.service import Output, Record

NOON = 1_522_584_000_000
TEXT = pipeline_text("fraud")[0]
FIRST = "        - {name: terminal_count_1d,"
EARLY = [
    "{name: doubled_log, expression: 2 * log_ratio}",
    '{name: log_ratio, expression: "log(amount / customer_mean_amount_7d)"}',
    "{name: spare, expression: 1 / (customer_count_1d - 1)}",
]
LATE = [
    '{name: steps, expression: "bucket(amount, 10, 100)"}',
    "{name: together, expression: doubled_log + terminal_count_1d + spare * 0}",
    "{name: same, expression: doubled_log}",
]


def text_with(early: list[str], late: list[str]) -> str:
    """The fraud pipeline with further features in front of each stage's own."""
    at_first = "        - {name: amount, value: amount}\n"
    lines = "".join(f"        - {line}\n" for line in early)
    behind = "".join(f"        - {line}\n" for line in late)
    return TEXT.replace(at_first, lines + at_first).replace(FIRST, behind + FIRST)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return parse_pipeline(text_with(EARLY, LATE))


def event(id_: str, ts: int, amount: float) -> Record:
    value = {"v": 1, "id": id_, "event_time": ts, "customer": "c1", "terminal": "t1", "amount": amount}
    return Record("fraud-events", 0, 0, ts, b"c1", orjson.dumps(value))


def chained(output: Output) -> list[Record]:
    assert not output.dead
    return [Record(out.topic, 0, 0, out.timestamp, out.key, out.value) for out in output.records]


def named(pipeline: Pipeline, *records: Record) -> list[dict[str, float | None]]:
    """Vectors by feature name, by way of both stages."""
    for index in (0, 1):
        stage = keyed_stage(pipeline, index)
        stage.add(records, 0.0)
        records = tuple(chained(stage.flush(0.0)))
    vectors = (orjson.loads(record.value or b"")["features"] for record in records)
    return [dict(zip(pipeline.feature_names, vector, strict=True)) for vector in vectors]


def test_values_follow_other_features_of_the_same_and_of_the_earlier_stage(pipeline: Pipeline) -> None:
    first, second = named(pipeline, event("p1", NOON, 30.0), event("p2", NOON + 1, 90.0))
    assert (first["log_ratio"], first["doubled_log"], first["steps"]) == (0.0, 0.0, 1.0)
    assert second["log_ratio"] == pytest.approx(math.log(90 / 60), rel=1e-15)
    assert second["doubled_log"] == second["same"] == 2 * (second["log_ratio"] or 0)
    assert second["together"] == second["doubled_log"]
    assert second["steps"] == 1.0


def test_what_is_undefined_is_null_and_stays_null(pipeline: Pipeline) -> None:
    (first,) = named(pipeline, event("p1", NOON, 30.0))
    assert (first["spare"], first["together"]) == (None, None)
    (free,) = named(pipeline, event("p1", NOON, 0.0))
    assert (free["log_ratio"], free["doubled_log"], free["steps"]) == (None, None, 0.0)


def test_a_record_with_too_few_features_is_refused(pipeline: Pipeline) -> None:
    first = keyed_stage(pipeline, 0)
    first.add([event("p1", NOON, 30.0)], 0.0)
    (record,) = chained(first.flush(0.0))
    value = orjson.loads(record.value or b"")
    value["features"] = value["features"][1:]
    second = keyed_stage(pipeline, 1)
    second.add([record._replace(value=orjson.dumps(value))], 0.0)
    output = second.flush(0.0)
    assert [(dead.code, "`features`" in dead.message) for dead in output.dead] == [("bad_record", True)]


def test_a_features_own_name_means_the_field() -> None:
    text = TEXT.replace("{name: amount, value: amount}", "{name: amount, expression: log1p(amount)}")
    (vector,) = named(parse_pipeline(text), event("p1", NOON, 30.0))
    assert vector["amount"] == math.log1p(30.0)


def test_a_stage_decodes_what_earlier_ones_made_only_where_it_reads_it(pipeline: Pipeline) -> None:
    assert compile_stage(pipeline, 1).earlier == pipeline.feature_names[:12]
    assert compile_stage(pipeline, 1).fields == (), "`amount` is a feature of the stage before"
    own = parse_pipeline(text_with([], ["{name: more, expression: terminal_count_1d + 1}"]))
    assert compile_stage(own, 1).earlier == ()


def test_a_field_that_no_feature_is_called_after_is_taken_from_the_event() -> None:
    text = TEXT.replace("{name: amount, value: amount}", "{name: paid, expression: amount / 2}")
    plain = parse_pipeline(text.replace(FIRST, "        - {name: whole, expression: amount}\n" + FIRST))
    assert compile_stage(plain, 1).fields == ("amount",)
    (vector,) = named(plain, event("p1", NOON, 30.5))
    assert (vector["paid"], vector["whole"]) == (15.25, 30.5)


def test_an_expression_is_explained_as_it_was_written(pipeline: Pipeline) -> None:
    explained = {feature.name: feature for feature in explain(pipeline, 1).stages[0].features}["log_ratio"]
    assert (explained.definition, explained.cost) == ("log(amount / customer_mean_amount_7d)", "expression")
    assert "null where an input is null" in explained.null


def test_rows_of_the_changelog_do_not_depend_on_expressions(pipeline: Pipeline) -> None:
    fraud = load_pipeline("fraud")
    assert [compile_stage(pipeline, at).fingerprint for at in (0, 1)] == [
        compile_stage(fraud, at).fingerprint for at in (0, 1)
    ]


def test_another_expression_is_another_feature_set_and_none_leaves_it_as_it_was(pipeline: Pipeline) -> None:
    other = parse_pipeline(text_with(["{name: doubled_log, expression: 3 * log_ratio}", *EARLY[1:]], LATE))
    assert feature_set_hash(other) != feature_set_hash(pipeline)
    assert feature_set_hash(load_pipeline("fraud")) == "0ed7588c0878"


def said(early: list[str], late: list[str]) -> list[tuple[int, str]]:
    return [(problem.line, problem.message) for problem in problems(text_with(early, late))]


def test_a_circle_is_shown_at_each_feature_in_it() -> None:
    circle = [
        "{name: one, expression: two + 1}",
        "{name: two, expression: abs(three)}",
        "{name: three, expression: one * amount}",
        "{name: outside, expression: one}",
    ]
    line = TEXT[: TEXT.index("- {name: amount, value")].count("\n") + 1
    assert said(circle, []) == [
        (line, "column 1 of 'two + 1': goes in a circle: one → two → three → one"),
        (line + 1, "column 5 of 'abs(three)': goes in a circle: two → three → one → two"),
        (line + 2, "column 1 of 'one * amount': goes in a circle: three → one → two → three"),
    ]


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("customer_mean_amuont_7d / 2", "column 1 of 'customer_mean_amuont_7d / 2': unknown name"),
        ("1 + customer", "column 5 of '1 + customer': unknown name 'customer'"),
        ("terminal_count_7d", "column 1 of 'terminal_count_7d': 'terminal_count_7d' is a feature of the later stage"),
        ("amount ^ 2", "column 8 of 'amount ^ 2': '^' means nothing here"),
        ("''", "column 1 of '': a number, a name or '(' is missing in front of the end"),
    ],
)
def test_a_wrong_expression_is_shown_with_its_line_and_column(expression: str, message: str) -> None:
    line = TEXT[: TEXT.index("- {name: amount, value")].count("\n") + 1
    ((at, found),) = said([f"{{name: derived, expression: {expression}}}"], [])
    assert at == line
    assert message in found
