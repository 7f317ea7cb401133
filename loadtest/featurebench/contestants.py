"""Who takes part in B1 and B2: what each installs, which program it runs, and what must be known of it to be fair."""

from dataclasses import dataclass
from pathlib import Path

PEERS_FOLDER = Path(__file__).parent / "peers"
OURS = "tidemill"


@dataclass(frozen=True, slots=True)
class Peer:
    """One framework (or the hand-written loop) that ours is compared with."""

    name: str
    program: str
    """File in `peers/`, run by the Python of the peer's own environment."""
    requirements: tuple[str, ...]
    """Pinned; everything else comes as these ask for it, and the JSON holds what that was."""
    share: float
    """Of the events, what one run is given: a slow peer would otherwise take hours. Its prefix of the same stream."""
    b1: str
    b2: str
    """What the two workloads mean for it."""
    reads_uncommitted: bool = False
    """It starts on the events while they are still being written, so its CPU is counted from then on."""


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="faust",
            program="run_faust.py",
            requirements=("faust-streaming==0.15.3", "aiokafka==0.14.0", "orjson==3.13.0", "uvloop==0.22.1"),
            share=0.04,
            b1="at-least-once, a dict in the agent",
            b2="at-least-once, tumbling Table in memory with its changelog topic",
            reads_uncommitted=True,
        ),
        Peer(
            name="quix",
            program="run_quix.py",
            requirements=("quixstreams==3.28.1", "confluent-kafka==2.12.2", "orjson==3.13.0"),
            share=0.2,
            b1="at-least-once, a dict in an apply function",
            b2="exactly-once, tumbling_window().current() on RocksDB with its changelog topic",
        ),
        Peer(
            name="bytewax",
            program="run_bytewax.py",
            requirements=("bytewax[kafka]==0.21.1", "confluent-kafka==2.16.1", "orjson==3.13.0"),
            share=1.0,
            b1="at-least-once, stateful operator, no recovery store",
            b2="at-least-once, the same with a recovery store",
        ),
        Peer(
            name="hand",
            program="run_hand.py",
            requirements=("confluent-kafka==2.16.1", "orjson==3.13.0"),
            share=1.0,
            b1="exactly-once, a dict, a transaction per 1,000 records",
            b2="exactly-once, the same and a changelog record per dirty key in the same transaction",
        ),
    )
}
