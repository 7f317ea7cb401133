"""`tidemill simulate`: the same lines for the same arguments."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tidemill.cli.simulate import simulate
from tidemill.errors import ConfigurationError
from tidemill.scenarios.fraud import scenario
from tidemill.scenarios.fraud.simulator import simulate as simulate_payments

APP = typer.Typer()
APP.command()(simulate)


@pytest.fixture(autouse=True)
def cache_of_this_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scenario, "default_cache_dir", lambda: tmp_path)


def lines(*arguments: str) -> list[dict[str, object]]:
    result = CliRunner().invoke(APP, ["fraud", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_payments_are_written_in_order_and_alike_each_time() -> None:
    first = lines("--days", "1")
    assert [line["payment_id"] for line in first] == [f"p-{n:09d}" for n in range(len(simulate_payments(1).second))]
    assert first == lines("--days", "1")
    assert first != lines("--days", "1", "--seed", "1")


def test_labels_are_those_known_by_the_end() -> None:
    labels = lines("--days", "2", "--labels")
    assert labels and all(line["fraud"] in (0, 1) for line in labels)
    assert lines("--days", "1", "--labels") == []


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        CliRunner().invoke(APP, ["weather"], catch_exceptions=False)


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = "import typer; from tidemill.cli.simulate import simulate; typer.run(simulate)"
    with subprocess.Popen(
        [sys.executable, "-c", program, "fraud", "--days", "3"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith(b'{"v":1,')
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0
