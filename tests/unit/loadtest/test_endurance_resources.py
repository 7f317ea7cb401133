"""A service is looked at with all its processes, its shared pages not counted twice."""

import subprocess
import sys

import pytest

from enduring.resources import family, open_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

FORKING = """
import os, sys
if os.fork() == 0:
    more = [open(os.devnull) for _ in range(50)]
    print("ready", flush=True)
sys.stdin.read()
"""


def test_the_files_of_parent_and_worker_are_counted() -> None:
    with subprocess.Popen([sys.executable, "-c", FORKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None and parent.stdout is not None
        parent.stdout.readline()
        found = family(parent.pid)
        files = [open_files(pid) for pid in found]
        parent.stdin.close()
    assert found[0] == parent.pid
    assert len(found) == 2
    assert files[1] >= files[0] + 50


def test_a_process_that_is_gone_has_no_files_and_no_children() -> None:
    assert open_files(2**22 + 1) == 0
    assert family(2**22 + 1) == [2**22 + 1]
