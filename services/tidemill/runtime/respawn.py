"""A killed service is back at once: its work runs in a process forked from a parent that has everything loaded.

Starting Python and loading a service's libraries and kernels takes seconds, a fork milliseconds (decision note 0009).
The parent has no client, thread or socket: nothing that a fork would tear.
"""

import ctypes
import gc
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from types import FrameType

from tidemill import clock
from tidemill.runtime.logs import get_logger

SUPPORTED = sys.platform == "linux"
"""Elsewhere a worker could outlive its parent, and the system's own libraries do not stand a fork."""

_PR_SET_PDEATHSIG = 1
_ASKED_TO_STOP = (signal.SIGTERM, signal.SIGINT)
_BY_SIGNAL = 128
_SHORT_LIFE_S = 5.0
_SHORT_LIVES = 5
_log = get_logger("respawn")


def run_in_worker(work: Callable[[], int]) -> int:
    """`work()` in a worker process, forked anew as often as a signal kills it; returns its exit status, in both
    processes. What a worker decides itself, a status, is never overruled: whoever supervises this process acts on it.

    SIGTERM and SIGINT are passed on, and end it after the worker. The worker is killed when this process dies. Five
    workers in a row that were killed within five seconds of their start end this process too, by the same signal: then
    a supervisor's growing pauses are better. Blocks; call it on the main thread, before any thread, client or socket is
    made.
    """
    return _Parent().run(work) if SUPPORTED else work()


class _Parent:
    def __init__(self) -> None:
        self._worker: int | None = None
        self._asked = False
        self._lives: deque[float] = deque(maxlen=_SHORT_LIVES)
        self._prctl = ctypes.CDLL(None).prctl

    def run(self, work: Callable[[], int]) -> int:
        gc.collect()
        gc.freeze()  # else the worker's first collection would copy every page that it shares with this process
        for number in _ASKED_TO_STOP:
            signal.signal(number, self._pass_on)
        while True:
            born = clock.monotonic()
            if self._fork():
                return work()
            status = self._await_worker()
            if status >= 0:
                return status
            killer = signal.Signals(-status)
            if self._asked:
                return 0 if killer in _ASKED_TO_STOP else _BY_SIGNAL + killer
            self._lives.append(clock.monotonic() - born)
            if len(self._lives) == _SHORT_LIVES and max(self._lives) < _SHORT_LIFE_S:
                return _die_of(killer)
            _log.error("worker killed, starting another", signal=killer.name, lived_s=round(self._lives[-1], 1))

    def _fork(self) -> bool:
        """True in the worker. No signal is lost in between: the worker has its own handling before one reaches it."""
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED_TO_STOP)
        try:
            worker = os.fork()
            if worker:
                self._worker = worker
                return False
            for number in _ASKED_TO_STOP:
                signal.signal(number, signal.SIG_DFL)
            self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # it died before the request was in place
                os._exit(_BY_SIGNAL + signal.SIGKILL)
            return True
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED_TO_STOP)

    def _await_worker(self) -> int:
        """Its status, negative for a signal. What a container's first process inherits is reaped on the way."""
        while True:
            ended, status = os.waitpid(-1, 0)
            if ended == self._worker:
                self._worker = None
                return os.waitstatus_to_exitcode(status)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._worker is not None:
            os.kill(self._worker, number)


def _die_of(killer: signal.Signals) -> int:
    """As the worker did, so that a supervisor sees why; a container's first process survives that and returns."""
    _log.critical("workers are killed one after the other", signal=killer.name, next_step="look for what kills them")
    if killer is not signal.SIGKILL:
        signal.signal(killer, signal.SIG_DFL)
    os.kill(os.getpid(), killer)
    return _BY_SIGNAL + killer
