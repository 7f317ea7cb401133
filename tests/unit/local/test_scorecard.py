import orjson

from tidemill.domain.durations import DAY_MS
from tidemill.local.scorecard import Scorecard

START = 1_522_540_800_000


def outcome(event_time: int, score: float, label: int | None, version: int | None) -> bytes:
    return orjson.dumps(
        {
            "id": f"e{event_time}",
            "event_time": event_time,
            "outputs": {"score": score},
            "model_version": version,
            "label": label,
            "label_status": "labelled" if label is not None else "censored",
        }
    )


def test_before_and_after_are_split_at_the_promotion_and_name_what_was_live() -> None:
    card = Scorecard("score")
    promoted = START + 10 * DAY_MS
    for day in range(20):
        at = START + day * DAY_MS
        live = None if at < promoted else 2
        good = at >= promoted  # before the promotion the ranking is upside down
        card.add(outcome(at, 0.9 if good else 0.1, 1, live), b"c1")
        card.add(outcome(at + 1, 0.1 if good else 0.9, 0, live), b"c2")
    [promotion] = (report := card.report({2: promoted}))["promotions"]
    assert promotion["version"] == 2
    assert promotion["before"]["rows"] == 14
    assert promotion["before"]["models"] == ["rule"]
    assert promotion["before"]["average_precision"] == 0.5
    assert promotion["after"]["rows"] == 20
    assert promotion["after"]["models"] == [2]
    assert promotion["after"]["auc"] == 1.0
    assert [week["rows"] for week in report["by_week"]] == [14, 14, 12]


def test_a_promotion_is_judged_until_the_next_and_one_without_matured_days_not_at_all() -> None:
    card = Scorecard("score")
    for day in range(20):
        card.add(outcome(START + day * DAY_MS, 0.5, day % 2, 2 if day < 15 else 3), b"c1")
    report = card.report({4: START + 20 * DAY_MS, 3: START + 15 * DAY_MS, 2: START})
    second, third, fourth = report["promotions"]
    assert (second["before"], second["after"]["rows"], second["after"]["models"]) == (None, 15, [2])
    assert (third["before"]["rows"], third["after"]["rows"], third["after"]["models"]) == (7, 5, [3])
    assert (fourth["version"], fourth["before"]["models"], fourth["after"]) == (4, [2, 3], None)


def test_censored_outcomes_are_counted_but_not_scored() -> None:
    card = Scorecard("score")
    card.add(outcome(START, 0.5, None, 1), b"c1")
    assert card.outcomes == 1
    assert card.report({}) == {"promotions": [], "by_week": []}


def test_without_a_promotion_there_are_only_weeks() -> None:
    card = Scorecard("score")
    card.add(outcome(START, 0.5, 1, None), b"c1")
    report = card.report({})
    assert report["promotions"] == []
    assert len(report["by_week"]) == 1
