"""What is done to the network between the services and the broker."""

from collections.abc import Callable

from chaosharness.fleet import Fleet
from chaosharness.proxy import Proxy
from chaosharness.schedule import Fault
from chaosharness.wire import Api

_LASTS_S = 5.0
_HELD_WITHIN_S = 25.0


class NetworkFaults:
    """Each returns once the network is right again, and says whether a client had to do with it."""

    def __init__(self, fleet: Fleet, proxy: Proxy) -> None:
        self._fleet = fleet
        self._proxy = proxy
        self._do: dict[str, Callable[[], bool]] = {
            "delay": self._delay,
            "reset": self._reset,
            "half-open": self._half_open,
            "hold": self._hold,
        }

    def do(self, fault: Fault) -> bool:
        done = self._do[fault.detail]()
        if done:
            self._fleet.journal.write(fault.name)
        return done

    def _delay(self) -> bool:
        before = self._count("delayed")
        self._proxy.delay(50, jitter_ms=30)
        self._fleet.wait(_LASTS_S)
        self._proxy.delay(0)
        return self._count("delayed") > before

    def _reset(self) -> bool:
        """Half of the connections, several times over."""
        reset = 0
        for _ in range(3):
            reset += self._proxy.reset(share=0.5)
            self._fleet.wait(_LASTS_S / 3)
        return reset > 0

    def _half_open(self) -> bool:
        """Answers get lost, for longer than a request may take, and no connection closes."""
        before = self._count("swallowed_bytes")
        self._proxy.half_open(2 * _LASTS_S, requests=False)
        healed = self._fleet.wait_for(lambda _: self._proxy.healed(), 4 * _LASTS_S)
        return healed and self._count("swallowed_bytes") > before

    def _hold(self) -> bool:
        """An EndTxn arrives inside its producer's next transaction."""
        before = self._count("released")
        self._proxy.hold(Api.END_TXN)
        released = self._fleet.wait_for(lambda _: self._count("released") > before, _HELD_WITHIN_S)
        if not released:
            self._proxy.hold(Api.END_TXN, count=0)
        return released

    def _count(self, name: str) -> int:
        return self._proxy.counts().get(name, 0)
