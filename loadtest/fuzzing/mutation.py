"""Inputs from valid ones: JSON with members changed, bytes flipped, cut, repeated, spliced. Pure; a seed decides."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

_TOKENS = (
    *(b"null", b"true", b"false", b"0", b"-0", b"-1", b"1.0", b"-0.0", b"1e308", b"1e999", b"-1e999", b"1e-999"),
    *(b"NaN", b"Infinity", b"9007199254740993", b"9223372036854775807", b"9223372036854775808"),
    *(b"-9223372036854775809", b"18446744073709551616", b"1" + b"0" * 30, b"9" * 5_000, b"0.1e1", b"01", b"1."),
    *(b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3\xa9"'),
    *(b'"' + b"a" * 400 + b'"', b'"NaN"', b'"1e5"', b'"2018-04-01T00:00:00Z"', b'"\xd9\xa3"', b'" 7 "'),
    *(b"[]", b"{}", b"[null]", b"[[]]", b'{"":null}', b"[" * 300 + b"]" * 300, b'{"a":' * 300 + b"1" + b"}" * 300),
)
"""Written in the place of a value, as they are: much of it is no JSON, or more than a reader may expect of it."""
_BYTES = (
    b"\x00",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\xc3",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b",",
    b":",
    b"\n",
)
_MOST_CHANGES = 3


class Mutator:
    """Makes inputs from `seeds`. Those that are JSON objects or arrays are also changed member by member."""

    def __init__(self, seeds: Sequence[bytes]) -> None:
        self._seeds = list(seeds)
        self._documents = [seed for seed in seeds if seed[:1] in (b"{", b"[") and _parses(seed)]
        self._names = sorted({name for seed in self._documents for name in _names(orjson.loads(seed))}) or ["x"]

    def make(self, rng: random.Random) -> bytes:
        """The next input; about one in forty is a seed as it is."""
        chance = rng.random()
        if chance < 0.025:
            return rng.choice(self._seeds)
        if self._documents and chance < 0.65:
            return self._changed(rng)
        return self._scrambled(rng, rng.choice(self._seeds))

    def _changed(self, rng: random.Random) -> bytes:
        holder = [orjson.loads(rng.choice(self._documents))]
        tokens: list[bytes] = []
        for _ in range(rng.randint(1, _MOST_CHANGES)):
            places = list(_places(holder))
            parent, at = places[rng.randrange(len(places))]
            what = rng.randrange(6)
            if what == 0 and parent is not holder:
                del parent[at]
            elif what == 1 and isinstance(parent, dict):
                parent[rng.choice(self._names)] = parent[at]
            elif what == 2 and isinstance(parent, list) and parent is not holder:
                parent.insert(at, parent[at])
            elif what == 3 and type(parent[at]) in (int, float):
                parent[at] = _near(rng, parent[at])
            else:
                parent[at] = f"@token{len(tokens)}@"
                tokens.append(rng.choice(_TOKENS))
        try:
            text = orjson.dumps(holder[0])
        except (TypeError, ValueError):
            return rng.choice(self._seeds)
        for number, token in enumerate(tokens):
            text = text.replace(b'"@token%d@"' % number, token)
        return text

    def _scrambled(self, rng: random.Random, seed: bytes) -> bytes:
        data = bytearray(seed)
        for _ in range(rng.randint(1, _MOST_CHANGES)):
            at = rng.randrange(len(data) + 1)
            what = rng.randrange(7)
            if what == 0 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif what == 1 and at < len(data):
                data[at] = rng.randrange(256)
            elif what == 2:
                del data[at : at + rng.randint(1, 16)]
            elif what == 3:
                data[at:at] = rng.choice(_BYTES)
            elif what == 4:
                data[at:at] = data[at : at + rng.randint(1, 32)]
            elif what == 5:
                other = rng.choice(self._seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            else:
                data[at:at] = rng.choice(_TOKENS)
        return bytes(data)


def _near(rng: random.Random, number: float) -> object:
    """The same number in another size, sign or kind."""
    return rng.choice((-number, number + 1, number * 10, float(number), int(number), number / 3, 0, 2**53, -(2**63)))


def _parses(text: bytes) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, index or name) of every value inside `value`."""
    if isinstance(value, dict):
        for name in value:
            yield value, name
            yield from _places(value[name])
    elif isinstance(value, list):
        for at in range(len(value)):
            yield value, at
            yield from _places(value[at])


def _names(value: Any) -> Iterator[str]:
    return (at for _, at in _places(value) if isinstance(at, str))
