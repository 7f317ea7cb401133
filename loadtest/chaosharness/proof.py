"""Runs the harness against each deliberate breakage of the runtime: one that it does not see is a hole in it."""

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chaosharness.arguments import Options
from chaosharness.mutants import FAULTS_FOR, STANDS_STILL
from chaosharness.run import Run
from chaosharness.verdict import uncalled_for, violations
from tidemill.errors import TidemillError

_PLAIN = "kill"
_PATIENCE_S = 45.0
_USURPATIONS = 8
"""Some hit a service in which the breakage does nothing."""
_BAD_SHARE = 0.2
"""A dead letter in most transactions of ingest."""
_CONTROL = "none"
_EXITS, _NEVER_FINISHED, _UNUSABLE = _NO_RECORD = ("exits", "never_finished", "unusable")


def prove(options: Options, say: Callable[[str], None]) -> int:
    """Exit code 0 only where every mutant was seen by the audit, and no run of the same faults with the runtime as it
    is raised anything. Blocks for a minute or two a mutant, and as long for each such control."""
    controls: dict[str, dict[str, int]] = {}
    seen: dict[str, dict[str, int]] = {}
    for name in options.prove:
        faults = FAULTS_FOR.get(name, _PLAIN)
        if faults not in controls:
            controls[faults] = _caught(options, "", faults, say)
            say(f"{_CONTROL} ({faults}): {_told(controls[faults]) or 'nothing, as it should be'}")
        seen[name] = _caught(options, name, faults, say)
        say(f"{name}: {_told(seen[name]) or 'NOT SEEN'}")
    survivors = [name for name, found in seen.items() if not _is_seen(name, found)]
    if options.as_json:
        print(json.dumps({"controls": controls, "mutants": seen, "survivors": survivors}, indent=1))
    return 1 if survivors or any(controls.values()) else 0


def _is_seen(name: str, found: Mapping[str, int]) -> bool:
    """By what it did to the records: that services end, or that nothing moves, would also show a mutant that breaks
    them before they have done anything."""
    return bool(found) if name in STANDS_STILL else bool(found.keys() - {*_NO_RECORD})


def _caught(options: Options, mutant: str, faults: str, say: Callable[[str], None]) -> dict[str, int]:
    kinds = tuple(faults.split(","))
    chosen = replace(
        options,
        mutant=mutant,
        faults=kinds,
        kills=options.kills if "kill" in kinds else 0,
        each=options.each if "storm" in kinds else _USURPATIONS,
        bad_share=max(options.bad_share, _BAD_SHARE),
        patience_s=min(options.patience_s, _PATIENCE_S),
    )
    folder = Path(tempfile.mkdtemp(prefix=f"tidemill-mutant-{mutant or _CONTROL}-"))
    try:
        report = Run(chosen, folder, lambda text: None).result()
        if not mutant:
            for name, found in report["findings"].items():
                for example in found["first"][:2]:
                    say(f"{_CONTROL} ({faults}): {name}: {example}")
        return _caught_by(report)
    except TidemillError as error:
        say(f"{mutant or _CONTROL}: {error.message}")
        return {_UNUSABLE: 1}
    finally:
        shutil.rmtree(folder)


def _caught_by(report: dict[str, Any]) -> dict[str, int]:
    """The questions of the audit that raised something, with how often."""
    caught: dict[str, int] = {name: found["count"] for name, found in report["findings"].items() if found["count"]}
    if exits := uncalled_for(report) + report["unexplained_deaths"]:
        caught[_EXITS] = len(exits)
    if violations(report) > sum(caught.values()):
        caught[_NEVER_FINISHED] = 1
    return caught


def _told(found: Mapping[str, int]) -> str:
    return ", ".join(f"{what} {count}" for what, count in found.items())
