"""The demo's summary as tables for people."""

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from tidemill.cli.output import console


def print_summary(summary: dict[str, Any]) -> None:
    """Counts, models, decisions and quality, on standard output."""
    out = console()
    out.print(_counts(summary))
    out.print(_models(summary["models"]))
    out.print(_decisions(summary["decisions"]))
    _quality(out, summary["quality"])


def _day(milliseconds: float | None) -> str:
    return "" if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _counts(summary: dict[str, Any]) -> Table:
    table = Table(title="What went in and what came out", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in ("events", "predictions", "missing", "repeated", "labels", "outcomes", "duplicates", "late"):
        table.add_row(name, f"{summary[name]:,}")
    for code, count in summary["dlq"].items():
        table.add_row(f"DLQ: {code}", f"{count:,}")
    latency = summary["latency_ms"]
    table.add_row("latency p50 / p99 ms", f"{latency['p50']} / {latency['p99']}")
    table.add_row("events per second", f"{summary['events_per_second']}")
    table.add_row("wall seconds", f"{summary['wall_seconds']}")
    return table


def _models(models: list[dict[str, Any]]) -> Table:
    table = Table("version", "asked for by", "trained on", "rows", "positives", "promoted", title="Models")
    for model in models:
        table.add_row(
            f"v{model['version']}",
            model["reason"],
            f"{_day(model['trained_from'])} to {_day(model['trained_to'])}",
            f"{model['rows']:,}",
            f"{model['positives']:,}",
            _day(model["promoted_at"]) or "no",
        )
    return table


def _decisions(decisions: list[dict[str, Any]]) -> Table:
    table = Table("stream time", "decision", "policy", "reason", title="Decisions")
    for decision in decisions:
        table.add_row(_day(decision["at"]), decision["kind"], decision["policy"], decision["reason"])
    return table


def _quality(out: Console, quality: dict[str, Any]) -> None:
    table = Table(
        "days",
        "rows",
        "frauds",
        "AUC",
        "average precision",
        "card precision@100",
        "live",
        title="Quality of what was live",
    )
    lines = [("week", week) for week in quality["by_week"]]
    for promotion in quality["promotions"]:
        lines += [(f"before v{promotion['version']}", promotion["before"]), ("from it on", promotion["after"])]
    for name, part in lines:
        if part is not None:
            table.add_row(
                f"{name} from {_day(part['from'])}" if name == "week" else name,
                f"{part['rows']:,}",
                f"{part['positives']:,}",
                f"{part['auc']}",
                f"{part['average_precision']}",
                f"{part['card_precision_100']}",
                ", ".join(version if version == "rule" else f"v{version}" for version in part["models"]),
            )
    out.print(table)
