"""A seeded share of records, chosen by their id: the same records on every run, whatever the batching."""

import zlib

_MARK = b'"id":"'
_SEARCH = 64
_MIX = 0x9E3779B1
_MASK = 0xFFFFFFFF


class Sampler:
    """Takes about `share` of the ids: CRC-32 with the seed, then a multiplicative mix that spreads consecutive ids."""

    def __init__(self, share: float, seed: int = 0) -> None:
        self._limit = round(share * (_MASK + 1))
        self._seed = seed & _MASK

    def takes(self, identifier: bytes) -> bool:
        mixed = zlib.crc32(identifier, self._seed) * _MIX & _MASK
        return (mixed ^ mixed >> 15) < self._limit

    def takes_record(self, value: bytes) -> bool:
        """As `takes`, on an encoded record, without decoding it.

        Every record here opens with `{"v":1,"id":"…"`, so the search stops after a few bytes. An id with an escaped
        quote is cut there: the same bytes every time, which is all that sampling asks. A record whose id is not found
        is taken, so that its decoder may judge it.
        """
        if self._limit > _MASK:
            return True
        start = value.find(_MARK, 0, _SEARCH) + len(_MARK)
        end = value.find(b'"', start)
        if start < len(_MARK) or end < 0:
            return True
        return self.takes(value[start:end])
