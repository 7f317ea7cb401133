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
    report = card.report(promoted)
    assert report["before"]["rows"] == 14
    assert report["before"]["models"] == ["rule"]
    assert report["before"]["average_precision"] == 0.5
    assert report["after"]["rows"] == 20
    assert report["after"]["models"] == [2]
    assert report["after"]["auc"] == 1.0
    assert [week["rows"] for week in report["by_week"]] == [14, 14, 12]


def test_censored_outcomes_are_counted_but_not_scored() -> None:
    card = Scorecard("score")
    card.add(outcome(START, 0.5, None, 1), b"c1")
    assert card.outcomes == 1
    assert card.report(None) == {"before": None, "after": None, "by_week": []}


def test_without_a_promotion_there_are_only_weeks() -> None:
    card = Scorecard("score")
    card.add(outcome(START, 0.5, 1, None), b"c1")
    report = card.report(None)
    assert report["before"] is None
    assert len(report["by_week"]) == 1
