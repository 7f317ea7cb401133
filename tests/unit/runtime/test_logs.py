"""One process, one form of log line, whoever writes it."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tidemill.runtime.logs import configure_logs, get_logger


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def test_a_librarys_record_is_a_json_line_with_the_constant_fields(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json", service="retrain")
    logging.getLogger("aiokafka.consumer").error("heartbeat failed: %s", "gone")
    logging.getLogger("aiokafka.consumer").info("nobody wants to know")
    get_logger("loop").info("restored", keys=3)
    theirs, ours = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (theirs["event"], theirs["level"], theirs["service"]) == ("library", "error", "retrain")
    assert (theirs["logger"], theirs["line"]) == ("aiokafka.consumer", "heartbeat failed: gone")
    assert (ours["event"], ours["keys"]) == ("restored", 3)


def test_a_librarys_exception_keeps_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    try:
        raise ValueError("torn")
    except ValueError:
        logging.getLogger("faust").exception("crashed")
    line = json.loads(capsys.readouterr().err)
    assert line["exception"][0]["exc_value"] == "torn"


def test_a_faulty_log_call_does_not_raise_in_the_library(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs("info", "json")
    logging.getLogger("aiokafka").warning("%d of %d", "one")
    logging.getLogger("aiokafka").critical("gone")
    line = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (line["level"], line["line"]) == ("critical", "gone")
