"""A helper process answers line by line, and one that does not answer keeps nobody waiting for ever."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tidemill import clock
from tidemill.errors import EnvironmentUnusable, TidemillError
from tidemill.local.lineprocess import LineProcess

HELPER = """
import sys, time
for line in sys.stdin:
    if line == "hang\\n":
        time.sleep(600)
    if line == "half\\n":
        print('{"half":', end="", flush=True)
        time.sleep(600)
    if line == "leave\\n":
        break
    print('{"size": "' + "x" * 300_000 + '"}' if line == "large\\n" else '{"said": "' + line.strip() + '"}', flush=True)
"""


@contextmanager
def helper(folder: Path) -> Iterator[LineProcess]:
    (folder / "answering.py").write_text(HELPER, "utf-8")
    process = LineProcess("answering", [], folder / "helper.log", {**os.environ, "PYTHONPATH": str(folder)})
    try:
        yield process
    finally:
        process.close()


def test_each_line_has_its_answer_however_long(tmp_path: Path) -> None:
    with helper(tmp_path) as process:
        assert process.ask(b"one") == {"said": "one"}
        assert len(process.ask(b"large")["size"]) == 300_000
        assert process.ask(b"two") == {"said": "two"}


def test_the_end_of_the_process_is_told_apart_from_an_answer(tmp_path: Path) -> None:
    with helper(tmp_path) as process, pytest.raises(EnvironmentUnusable, match="ended"):
        process.ask(b"leave")


@pytest.mark.parametrize("silence", [b"hang", b"half"])
def test_a_process_that_does_not_answer_is_given_up_with_the_name_of_its_log(tmp_path: Path, silence: bytes) -> None:
    with helper(tmp_path) as process:
        assert process.ask(b"one") == {"said": "one"}
        began = clock.monotonic()
        with pytest.raises(TidemillError, match=r"did not answer within 0\.5 s") as refusal:
            process.ask(silence, timeout_s=0.5)
        assert 0.5 <= clock.monotonic() - began < 60
        assert "helper.log" in refusal.value.hint
        with pytest.raises(EnvironmentUnusable):
            process.ask(b"two", timeout_s=30)
