"""Runs the harness against each deliberate breakage of the runtime: one that it does not see is a hole in it."""

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaosharness.arguments import Options
from chaosharness.mutants import FAULTS_FOR
from chaosharness.run import Run
from chaosharness.verdict import uncalled_for, violations
from tidemill.errors import TidemillError

_PLAIN = "kill"
_PATIENCE_S = 45.0
_USURPATIONS = 8
"""Some hit a service in which the breakage does nothing."""
_BAD_SHARE = 0.2
"""A dead letter in most transactions of ingest."""


def prove(options: Options, say: Callable[[str], None]) -> int:
    """Exit code 0 only where every mutant was seen. Blocks for a minute or two a mutant."""
    seen: dict[str, dict[str, Any]] = {}
    for name in options.prove:
        faults = tuple(FAULTS_FOR.get(name, _PLAIN).split(","))
        kills = options.kills if "kill" in faults else 0
        chosen = replace(
            options,
            mutant=name,
            faults=faults,
            kills=kills,
            each=options.each if "storm" in faults else _USURPATIONS,
            bad_share=max(options.bad_share, _BAD_SHARE),
            patience_s=min(options.patience_s, _PATIENCE_S),
        )
        folder = Path(tempfile.mkdtemp(prefix=f"tidemill-mutant-{name}-"))
        try:
            seen[name] = _caught_by(Run(chosen, folder, lambda text: None).result())
        except TidemillError as error:
            say(f"{name}: {error.message}")  # that it does not even start proves nothing
            seen[name] = {}
        shutil.rmtree(folder)
        say(f"{name}: {', '.join(f'{what} {count}' for what, count in seen[name].items()) or 'NOT SEEN'}")
    if options.as_json:
        print(json.dumps({"mutants": seen, "survivors": [name for name, found in seen.items() if not found]}, indent=1))
    return 0 if all(seen.values()) else 1


def _caught_by(report: dict[str, Any]) -> dict[str, Any]:
    """The questions of the audit that raised something, with how often."""
    caught: dict[str, Any] = {name: found["count"] for name, found in report["findings"].items() if found["count"]}
    if exits := uncalled_for(report):
        caught["exits"] = len(exits)
    if violations(report) > sum(caught.values()):
        caught["never_finished"] = 1
    return caught
