"""Compile every kernel before the first record; as a program, into the user's cache or the folder of `--fill`.

python -m tidemill.features.warmup --fill /opt/tidemill/kernels     # when an image is built
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tidemill.features.kernel_cache import prepare_cache


def compile_kernels(*, rowwise: bool = True, bounded: bool = True) -> None:
    """Run each kernel once on a stage of its own; types are the same for every stage, so all are compiled then.

    Without `rowwise` the variants for stages that look at rows one by one (`Tables.rowwise`) are left out, without
    `bounded` those for stages that merge rows or have a cap (`StageDefinition.bounds`).
    """
    import numpy as np

    from tidemill.features.core import rings, scan
    from tidemill.features.core.bounds import Caps
    from tidemill.features.core.columns import Column, hash_texts
    from tidemill.features.core.definition import StageDefinition, Tables
    from tidemill.features.core.engine import WindowEngine

    stage = StageDefinition(
        index=0,
        entity="warm-up",
        names=("count",),
        aggregates=(0,),
        values=(),
        calendar=(),
        kept=(Column("value", "amount", ()),),
        numbers=("amount",),
        scales=(1,),
        texts=(),
        tables=Tables(
            edges=np.array([[0, 0, 0], [10, 0, 0]], np.int64),
            walks=np.zeros((0, scan.WALK_WIDTH), np.int64),
            spec=np.array([[0, 0, 1, 0, 1, 0, 0, 0]], np.int64),
            scans=np.zeros((0, scan.SPEC_WIDTH), np.int64),
            gates=np.full(3, -1, np.int64),
        ),
        lateness=5,
        retention=100,
        expiry_grid=1_000,
    )
    keys = [b"a", b"a", b"a", b"b"]
    times = np.array([10, 7, 10, 5_000], np.int64)
    labels = np.array([-1, -1, 1, -1], np.int64)
    engine = WindowEngine(stage)
    walked = replace(stage.tables, walks=np.array([[scan.LAST_EVENTS, 0, 1, 10, -1]], np.int64))
    variants = [stage, replace(stage, tables=walked)] if rowwise else [stage]
    variants += [replace(one, caps=Caps(keys=9, size=None, evict=False)) for one in variants if bounded]
    for one in (engine, *map(WindowEngine, variants[1:])):
        one.slide(keys, times, hash_texts(["1", "2", "1", "3"]), labels, np.ones((4, 1), np.int64))
    saved = [(key, value) for key, value in engine.pack() if value is not None]
    WindowEngine(stage).restore(saved)
    arena, meta, ctl = np.zeros((4, 6), np.int64), np.zeros((1, 13), np.int64), np.zeros(rings.CTL_SIZE, np.int64)
    rings.repack(arena, meta, ctl, 1, arena.copy())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tidemill.features.warmup", description=__doc__)
    parser.add_argument("--fill", type=Path, metavar="DIR", help="folder for the compiled kernels")
    folder = parser.parse_args(arguments).fill
    where = prepare_cache(os.environ, folder=folder, seed=None, fallback=folder or Path(tempfile.gettempdir()))
    compile_kernels()
    print(f"kernels compiled into {where}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
