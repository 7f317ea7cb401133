"""What the loop has added to the service and not committed yet. Pure."""

from collections import Counter

from tidemill.runtime.ports import Partition


class Pending:
    """Positions to commit, how many records of each topic, and the newest timestamp among them."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.positions: dict[Partition, int] = {}
        self.counts: Counter[str] = Counter()
        self.newest = 0

    @property
    def records(self) -> int:
        return self.counts.total()
