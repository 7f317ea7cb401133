"""Wall clocks of the services that jump, by libfaketime in their processes. Their monotonic clocks stay right."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from chaosharness.fleet import Fleet
from chaosharness.journal import Entry
from chaosharness.schedule import Fault
from tidemill.errors import EnvironmentUnusable

_NOTICED_WITHIN_S = 20.0
_JUMPED_FOR_S = 5.0
_WAITS = Path(__file__).with_name("cndwait.c")


class FakeClock:
    """Shared by all services. Raises EnvironmentUnusable where it cannot be done."""

    def __init__(self, folder: Path) -> None:
        found, compiler = find_spec("libfaketime"), shutil.which("cc")
        if found is None or found.origin is None or compiler is None:
            raise EnvironmentUnusable(
                "Clock jumps need the package libfaketime and a C compiler.",
                hint="`pip install libfaketime` (it is compiled on this machine), or leave `clock` out of --faults.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        library = Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
        waits = folder / "cndwait.so"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(waits), str(_WAITS), "-lpthread"], check=True)
        self._libraries = f"{waits}:{library}"
        self._file = folder / "faketime"
        self.set(0)

    @property
    def environment(self) -> dict[str, str]:
        """Of every process whose clock is to jump."""
        return {
            "LD_PRELOAD": self._libraries,
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_CACHE_DURATION": "1",
        }

    def set(self, seconds: int) -> None:
        """From now on the services' clocks are so far ahead of (or behind) the machine's."""
        draft = self._file.with_name("faketime.new")
        draft.write_text(f"{seconds:+d}")
        draft.replace(self._file)

    def jump(self, fleet: Fleet, fault: Fault) -> bool:
        """An hour ahead or behind for a while, then right again."""
        self.set(int(fault.detail))
        unaware = {name for name in fleet.stack.supervisor.names if "." not in name}

        def all_noticed(entries: list[Entry]) -> bool:
            unaware.difference_update(entry.service for entry in entries if entry.kind == "clock")
            return not unaware

        jumped = fleet.wait_for(all_noticed, _NOTICED_WITHIN_S)
        fleet.wait(_JUMPED_FOR_S)
        self.set(0)
        return jumped
