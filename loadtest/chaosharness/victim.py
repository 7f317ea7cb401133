"""`python -m chaosharness.victim MODULE`: the service MODULE as it is, with failpoints in its process.

The name of the process is that of the endpoint file that its supervisor gave it. TIDEMILL_CHAOS_MUTANT names a
breakage to apply (`mutants`): what proves that the audit sees it.
"""

import os
import runpy
import sys
from pathlib import Path

from chaosharness.failpoints import Failpoints, install
from chaosharness.journal import ENVIRONMENT, Journal
from chaosharness.mutants import MUTANT, apply_mutant


def main() -> None:
    folder = Path(os.environ.pop(ENVIRONMENT))
    mutant = os.environ.pop(MUTANT, "")
    name = Path(os.environ["TIDEMILL_ENDPOINT_FILE"]).name.removesuffix(".endpoint.json")
    journal = Journal(folder, name)
    install(Failpoints(folder, name, journal), journal)
    if mutant:
        apply_mutant(mutant)
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
