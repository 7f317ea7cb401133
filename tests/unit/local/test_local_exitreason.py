"""Why a process ended, as the screen says it."""

import json
import signal
from pathlib import Path

from tidemill.local.exitreason import explain
from tidemill.local.supervisor import NEVER, RestartPolicy


def log(folder: Path, *lines: str) -> Path:
    file = folder / "service.log"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def test_the_last_error_in_the_log_is_the_reason(tmp_path: Path) -> None:
    fatal = json.dumps(
        {"level": "critical", "event": "stopped", "reason": "fenced twice", "hint": "stop the other one"}
    )
    file = log(tmp_path, '{"level":"error","event":"older"}', fatal, '{"level":"info","event":"closed"}')
    assert explain(4, file) == "exit status 4: stopped · fenced twice · stop the other one"


def test_a_traceback_is_shown_by_its_last_lines(tmp_path: Path) -> None:
    file = log(tmp_path, *(f"line {number}" for number in range(50)), "KeyError: 'amount'")
    reason = explain(1, file)
    assert reason.startswith("exit status 1; its last lines:")
    assert reason.endswith("KeyError: 'amount'") and "line 49" in reason and "line 40" not in reason


def test_a_signal_is_named(tmp_path: Path) -> None:
    assert explain(-signal.SIGKILL, tmp_path / "none.log") == "killed by SIGKILL"


def test_what_an_earlier_run_logged_is_not_the_reason(tmp_path: Path) -> None:
    file = log(tmp_path, '{"level":"error","event":"an old failure"}')
    assert explain(1, file, start=file.stat().st_size) == "exit status 1"


def test_restarts_wait_longer_each_time_and_end() -> None:
    policy = RestartPolicy(max_restarts=3, backoff_s=1.0, max_backoff_s=3.0)
    assert [policy.delay_s(1, restarts) for restarts in range(4)] == [1.0, 2.0, 3.0, None]


def test_neither_success_nor_a_refused_configuration_is_restarted() -> None:
    assert RestartPolicy().delay_s(0, 0) is None
    assert RestartPolicy().delay_s(2, 0) is None
    assert NEVER.delay_s(1, 0) is None
