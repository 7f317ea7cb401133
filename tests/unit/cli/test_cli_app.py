"""The command itself: help, version, lazy loading, errors and exit codes."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from tidemill.cli import app, check, output
from tidemill.cli.__main__ import main
from tidemill.cli.app import COMMANDS
from tidemill.errors import BreakerOpen
from tidemill.runtime.logs import get_logger


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def test_the_help_names_every_command_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0
    listed = re.findall(r"^  ([a-z]+)  ", out.partition("Commands:")[2], re.MULTILINE)
    assert listed == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_shows_an_example(capsys: pytest.CaptureFixture[str], command: str) -> None:
    code, out, _ = run(capsys, command, "--help")
    assert code == 0
    for inner in re.findall(r"^  ([a-z]+)  ", out.partition("Commands:")[2], re.MULTILINE):
        out += run(capsys, command, inner, "--help")[1]
    assert f"tidemill {command} " in re.sub(r"\s+", " ", out.partition("Example:")[2])


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, err = run(capsys)
    assert "Usage: tidemill" in out + err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert re.fullmatch(r"tidemill \d+\.\d+\.\d+\S*\n", out)


def test_a_misspelt_command_is_answered_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "chek")
    assert code == 2
    assert "check" in err


def test_a_known_failure_is_a_sentence_a_hint_and_its_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise BreakerOpen("half of the records are bad", hint="Look at the dead letters.")

    monkeypatch.setattr(check, "pipeline_text", fail)
    assert run(capsys, "check", "fraud") == (
        *(BreakerOpen.exit_code, ""),
        "error: half of the records are bad\nhint: Look at the dead letters.\n",
    )


def test_an_interrupt_exits_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(check, "pipeline_text", interrupt)
    assert run(capsys, "check", "fraud") == (130, "", "")


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(check, "pipeline_text", fail)
    with pytest.raises(ZeroDivisionError):
        main(["check", "fraud"])


def test_a_missing_extra_costs_its_own_command_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = app.import_module

    def without_local(name: str) -> ModuleType:
        if name == "tidemill.cli.up":
            raise ModuleNotFoundError("No module named 'jgo'", name="jgo.build")
        return found(name)

    monkeypatch.setattr(app, "import_module", without_local)
    code, out, err = run(capsys, "up", "fraud", "--no-producer")
    assert (code, out) == (3, "")
    assert err.splitlines()[0] == "error: this needs the Python package jgo, which is not installed"
    assert 'pip install "tidemill[local]"' in err
    assert run(capsys, "check", "fraud")[0] == 0
    assert "Not available: this needs the Python package jgo" in run(capsys, "--help")[1]


def test_a_library_missing_while_a_command_runs_is_told_the_same_way(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(check, "pipeline_text", fail)
    code, _, err = run(capsys, "check", "fraud")
    assert code == 3
    assert 'pip install "tidemill[retrain]"' in err


def test_a_module_that_no_extra_brings_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ModuleNotFoundError("No module named 'tidemil'", name="tidemil")

    monkeypatch.setattr(check, "pipeline_text", fail)
    with pytest.raises(ModuleNotFoundError):
        main(["check", "fraud"])


def test_the_extra_that_an_error_names_brings_the_module() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    for module, extra in output.EXTRAS.items():
        brings = rf"{module}(-streaming)?[<>=]"
        assert any(re.match(brings, requirement) for requirement in extras[extra]), f"{extra} does not bring {module}"


def test_checking_a_file_loads_no_heavy_library() -> None:
    """In a process of its own, because the tests around it load them all."""
    script = (
        "import sys; from tidemill.cli.__main__ import main\n"
        "try: main(['check', 'fraud'])\n"
        "except SystemExit: print(sorted({'torch','faust','river','onnxruntime','numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_log_lines_never_mix_with_the_data_of_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(**_: object) -> None:
        log = get_logger("producer")
        log.debug("librdkafka")
        log.warning("transaction call repeated")
        print("{}")

    monkeypatch.setattr("tidemill.cli.__main__.app", command)
    main([])
    out, err = capsys.readouterr()
    assert (out, "transaction call repeated" in err, "librdkafka" in err) == ("{}\n", True, False)
