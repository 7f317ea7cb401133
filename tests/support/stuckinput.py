"""An input that says who reads it and then gives nothing: work that is never done, to be interrupted.

`python -m support.stuckinput FOLDER ARGUMENTS…` runs `tidemill` with it in place of what files hold.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from tidemill.features.offline import fileinput
from tidemill.features.offline.items import Item


@dataclass(frozen=True)
class StuckInput:
    """`open` puts the reader's process id into `folder`, as a file's name."""

    folder: Path
    partitions: int = 4

    def open(self, partition: int, stopped_at: dict[str, int]) -> Iterator[Item]:
        (self.folder / str(os.getpid())).touch()
        Event().wait()
        yield from ()


if __name__ == "__main__":
    from support.stuckinput import StuckInput as Importable
    from tidemill.cli.__main__ import main

    fileinput.split = lambda *_: (Importable(Path(sys.argv[1])), {})  # type: ignore[assignment,return-value]
    main(sys.argv[2:])
