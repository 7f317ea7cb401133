"""The whole system as a user starts it: a small stream, real processes, a promotion that an alarm asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DEMO_LIMIT_S = 600

pytestmark = [pytest.mark.system, pytest.mark.kafka, pytest.mark.timeout(DEMO_LIMIT_S + 60)]


def tidemill(*arguments: str, limit_s: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tidemill.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=limit_s,
        env={**os.environ, "NO_COLOR": "1"},
        check=False,
    )


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("demo") / "data"
    options = ("--customers", "1000", "--terminals", "2000", "--days", "80", "--days-per-minute", "30")
    done = tidemill("demo", "fraud", "--json", "--keep-data", str(folder), *options, limit_s=DEMO_LIMIT_S)
    assert done.returncode == 0, f"{done.stderr[-3000:]}\n{done.stdout[-3000:]}"
    made: dict[str, Any] = json.loads(done.stdout)
    return made


def test_every_event_has_exactly_one_prediction(summary: dict[str, Any]) -> None:
    assert summary["events"] == summary["predictions"] == summary["sent"]["payments"] > 100_000
    assert (summary["missing"], summary["repeated"], summary["foreign"], summary["unnamed"]) == (0, 0, 0, 0)


def test_every_bad_record_ends_where_its_kind_belongs(summary: dict[str, Any]) -> None:
    assert summary["dlq"] == {code: count for code, count in summary["sent"]["dead_letters"].items() if count}
    assert summary["duplicates"] == summary["sent"]["duplicates"] > 0


def test_an_alarm_led_to_a_better_model(summary: dict[str, Any]) -> None:
    promoted = [model for model in summary["models"] if model["promoted_at"] is not None]
    assert len(promoted) >= 2
    asked = {model["version"] for model in promoted[1:] if model["reason"] in ("drift", "performance")}
    # What is promoted in the last days of the stream has no matured outcomes to be judged by.
    judged = [line for line in summary["quality"]["promotions"] if line["version"] in asked and line["after"]]
    assert any(line["after"]["average_precision"] > line["before"]["average_precision"] for line in judged)
    assert all(line["version"] in line["after"]["models"] for line in judged)


def test_a_model_is_named_by_its_bytes_and_its_training_days(summary: dict[str, Any]) -> None:
    for model in summary["models"]:
        assert len(model["sha256"]) == 64
        assert model["trained_to"] - model["trained_from"] == 7 * 86_400_000
        assert all(gate["passed"] for gate in model["gates"])


def test_each_decision_gives_its_reason(summary: dict[str, Any]) -> None:
    kinds = {decision["kind"] for decision in summary["decisions"]}
    assert {"retrain", "candidate", "promoted"} <= kinds
    assert all(decision["reason"] for decision in summary["decisions"])


def test_too_few_days_are_refused_before_anything_starts() -> None:
    done = tidemill("demo", "fraud", "--days", "20")
    assert done.returncode == 2
    assert "20 days are too few" in done.stderr
    assert "--days" in done.stderr
