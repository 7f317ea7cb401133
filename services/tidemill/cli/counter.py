"""Progress of a long computation on standard error: a moving line on a terminal, one every few seconds elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status

from tidemill import clock

_LINE_EVERY_S = 5.0


class RecordCounter:
    """Use as a context manager; call it with a stage and how many more records that has taken. One thread."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status = Status("reading", console=self._console) if self._console.is_terminal else None
        self._stage, self._records, self._next_line = "", 0, clock.monotonic() + _LINE_EVERY_S

    def __call__(self, stage: str, records: int) -> None:
        if stage != self._stage:
            self._finish()
            self._stage, self._records = stage, 0
        self._records += records
        if self._status is not None:
            self._status.update(self._line)
        elif clock.monotonic() >= self._next_line:
            self._next_line = clock.monotonic() + _LINE_EVERY_S
            self._console.print(self._line, soft_wrap=True)

    @property
    def _line(self) -> str:
        return f"stage {self._stage}: {self._records:,} records"

    def _finish(self) -> None:
        if self._stage:
            self._console.print(f"{self._line}, done", soft_wrap=True)

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()
        if error is None:
            self._finish()
