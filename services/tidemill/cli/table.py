"""The live table of a running pipeline: one row a stage."""

from collections.abc import Sequence

from rich.table import Table

from tidemill.local.scrape import StageStatus

_STYLES = {"ready": "green", "starting": "yellow", "down": "red"}


def stage_table(rows: Sequence[StageStatus], title: str = "", caption: str = "") -> Table:
    """Rate in records per second, lag in records, latency as the mean transaction in ms."""
    table = Table(title=title or None, caption=caption or None, expand=False)
    table.add_column("stage")
    table.add_column("state")
    for heading in ("records/s", "lag", "txn ms"):
        table.add_column(heading, justify="right")
    table.add_column("model")
    table.add_column("drift")
    table.add_column("DLQ", justify="right")
    for row in rows:
        style = _STYLES.get(row.state, "")
        state = f"[{style}]{row.state}[/]" if style else row.state
        table.add_row(
            row.service,
            state if row.healthy or not row.reason else f"{state}: {row.reason}",
            _number(row.rate),
            _number(row.lag),
            _number(row.latency_ms, 1),
            row.model or "",
            row.drift or "",
            _number(row.dlq),
        )
    return table


def _number(value: float | None, digits: int = 0) -> str:
    return "" if value is None else f"{value:,.{digits}f}"
