"""The chaos harness itself, for five minutes: a whole pipeline under seeded faults, and a runtime broken on purpose.

`loadtest/chaos.py` is the same with more of everything.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

LIMIT_S = 1_200
CHAOS = Path(__file__).parents[2] / "loadtest" / "chaos.py"

pytestmark = [pytest.mark.chaos, pytest.mark.kafka, pytest.mark.timeout(LIMIT_S + 60)]


def chaos(*arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, str(CHAOS), *arguments, "--json"],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        env=dict(os.environ),
        check=False,
    )
    assert done.stdout, done.stderr[-4_000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, report


def test_under_kills_fences_zombies_and_rebalances_nothing_is_lost_repeated_or_reordered() -> None:
    _, report = chaos("--events", "25000", "--kills", "32", "--each", "1", "--seed", "5")
    assert {name: found for name, found in report["findings"].items() if found["count"]} == {}
    assert report["violations"] == 0
    assert report["predictions"] == report["events"] == report["sent"]["payments"] > 20_000
    # What the faults did. The command asks for every one of them; a machine that is slow enough misses one or two.
    happened = report["happened"]
    assert min(happened.get(kind, 0) for kind in ("fence", "abort", "recycle", "rewind", "zombie", "storm")) > 0, (
        happened
    )
    assert happened["kill"] >= 20
    assert len(report["kills_by_failpoint"]) >= 10
    assert report["dead_letters"] > 0


def test_a_runtime_that_is_broken_on_purpose_is_found_out() -> None:
    code, report = chaos("--prove", "state-not-written,swap-not-recorded", "--events", "4000", "--kills", "4")
    assert report["survivors"] == []
    assert code == 0
