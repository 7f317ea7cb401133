"""The results as text for a terminal."""

from typing import Any


def show(results: dict[str, Any]) -> str:
    """A few lines a workload; the JSON has everything."""
    lines: list[str] = []
    for workload, found in results["workloads"].items():
        lines.append(workload)
        for peer, summary in found.get("summary", {}).items():
            lines.append(
                f"  {peer:>9}: ours {summary['ours_events_per_cpu_second']:>9,.0f} events per CPU-second, theirs "
                f"{summary['theirs_events_per_cpu_second']:>9,.0f}: {summary['ratio']:g}× "
                f"({summary['lowest']:g} to {summary['highest']:g} over {summary['rounds']} rounds)"
            )
        lines += [f"  {peer:>9}: left out: {why}" for peer, why in found.get("failed", {}).items()]
        lines += [f"  {name}: {value}" for name, value in found.get("figures", {}).items()]
        if not found.get("all_right", True):
            lines.append("  NOT ALL OUTPUTS WERE RIGHT: see `check` of each run in the JSON")
    return "\n".join(lines)
