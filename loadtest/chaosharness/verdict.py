"""What a report amounts to: violations, faults that did not bite, and a table for people. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.errors import BreakerOpen, Fenced, TidemillError
from tidemill.runtime.deadline import WATCHDOG_EXIT_CODE


def violations(report: Mapping[str, Any]) -> int:
    """How often a promise was broken, over all questions of the audit."""
    broken: int = sum(finding["count"] for finding in report["findings"].values())
    return broken + (not report["complete"]) + (not report["settled"]) + len(uncalled_for(report))


def uncalled_for(report: Mapping[str, Any]) -> list[str]:
    """Services that ended by themselves though no fault of the run makes them. One that finds its transactional id
    taken twice within a minute gives up, and so does one whose brokers answer nothing for long; a supervisor starts
    them again. Whatever happens, none may end for its configuration or for state that it cannot read."""
    allowed = set()
    faults = set(report["options"]["faults"])
    if "burst" in faults:
        allowed |= {BreakerOpen.exit_code}
    if faults & {"usurp", "zombie"}:
        allowed |= {Fenced.exit_code}
    if faults & {"broker-kill", "broker-stop", "disk-full", "network"}:
        allowed |= {Fenced.exit_code, TidemillError.exit_code, WATCHDOG_EXIT_CODE}
    return [f"{one['service']}: {one['reason']}" for one in report["exits"] if one["status"] not in allowed]


def vacuous(report: Mapping[str, Any], faults: Sequence[str], kills: int, bad_share: float) -> list[str]:
    """What did not happen although it was asked for: a run that hurt nobody proves nothing."""
    happened = report["happened"]
    expected = {"fault": 1}
    if "kill" in faults:
        expected |= {"kill": kills}
    if "usurp" in faults:
        expected |= {"fence": 1, "recycle": 1, "rewind": 1}
    if "zombie" in faults:
        expected |= {"stop": 1, "woken": 1}
    if "burst" in faults:
        expected |= {"breaker": 1}
    if "storm" in faults:
        expected |= {"storm": 1, "abort": 0}
    expected |= {name: 1 for name in ("broker-kill", "broker-stop", "disk-full", "clock", "network") if name in faults}
    empty = [
        f"{name}: {happened.get(name, 0)} of at least {least}"
        for name, least in expected.items()
        if happened.get(name, 0) < least
    ]
    empty += [f"failpoint {name} was never hit" for name in report["failpoints_never_hit"]]
    if bad_share and not report["dead_letters"]:
        empty.append("no dead letter")
    if not report["events"]:
        empty.append("no event")
    return empty


def table(report: Mapping[str, Any]) -> str:
    """The report for a terminal."""
    recovery = report["recovery"]
    warm, cold, joined = (recovery[f"{name}_to_commit_s"] for name in ("kill", "process_kill", "join"))
    lines = [
        f"{report['events']:>12,}  payments, {report['predictions']:,} predictions, "
        f"{report['events_per_second']:,.0f} a second",
        *(f"{count:>12,}  {kind}" for kind, count in report["happened"].items()),
        f"{warm['p50']} / {warm['p99']} s  from a kill to the next commit, p50 / p99 of {warm['count']}",
        f"{cold['p50']} / {cold['p99']} s  the same where the whole process was killed, of {cold['count']}",
        f"{joined['p50']} / {joined['p99']} s  of both from joining the group",
        *(f"{finding['count']:>12,}  wrong: {name}" for name, finding in report["findings"].items()),
    ]
    for name, finding in report["findings"].items():
        lines += [f"  {name}: {example}" for example in finding["first"]]
    lines += [f"  vacuous: {text}" for text in report["vacuous"]]
    lines += [f"  ended by itself: {one['service']}: {one['reason']}" for one in report["exits"][:10]]
    return "\n".join([*lines, f"{report['violations']} violations"])
