"""The audit process, seen from the command that runs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from tidemill.errors import EnvironmentUnusable


class Auditor:
    """Runs `tidemill.local.audit` as a child; ask it from one thread."""

    def __init__(self, bootstrap_servers: str, pipeline: str, log_file: Path, *, latency_sample: int = 16) -> None:
        self._log_file = log_file
        options = ["--bootstrap-servers", bootstrap_servers, "--pipeline", pipeline]
        options += ["--latency-sample", str(latency_sample)]
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tidemill.local.audit", *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def progress(self) -> dict[str, Any]:
        """Counts so far; blocks for as long as the audit takes to come round, well under a second."""
        return self._ask(b"progress\n")

    def reset(self) -> dict[str, Any]:
        """Counts so far, and latencies are measured anew from here on."""
        return self._ask(b"reset\n")

    def close_window(self) -> dict[str, Any]:
        """Counts so far, and events sent from here on are not timed; those sent before are, whenever they arrive."""
        return self._ask(b"window\n")

    def report(self) -> dict[str, Any]:
        """The books closed as they stand; a few seconds for a million events."""
        return self._ask(b"report\n")

    def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _ask(self, command: bytes) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(command)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise EnvironmentUnusable("The audit process ended.", hint=f"Its log is {self._log_file}.")
        answer: dict[str, Any] = orjson.loads(line)
        return answer
