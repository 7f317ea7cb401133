"""`tidemill check`, as a user sees it."""

import json
import re
from pathlib import Path

import pytest

from tidemill.cli.__main__ import main
from tidemill.runtime.pipelinefile import pipeline_text


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


@pytest.fixture
def broken(tmp_path: Path) -> str:
    file = tmp_path / "shop.yaml"
    text = pipeline_text("fraud")[0].replace("scale: 100", "scal: 100")
    file.write_text(text.replace("[weekend, night]", "[weekend, noon]"), encoding="utf-8")
    return str(file)


def places(file: str, *wrong: str) -> list[tuple[int, int]]:
    """Line and column, from 1, of each of these texts in the file."""
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return [(number, line.index(text) + 1) for text in wrong for number, line in enumerate(lines, 1) if text in line]


def test_a_right_file_exits_0_and_says_what_it_describes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", "fraud")
    assert (code, err) == (0, "")
    assert re.search(r"pipeline fraud, 15 features in 2 stages, \d+ topics", out)


def test_mistakes_go_to_stdout_with_their_places_and_exit_2(capsys: pytest.CaptureFixture[str], broken: str) -> None:
    code, out, err = run(capsys, "check", broken)
    assert code == 2
    expected = [f"{broken}:{line}:{column}:" for line, column in places(broken, "scal:", "noon")]
    assert [line.split(" ", 1)[0] for line in out.splitlines()] == expected
    assert err == f"2 mistakes in {broken}\n"


def test_json_is_one_object_with_every_mistake(capsys: pytest.CaptureFixture[str], broken: str) -> None:
    code, out, _ = run(capsys, "check", broken, "--json")
    report = json.loads(out)
    assert (code, report["valid"], report["file"]) == (2, False, broken)
    assert [(found["line"], found["column"]) for found in report["problems"]] == places(broken, "scal:", "noon")
    assert report["problems"][1]["path"] == "drift.ignore.1"


def test_json_of_a_right_file_names_features_and_topics(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "check", "fraud", "--json")
    report = json.loads(out)
    assert (code, report["valid"], report["problems"]) == (0, True, [])
    assert len(report["features"]) == 15
    assert "fraud-predictions" in report["topics"]


def test_a_missing_file_is_one_sentence_and_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "check", "no/such.yaml")
    assert (code, out) == (2, "")
    assert err.splitlines()[0] == "error: cannot read the pipeline file no/such.yaml: No such file or directory"
    assert err.splitlines()[1].startswith("hint: ")
