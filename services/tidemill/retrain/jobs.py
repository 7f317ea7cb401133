"""The training process as seen by the service: one job at a time, killed and started anew when it fails."""

import asyncio
import contextlib
import sys
from collections.abc import Sequence

from tidemill.errors import TidemillError
from tidemill.retrain.messages import Job, JobRefused, Report, decode_report, encode_line
from tidemill.runtime.logs import get_logger

COMMAND = (sys.executable, "-m", "tidemill.retrain.train_process")
START_TIMEOUT_S = 300.0
"""Importing PyTorch and a first export take about ten seconds of one core; on a machine under load, many."""
_LINE_LIMIT = 64 * 1024 * 1024
_STOP_S = 5.0


class TrainingProcess:
    """Owns at most one child. All methods run in the event loop that `start` ran in; `run` is not reentrant."""

    def __init__(self, command: Sequence[str] = COMMAND, *, timeout_s: float) -> None:
        self._command = command
        self._timeout_s = timeout_s
        self._child: asyncio.subprocess.Process | None = None
        self._ready = False
        self._log = get_logger("jobs")

    async def start(self) -> None:
        """Spawn the child; it gets ready while the service does other things."""
        self._child = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE_LIMIT,
        )
        self._ready = False

    async def run(self, job: Job) -> Report:
        """The child's report. A child that ends or takes too long gives JobRefused, and is gone."""
        if self._child is None or self._child.returncode is not None:
            await self.start()
        assert self._child is not None
        try:
            return await self._ask(self._child, job)
        except asyncio.CancelledError:
            await self.stop(kill=True)  # its report would be taken for the next job's
            raise
        except TimeoutError:
            waited = self._timeout_s if self._ready else START_TIMEOUT_S
            await self.stop(kill=True)
            return JobRefused(f"the training process did not answer within {waited:g} s")
        except (BrokenPipeError, ConnectionResetError, EOFError):
            code = await self._child.wait()
            self._child = None
            self._log.error("training_process_ended", exit_code=code)
            return JobRefused(f"the training process ended with exit code {code}; its log says why")

    async def stop(self, *, kill: bool = False) -> None:
        """Close its input, and kill it if that is not enough."""
        child, self._child = self._child, None
        if child is None or child.returncode is not None:
            return
        if not kill and child.stdin is not None:
            child.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(child.wait(), _STOP_S)
                return
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()

    async def _ask(self, child: asyncio.subprocess.Process, job: Job) -> Report:
        if child.stdin is None or child.stdout is None:
            raise TidemillError("the training process has no pipes")
        if not self._ready:
            await _line(child.stdout, START_TIMEOUT_S)
            self._ready = True
        child.stdin.write(encode_line(job))
        await child.stdin.drain()
        return decode_report(await _line(child.stdout, self._timeout_s))


async def _line(stream: asyncio.StreamReader, timeout_s: float) -> bytes:
    line = await asyncio.wait_for(stream.readline(), timeout_s)
    if not line.endswith(b"\n"):
        raise EOFError
    return line
