"""What the feature engine costs beside Faust, Quix Streams, Bytewax and a hand-written loop, on one real local Kafka.

    python loadtest/features.py --peers faust,quix,bytewax,hand --rounds 5 --json
    python loadtest/features.py --workloads engine,latency --peers ""

Starts its own Kafka, makes the peers' environments on first use, checks every output, and ends by itself.
loadtest/README.md says what each workload means.
"""

import sys

from featurebench import session

if __name__ == "__main__":
    sys.exit(session.main(sys.argv[1:], __doc__))
