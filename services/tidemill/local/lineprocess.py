"""A helper process that answers each line on its standard input with one JSON line."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tidemill.errors import EnvironmentUnusable

_LEAVE_WITHIN_S = 30


class LineProcess:
    """`python -m MODULE OPTIONS` as a child. Ask it from one thread; closing its input ends it."""

    def __init__(
        self, module: str, options: Sequence[str], log_file: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log_file = log_file
        self._module = module
        log_file.parent.mkdir(parents=True, exist_ok=True)
        with log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=None if environment is None else dict(environment),
                process_group=0,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, line: bytes) -> dict[str, Any]:
        """The answer to one line; blocks until it is there. Raises EnvironmentUnusable if the process has ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
            answered = self._process.stdout.readline()
        except BrokenPipeError:
            answered = b""
        if not answered:
            raise EnvironmentUnusable(f"The process {self._module} ended.", hint=f"Its log is {self._log_file}.")
        answer: dict[str, Any] = orjson.loads(answered)
        return answer

    def close(self) -> None:
        """Wait for it to leave; killed if it does not."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_LEAVE_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
