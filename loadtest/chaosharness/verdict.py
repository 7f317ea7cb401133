"""What a report amounts to: violations, faults that did not bite, and a table for people. Pure."""

from collections.abc import Mapping
from typing import Any

from chaosharness.schedule import ALL_STAND_STILL
from tidemill.errors import BreakerOpen, Fenced, TidemillError
from tidemill.runtime.deadline import WATCHDOG_EXIT_CODE

LEAST = 0.8
"""Of the faults of a kind."""


def violations(report: Mapping[str, Any]) -> int:
    """How often a promise was broken, over all questions of the audit."""
    broken: int = sum(finding["count"] for finding in report["findings"].values())
    ended = len(uncalled_for(report)) + len(report["unexplained_deaths"])
    return broken + (not report["complete"]) + (not report["settled"]) + ended


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
    if faults & ALL_STAND_STILL:
        allowed |= {Fenced.exit_code, TidemillError.exit_code, WATCHDOG_EXIT_CODE}
    return [f"{one['service']}: {one['reason']}" for one in report["exits"] if one["status"] not in allowed]


def vacuous(report: Mapping[str, Any]) -> list[str]:
    """What did not happen although it was asked for: a run that hurt nobody proves nothing. Of each kind of fault,
    `LEAST` of those in the schedule must have taken place, for a service may stand where it never comes by its
    failpoint; the report names each that did not."""
    planned, done, happened = report["faults"]["planned"], report["faults"]["done"], report["happened"]
    empty = [
        f"{name}: {done.get(name, 0)} of {count} took place"
        for name, count in planned.items()
        if done.get(name, 0) < LEAST * count
    ]
    if planned.get("usurp"):
        empty += [f"no {name}" for name in ("fence", "recycle", "rewind", "abort") if not happened.get(name)]
    empty += [f"failpoint {name} was never hit" for name in report["failpoints_never_hit"]]
    if report["options"]["bad_share"] and not report["dead_letters"]:
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
        *(
            f"{report['faults']['done'].get(name, 0):>12,}  {name}, of {count} in the schedule"
            for name, count in report["faults"]["planned"].items()
        ),
        *(f"{count:>12,}  in all: {kind}" for kind, count in report["happened"].items()),
        f"{warm['p50']} / {warm['p99']} s  from a kill to the next commit, p50 / p99 of {warm['count']}",
        f"{cold['p50']} / {cold['p99']} s  the same where the whole process was killed, of {cold['count']}",
        f"{joined['p50']} / {joined['p99']} s  of both from joining the group",
        *(f"{finding['count']:>12,}  wrong: {name}" for name, finding in report["findings"].items()),
    ]
    for name, finding in report["findings"].items():
        lines += [f"  {name}: {example}" for example in finding["first"]]
    lines += [f"  vacuous: {text}" for text in report["vacuous"]]
    lines += [f"  {text}" for text in report["unexplained_deaths"]]
    lines += [f"  ended by itself: {one['service']}: {one['reason']}" for one in report["exits"][:10]]
    return "\n".join([*lines, f"{report['violations']} violations"])
