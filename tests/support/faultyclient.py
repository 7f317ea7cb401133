"""A client of the memory broker whose calls fail as they are told to."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from tidemill.errors import TidemillError
from tidemill.runtime.memory import MemoryBroker, MemoryClient
from tidemill.runtime.ports import AbortedError, Polled, ProducerLostError


class KilledError(BaseException):
    """The process died here."""


class InjectedError(TidemillError):
    """A broker said no."""


FAULTS = {
    "begin": ("lost",),
    "produce": ("aborted", "lost"),
    "send_offsets": ("aborted", "lost"),
    "commit": ("aborted", "lost", "lost_but_committed"),
    "abort": ("lost",),
    "recover": ("refused",),
    "poll": ("refused",),
    "committed": ("refused",),
    "read_changelog": ("refused",),
    "seek": ("refused",),
}
"""Each call of the port that can fail, with the ways in which it may; each may also kill the process."""
KILLS = ("killed_before", "killed_after")
SLEEPS = ("replaced", "expelled")
"""The process stands still before the call: meanwhile another one takes its place, or the others its partitions."""
IN_A_TRANSACTION = ("produce", "send_offsets", "commit", "abort", "recover")
PLANS = [
    *((call, how) for call, ways in FAULTS.items() for how in (*ways, *KILLS)),
    *((call, how) for call in IN_A_TRANSACTION for how in SLEEPS),
]
BRINGS_IT_ABOUT = {
    **{call: {"send_offsets": "aborted"} for call in ("abort", "committed", "read_changelog", "seek")},
    "recover": {"commit": "lost"},
}
"""What has to fail before these are called at all."""


class FaultyClient(MemoryClient):
    """Fails as it is told to, once for each; what a killed process calls does nothing."""

    def __init__(self, broker: MemoryBroker, group: str, instance: int) -> None:
        super().__init__(broker, group, instance)
        self.faults: dict[str, str] = {}
        self.met: Counter[str] = Counter()
        self.dead = False
        self.started = False
        self.stalled: set[int] = set()
        self.while_it_stands: Callable[[str], None] = lambda _: None

    def start(self, *arguments: Any) -> None:
        if not self.started:
            self.started = True
            super().start(*arguments)

    def close(self) -> None:
        if not self.dead:
            super().close()

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """Partitions whose fetch hangs bring neither records nor an end."""
        paused = set(self._paused)
        self._paused |= {partition for partition in self._positions if partition[1] in self.stalled}
        held = set(self._paused)
        try:
            return self._call("poll", max_records, timeout_s)
        finally:
            # A rebalance inside the poll forgets pauses; what the loop had paused stays so otherwise.
            self._paused -= held - paused

    def committed(self, *arguments: Any) -> Any:
        return self._call("committed", *arguments)

    def read_changelog(self, *arguments: Any) -> Any:
        return self._call("read_changelog", *arguments)

    def seek(self, *arguments: Any) -> None:
        self._call("seek", *arguments)

    def begin(self) -> None:
        self._call("begin")

    def produce(self, records: Any) -> None:
        """An abort comes when half is written."""
        records = list(records)
        if self.faults.get("produce") == "aborted":
            super().produce(records[: len(records) // 2])
        self._call("produce", records)

    def send_offsets(self, *arguments: Any) -> None:
        self._call("send_offsets", *arguments)

    def commit(self, *arguments: Any) -> None:
        self._call("commit", *arguments)

    def abort(self, *arguments: Any) -> None:
        self._call("abort", *arguments)

    def recover(self) -> None:
        self._call("recover")

    def _call(self, name: str, *arguments: Any) -> Any:
        how = self.faults.pop(name, None)
        if how is None:
            return getattr(MemoryClient, name)(self, *arguments)
        self.met[f"{name} {how}"] += 1
        match how:
            case "aborted":
                raise AbortedError(f"injected: {name}")
            case "lost":
                raise ProducerLostError(f"injected: {name}")
            case "refused":
                raise InjectedError(f"injected: {name}")
            case "killed_before":
                self.dead = True
                raise KilledError
        if how in SLEEPS:
            self.while_it_stands(how)
            return getattr(MemoryClient, name)(self, *arguments)
        getattr(MemoryClient, name)(self, *arguments)
        if how == "lost_but_committed":
            raise ProducerLostError(f"injected: {name}, outcome unknown")
        self.dead = True
        raise KilledError
