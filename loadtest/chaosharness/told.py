"""What a client was told of its transactions against what became visible. Pure."""

from collections import Counter
from collections.abc import Sequence
from enum import Enum
from typing import Literal, get_args

Half = Literal["first", "second"]
HALVES: tuple[Half, ...] = get_args(Half)


class Told(Enum):
    COMMITTED = "committed"
    ABORTED = "aborted"
    NOTHING = "nothing"
    """The commit's outcome stayed unknown: it may be visible, but only whole."""


_ALLOWED = {
    Told.COMMITTED: {(1, 1)},
    Told.ABORTED: {(0, 0)},
    Told.NOTHING: {(0, 0), (1, 1)},
}


def contradictions(told: Sequence[Told], seen: Sequence[bytes]) -> list[str]:
    """One line for each transaction that is visible otherwise than its client was told. Values are
    `<transaction>:<half>`, each transaction has both halves; a value of no transaction is a contradiction as well."""
    times = Counter(seen)
    lines = []
    for number, what in enumerate(told):
        first, second = (times.pop(f"{number}:{half}".encode(), 0) for half in HALVES)
        if (first, second) not in _ALLOWED[what]:
            lines.append(
                f"transaction {number}: its client was told {what.value}, "
                f"its first half is visible {first} time(s), its second {second}"
            )
    return lines + [f"{value!r} is visible and nobody wrote it" for value in sorted(times)]
