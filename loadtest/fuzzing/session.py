"""The command: which targets, how many inputs for each, progress, the report."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from fuzzing import campaign
from fuzzing.campaign import Result
from fuzzing.targets import KNOWN, TARGETS

_LINE_EVERY_S = 10.0
_INTERRUPTED = 130


def main(arguments: Sequence[str], doc: str | None = None) -> int:
    """The exit code: 0 without findings, 1 with some, 130 where it was interrupted."""
    parser = argparse.ArgumentParser(
        prog="fuzz.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--executions", type=_positive, default=100_000, help="inputs over all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", action="append", choices=sorted(KNOWN), metavar="NAME", help="repeatable")
    parser.add_argument("--processes", type=_positive, default=1)
    parser.add_argument("--limit", type=float, default=1.0, metavar="SECONDS", help="what takes more CPU is slow")
    parser.add_argument("--hang", type=float, default=20.0, metavar="SECONDS", help="what takes longer hangs")
    parser.add_argument("--findings", type=Path, default=Path("fuzz-findings"), metavar="DIR")
    parser.add_argument("--list", action="store_true", help="name the targets and leave")
    parser.add_argument("--json", action="store_true", help="write the report to standard output")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(TARGETS))
        return 0
    names = list(dict.fromkeys(options.target or TARGETS))
    results: dict[str, Result] = {}
    try:
        for name, executions in shares(names, options.executions).items():
            results[name] = campaign.run_target(
                name,
                executions,
                options.seed,
                options.processes,
                options.limit,
                options.hang,
                _Progress(name, executions),
            )
            _tell(name, results[name])
    except KeyboardInterrupt:
        return _INTERRUPTED
    findings = [finding for result in results.values() for finding in result.findings.values()]
    for finding in findings:
        file = campaign.save(finding, options.findings)
        print(
            f"finding: {finding.target}: {finding.kind} {finding.what} in {finding.where}, input {file}",
            file=sys.stderr,
        )
    report = report_of(results, options.seed)
    if options.json:
        print(json.dumps(report))
    else:
        print(f"{report['executions']:,} executions in {report['seconds']} s, {len(findings)} findings")
    return 1 if findings else 0


def shares(names: Sequence[str], executions: int) -> dict[str, int]:
    """How many of all inputs each target gets: slow ones fewer, each at least one."""
    whole = sum(KNOWN[name].share for name in names)
    return {name: max(1, round(executions * KNOWN[name].share / whole)) for name in names}


def report_of(results: dict[str, Result], seed: int) -> dict[str, object]:
    """The numbers of each target and every finding, without its input."""
    targets = {
        name: {
            "executions": result.executions,
            "accepted": result.accepted,
            "refused": result.refused,
            "seconds": round(result.seconds, 1),
            "findings": [
                {"kind": one.kind, "what": one.what, "where": one.where, "count": one.count}
                for one in result.findings.values()
            ],
        }
        for name, result in results.items()
    }
    return {
        "seed": seed,
        "executions": sum(result.executions for result in results.values()),
        "seconds": round(sum(result.seconds for result in results.values()), 1),
        "findings": sum(len(result.findings) for result in results.values()),
        "targets": targets,
    }


class _Progress:
    """A line on standard error now and then."""

    def __init__(self, name: str, executions: int) -> None:
        self._name, self._executions = name, executions
        self._next = time.monotonic() + _LINE_EVERY_S

    def __call__(self, result: Result) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _LINE_EVERY_S
            print(f"{self._name}: {result.executions:,} of {self._executions:,}", file=sys.stderr)


def _tell(name: str, result: Result) -> None:
    rate = result.executions / max(result.seconds, 1e-9)
    print(
        f"{name}: {result.executions:,} executions, {result.accepted:,} accepted, {result.refused:,} refused, "
        f"{len(result.findings)} findings, {rate:,.0f}/s",
        file=sys.stderr,
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("give a number above 0")
    return number
