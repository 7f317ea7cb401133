"""The command line. Wrong arguments end it with one sentence and exit code 2, before anything is started."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from featurebench.contestants import PEERS
from featurebench.environments import default_folder
from wholenumber import whole

WORKLOADS = ("b1", "b2", "b3", "engine", "latency")


@dataclass(frozen=True, slots=True)
class Options:
    """What to run. The defaults give a first impression within minutes; the README has the full command."""

    workloads: tuple[str, ...]
    peers: tuple[str, ...]
    rounds: int
    events: int
    seconds: float
    seed: int
    keys: int
    wide_keys: int
    restore_keys: int
    compression: str
    environments: Path
    keep: bool
    as_json: bool


def parse(arguments: Sequence[str], doc: str | None = None) -> Options:
    """Exits with code 2 on anything that cannot be meant."""
    parser = argparse.ArgumentParser(
        prog="features.py", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workloads", default=",".join(WORKLOADS), help=f"of {','.join(WORKLOADS)}")
    parser.add_argument("--peers", default=",".join(PEERS), help=f"of {','.join(PEERS)}; empty: ours alone")
    parser.add_argument("--rounds", type=whole(1, 100), default=3, help="rounds of B1, B2 and B3, interleaved")
    parser.add_argument(
        "--events", type=whole(10_000, 20_000_000), default=200_000, help="events of a run; slow peers get a share"
    )
    parser.add_argument(
        "--seconds", type=whole(5, 3_600), default=60, help="longest one run may take; how long latency is measured"
    )
    parser.add_argument("--seed", type=whole(0, 2**31), default=0)
    parser.add_argument("--keys", type=whole(1, 999_999), default=1_000, help="keys of B1 and B2")
    parser.add_argument(
        "--wide-keys", type=whole(1_000, 10_000_000), default=100_000, help="keys of the engine's wide case"
    )
    parser.add_argument(
        "--restore-keys", type=whole(1_000, 10_000_000), default=50_000, help="keys, of 60 rows each, to restore"
    )
    parser.add_argument(
        "--compression", choices=("none", "lz4"), default="none", help="of every producer, the feeder's included"
    )
    parser.add_argument("--environments", type=Path, default=default_folder(), help="where the peers are installed")
    parser.add_argument("--keep", action="store_true", help="keep the folder with logs and data")
    parser.add_argument("--json", action="store_true", help="write everything as JSON to standard output")
    given = parser.parse_args(arguments)
    return Options(
        workloads=_chosen(parser, "--workloads", given.workloads, WORKLOADS, at_least=1),
        peers=_chosen(parser, "--peers", given.peers, tuple(PEERS), at_least=0),
        rounds=given.rounds,
        events=given.events,
        seconds=float(given.seconds),
        seed=given.seed,
        keys=given.keys,
        wide_keys=given.wide_keys,
        restore_keys=given.restore_keys,
        compression=given.compression,
        environments=given.environments,
        keep=given.keep,
        as_json=given.json,
    )


def _chosen(
    parser: argparse.ArgumentParser, option: str, text: str, known: tuple[str, ...], *, at_least: int
) -> tuple[str, ...]:
    """The names in `text`, each once and in the order given."""
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"{option}: unknown {', '.join(unknown)}; known are {', '.join(known)}")
    if len(names) < at_least:
        parser.error(f"{option}: name at least one of {', '.join(known)}")
    return names
