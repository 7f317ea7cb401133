"""Hostile bytes for all that reads bytes from a topic or from HTTP: each is taken or refused as declared, in time.

    python loadtest/fuzz.py --executions 10000000 --processes 2 --seed 1 --json > fuzz.json
    python loadtest/fuzz.py --executions 20000 --target ingest-payments --target yaml

One seed makes the same inputs. Anything but a declared refusal, a call that takes too long, and a process that dies is
a finding, kept with its input (`--findings DIR`). Exit code 1 if there are findings. loadtest/README.md says more.
"""

import sys

from fuzzing import session

if __name__ == "__main__":
    sys.exit(session.main(sys.argv[1:], __doc__))
