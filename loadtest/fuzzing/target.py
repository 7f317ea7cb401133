"""What is fuzzed: one decoder, valid inputs for it, and the refusals that it declares."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tidemill_schemas import examples

Decode = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """`fresh` gives the decoder in a new state; it is called for each block of inputs. Whatever `decode` raises besides
    `refusals` is a finding."""

    seeds: Sequence[bytes]
    fresh: Callable[[], Decode]
    refusals: tuple[type[BaseException], ...] = ()


def stateless(seeds: Sequence[bytes], decode: Decode, *refusals: type[BaseException]) -> Target:
    return Target(seeds, lambda: decode, refusals)


def example_values(*names: str, invalid: bool = True) -> list[bytes]:
    """The examples of record schemas as bytes, in the order of their names."""
    import orjson

    found = []
    for name in names:
        found += examples(name)
        if invalid:
            found += examples(name, valid=False)
    return [orjson.dumps(example.document) for example in found]


def pair(key: bytes, value: bytes) -> bytes:
    """A key and a value as one input."""
    return len(key).to_bytes(1, "big") + key + value


def unpaired(data: bytes) -> tuple[bytes, bytes]:
    size = data[0] if data else 0
    return data[1 : 1 + size], data[1 + size :]
