"""Progress of a long run on standard error: a live table on a terminal, a line every few seconds elsewhere."""

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from tidemill import clock
from tidemill.cli.table import stage_table
from tidemill.local.scrape import StageStatus

_LINE_EVERY_S = 5.0


class RunScreen:
    """Use as a context manager; all calls from one thread."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._next_line = 0.0

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """The live table stays as it is, and standard output is free for the result."""
        if self._live is not None:
            self._live.stop()

    def update(self, rows: Sequence[StageStatus], headline: str) -> None:
        """Show the stages as they are now."""
        if self._live is not None:
            self._live.update(stage_table(rows, caption=headline), refresh=True)
            return
        now = clock.monotonic()
        if now >= self._next_line:
            self._next_line = now + _LINE_EVERY_S
            late = [f"{row.service} lags {row.lag:,.0f}" for row in rows if (row.lag or 0) > 10_000]
            self._console.print("; ".join([headline, *late]), soft_wrap=True)

    def message(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, soft_wrap=True)
