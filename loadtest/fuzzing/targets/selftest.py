"""Decoders with a planted defect each, which a campaign must find. Not among the targets that are run by default."""

import os
import signal
import time

from fuzzing.target import Target, stateless

_SEEDS = (b'{"a":1,"b":[2,3]}',)
_RARE = 97


def raised() -> Target:
    def decode(data: bytes) -> object:
        if sum(data) % _RARE == 0:
            raise KeyError("planted")
        raise ValueError("declared")

    return stateless(_SEEDS, decode, ValueError)


def died() -> Target:
    def decode(data: bytes) -> object:
        if sum(data) % _RARE == 0:
            os.kill(os.getpid(), signal.SIGSEGV)
        return data

    return stateless(_SEEDS, decode)


def hung() -> Target:
    def decode(data: bytes) -> object:
        while sum(data) % _RARE == 0:
            time.sleep(1)
        return data

    return stateless(_SEEDS, decode)


def slow() -> Target:
    def decode(data: bytes) -> object:
        began = time.process_time()
        while sum(data) % _RARE == 0 and time.process_time() - began < 0.06:
            pass
        return data

    return stateless(_SEEDS, decode)
