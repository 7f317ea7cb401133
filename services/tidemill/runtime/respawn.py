"""A killed service is back at once: its work runs in a process forked from a parent that has everything loaded.

Starting Python and loading a service's libraries and kernels takes seconds, a fork milliseconds (decision note 0009).
The parent has no client and no socket, and no thread but OpenBLAS', which ends its own before a fork: nothing is torn.
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
_WITHIN_S = 300.0
_DEATHS = 10
_IN_A_ROW_S = 5.0
_IN_A_ROW = 5
_log = get_logger("respawn")


def run_in_worker(work: Callable[[], int]) -> int:
    """`work()` in a worker process, forked anew as often as a signal kills it; returns its exit status, in both
    processes. What a worker decides itself, a status, is never overruled: whoever supervises this process acts on it.

    SIGTERM and SIGINT are passed on, and end it after the worker. The worker is killed when this process dies. Where
    workers die one after the other (five within five seconds of their start each, or ten within five minutes), this
    process ends too, by the same signal: then a supervisor's growing pauses are better. Settings and files that were
    read before are those of every worker. Blocks; call it on the main thread, before any thread, client or socket is
    made.
    """
    return _Parent().run(work) if SUPPORTED else work()


class _Parent:
    def __init__(self) -> None:
        self._worker: int | None = None
        self._asked = False
        self._lives: deque[float] = deque(maxlen=_IN_A_ROW)
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._prctl = ctypes.CDLL(None).prctl

    def run(self, work: Callable[[], int]) -> int:
        gc.collect()
        gc.freeze()  # else the worker's first collection would copy every page that it shares with this process
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, as some launchers leave it, it would lose the status
        for number in _ASKED_TO_STOP:
            signal.signal(number, self._pass_on)
        killer = 0
        while True:
            born = clock.monotonic()
            worker = self._fork()
            if worker is None:
                return 0 if killer in (0, *_ASKED_TO_STOP) else _BY_SIGNAL + killer
            if worker == 0:
                return work()
            status = self._await_worker()
            if status >= 0:
                return status
            killer = -status
            if self._died_too_often(born):
                return _die_of(killer)
            if not self._asked:
                # a warning, for an error would pass for the reason of whatever ends this process later
                _log.warning("worker killed, starting another", signal=_name(killer), lived_s=round(self._lives[-1], 1))

    def _died_too_often(self, born: float) -> bool:
        now = clock.monotonic()
        self._lives.append(now - born)
        self._deaths.append(now)
        in_a_row = len(self._lives) == _IN_A_ROW and max(self._lives) < _IN_A_ROW_S
        return in_a_row or (len(self._deaths) == _DEATHS and now - self._deaths[0] < _WITHIN_S)

    def _fork(self) -> int | None:
        """The worker's id, 0 in the worker, None where this process was asked to stop and forks no more.

        No signal is lost: one that came before is seen here, one that comes now reaches both processes, and the worker
        has its own handling by then.
        """
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _ASKED_TO_STOP)
        try:
            if self._asked:
                return None
            worker = os.fork()
            if worker:
                self._worker = worker
                return worker
            for number in _ASKED_TO_STOP:
                signal.signal(number, signal.SIG_DFL)
            if self._prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
                os.write(2, b"could not ask the kernel to end the worker with its parent\n")
                os._exit(1)
            if os.getppid() != parent:  # it died before the request was in place
                os._exit(_BY_SIGNAL + signal.SIGKILL)
            return 0
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKED_TO_STOP)

    def _await_worker(self) -> int:
        """Its status, negative for a signal. What a container's first process inherits is reaped on the way.

        It is forgotten before it is reaped: until then its id is nobody else's, so a signal is passed on to nobody.
        """
        while True:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            assert ended is not None, "it was asked to block"
            mine = ended.si_pid == self._worker
            if mine:
                self._worker = None
            _, status = os.waitpid(ended.si_pid, 0)
            if mine:
                return os.waitstatus_to_exitcode(status)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        if self._worker is not None:
            os.kill(self._worker, number)


def _die_of(killer: int) -> int:
    """As the worker did, so that a supervisor sees why; a container's first process survives that and returns."""
    _log.critical("workers are killed one after the other", signal=_name(killer), next_step="look for what kills them")
    if killer != signal.SIGKILL:
        signal.signal(killer, signal.SIG_DFL)
    os.kill(os.getpid(), killer)
    return _BY_SIGNAL + killer


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"
