"""A helper process that answers each line on its standard input with one JSON line."""

import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from tidemill import clock
from tidemill.errors import EnvironmentUnusable, TidemillError

ANSWER_WITHIN_S = 3_600.0
"""Long enough to close the books of a stream of millions on a busy machine; what takes longer hangs."""
_LEAVE_WITHIN_S = 30
_READ_BYTES = 1 << 16


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

    def ask(self, line: bytes, timeout_s: float = ANSWER_WITHIN_S) -> dict[str, Any]:
        """The answer to one line; blocks until it is there. Raises EnvironmentUnusable if the process has ended, and
        TidemillError after `timeout_s`; the process is killed then, for its late answer would pass for the next one's.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line + b"\n")
            self._process.stdin.flush()
            answered = self._read_line(timeout_s)
        except BrokenPipeError:
            answered = b""
        if not answered.endswith(b"\n"):
            raise EnvironmentUnusable(f"The process {self._module} ended.", hint=f"Its log is {self._log_file}.")
        answer: dict[str, Any] = orjson.loads(answered)
        return answer

    def _read_line(self, timeout_s: float) -> bytes:
        """Up to the line's end, or what there is when the process has ended. One answer is all that can be there."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        readable = select.poll()
        readable.register(descriptor, select.POLLIN | select.POLLHUP)
        deadline = clock.monotonic() + timeout_s
        pieces: list[bytes] = []
        while not (pieces and pieces[-1].endswith(b"\n")):
            if not readable.poll(max(0.0, deadline - clock.monotonic()) * 1_000):
                self._process.kill()
                self._process.wait()
                raise TidemillError(
                    f"The process {self._module} did not answer within {timeout_s:g} s.",
                    hint=f"Its log is {self._log_file}.",
                )
            if not (piece := os.read(descriptor, _READ_BYTES)):
                break
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        """Wait for it to leave; killed if it does not."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # a line that was asked of a process which had ended
                self._process.stdin.close()
        try:
            self._process.wait(_LEAVE_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
