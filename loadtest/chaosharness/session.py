"""The command: runs, judges, reports."""

import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from chaosharness.arguments import parse
from chaosharness.proof import prove
from chaosharness.run import Run
from chaosharness.verdict import table, vacuous, violations
from tidemill.errors import TidemillError

FAILED = 1


def main(arguments: Sequence[str], doc: str | None = None) -> int:
    """Exit code 0: no violation, and the faults took place (`verdict.vacuous`). 1: otherwise. 2: wrong arguments."""
    options = parse(arguments, doc)
    if options.prove:
        return prove(options, _say)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="tidemill-chaos-"))
    try:
        report = Run(options, folder, _say).result()
    except TidemillError as error:
        _say(f"{error.message} {error.hint}")
        return error.exit_code
    report["vacuous"] = vacuous(report)
    report["violations"] = violations(report)
    _say(table(report))
    if options.as_json:
        print(json.dumps(report, indent=1))
    right = not report["violations"] and not report["vacuous"]
    if right and options.keep is None:
        shutil.rmtree(folder)
    else:
        _say(f"logs and data are in {folder}")
    return 0 if right else FAILED


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
