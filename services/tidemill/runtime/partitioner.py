"""Which partition a key goes to: murmur2 as Java's producers and ours (`murmur2_random`) have it."""

from functools import lru_cache

_SEED, _FACTOR, _SHIFT = 0x9747B28C, 0x5BD1E995, 24
_WORD = 0xFFFFFFFF
_REMEMBERED = 1 << 18


@lru_cache(_REMEMBERED)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition, from 0, of a record with this key in a topic of so many partitions."""
    return (murmur2(key) & 0x7FFFFFFF) % partitions


def murmur2(data: bytes) -> int:
    """Kafka's 32-bit hash of a key, unsigned."""
    value = _SEED ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * _FACTOR & _WORD
        word = (word ^ word >> _SHIFT) * _FACTOR & _WORD
        value = value * _FACTOR & _WORD ^ word
    if whole < len(data):
        value = (value ^ int.from_bytes(data[whole:], "little")) * _FACTOR & _WORD
    value = (value ^ value >> 13) * _FACTOR & _WORD
    return value ^ value >> 15
