"""Kill, fence, stop and rebalance a whole pipeline by a seeded schedule, and count what it lost or did twice.

    python loadtest/chaos.py --events 60000 --kills 40 --seed 1
    python loadtest/chaos.py --events 1000000 --kills 300 --protocol consumer --faults kill,usurp,zombie,storm --json

Starts its own Kafka and all services, streams simulated payments with bad records among them, and audits what was
committed with another client than the services'. Ends by itself; exit code 0 only where nothing was wrong and every
fault took place. loadtest/README.md says what is checked.
"""

import sys

from chaosharness import session

if __name__ == "__main__":
    sys.exit(session.main(sys.argv[1:], __doc__))
