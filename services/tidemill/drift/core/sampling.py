"""A seeded share of records, chosen by their id: the same records on every run, whatever the batching."""

import zlib

_MARK = b'"id":"'
_MIX = 0x9E3779B1
_MASK = 0xFFFFFFFF


def id_bytes(value: bytes) -> bytes | None:
    """The bytes of the record's id, without decoding it; None where it is not written the way this system writes it.

    Every record here opens with `{"v":1,"id":"…"`, so the search stops after a few bytes. An id with an escaped quote
    is cut at the quote: still the same bytes every time, which is all that sampling asks.
    """
    start = value.find(_MARK, 0, 64)
    if start < 0:
        return None
    start += len(_MARK)
    end = value.find(b'"', start)
    return value[start:end] if end > start else None


class Sampler:
    """Takes about `share` of the ids: CRC-32 with the seed, then a multiplicative mix that spreads consecutive ids."""

    def __init__(self, share: float, seed: int = 0) -> None:
        self._limit = round(share * (_MASK + 1))
        self._seed = seed & _MASK

    def takes(self, identifier: bytes) -> bool:
        mixed = zlib.crc32(identifier, self._seed) * _MIX & _MASK
        return (mixed ^ mixed >> 15) < self._limit

    def takes_record(self, value: bytes) -> bool:
        """As `takes`, on an encoded record; one whose id cannot be found is taken, so that its decoder may judge it."""
        if self._limit > _MASK:
            return True
        identifier = id_bytes(value)
        return identifier is None or self.takes(identifier)
