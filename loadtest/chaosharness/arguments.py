"""The command line. Wrong arguments end it with one sentence and exit code 2, before anything is started."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaosharness.mutants import MUTANTS
from chaosharness.schedule import FAULTS, KILLABLE
from wholenumber import whole

PROTOCOLS = ("classic", "consumer")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. The defaults take about five minutes."""

    events: int
    kills: int
    seed: int
    protocol: str
    faults: tuple[str, ...]
    each: int
    stage: str | None
    bad_share: float
    rate: float | None
    mutant: str
    prove: tuple[str, ...]
    patience_s: float
    keep: Path | None
    as_json: bool


def parse(arguments: Sequence[str], doc: str | None = None) -> Options:
    """Exits with code 2 on anything that cannot be meant."""
    parser = argparse.ArgumentParser(
        prog="chaos.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=whole(2_000, 50_000_000), default=60_000, help="valid payments to stream")
    parser.add_argument("--kills", type=whole(0, 100_000), default=40, help="SIGKILLs of services")
    parser.add_argument("--seed", type=whole(0, 1_000), default=1, help="one seed is one schedule of faults")
    parser.add_argument("--protocol", choices=PROTOCOLS, default="classic", help="consumer group protocol")
    parser.add_argument("--faults", default="kill,usurp,zombie,storm", help=f"of {','.join(FAULTS)}")
    parser.add_argument("--each", type=whole(1, 1_000), default=2, help="faults of each kind but kills")
    parser.add_argument("--stage", choices=KILLABLE, help="only this service is attacked; default: all")
    parser.add_argument("--bad-share", type=_share, default=0.02, help="bad records per valid payment, added")
    parser.add_argument("--rate", type=float, help="payments a second; default: so that the schedule fits")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), default="", help="break the runtime: must end with exit 1")
    parser.add_argument(
        "--prove",
        metavar="MUTANTS",
        help="instead, break the runtime in each of these ways, or `all`; all must be seen",
    )
    parser.add_argument(
        "--patience", type=whole(10, 3_600), default=120, help="seconds without progress after which a run gives up"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep logs and data there")
    parser.add_argument("--json", action="store_true", help="write the report as JSON to standard output")
    given = parser.parse_args(arguments)
    faults = tuple(dict.fromkeys(name.strip() for name in given.faults.split(",") if name.strip()))
    unknown = [name for name in faults if name not in FAULTS]
    if unknown:
        parser.error(f"--faults: unknown {', '.join(unknown)}; known are {', '.join(FAULTS)}")
    prove = tuple(MUTANTS) if given.prove == "all" else tuple(filter(None, (given.prove or "").split(",")))
    if strange := [name for name in prove if name not in MUTANTS]:
        parser.error(f"--prove: unknown {', '.join(strange)}; known are {', '.join(sorted(MUTANTS))}")
    if given.keep is not None and given.keep.exists() and any(given.keep.iterdir()):
        parser.error(f"--keep: {given.keep} is not empty; name another folder")
    return Options(
        events=given.events,
        kills=given.kills if "kill" in faults else 0,
        seed=given.seed,
        protocol=given.protocol,
        faults=faults,
        each=given.each,
        stage=given.stage,
        bad_share=given.bad_share,
        rate=given.rate,
        mutant=given.mutant,
        prove=prove,
        patience_s=float(given.patience),
        keep=given.keep,
        as_json=given.json,
    )


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= share <= 0.5:
        raise argparse.ArgumentTypeError(f"{share} is not between 0 and 0.5")
    return share
