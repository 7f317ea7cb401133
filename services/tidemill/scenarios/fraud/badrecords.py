"""The bad records that the stream mixes in: each kind, how it is written, and what must become of it."""

from collections.abc import Callable
from typing import NamedTuple

_YEAR_2100_MS = 4_102_444_800_000
_TOO_LONG = 40  # so many terminal ids in a row are longer than the schema's 200 characters


class Original(NamedTuple):
    """The good payment that a bad record imitates, and the numbers that vary the imitation."""

    value: bytes
    payment_id: str
    paid_at_ms: int
    card: str
    terminal: str
    amount: str
    number: int
    """Position of the original among all payments; makes fresh ids."""
    late_event_ms: int
    """An event time for this card that is too old to be taken."""
    oversize_bytes: int


class BadKind(NamedTuple):
    """`code` is the reason in the dead letter, or None where the record must be dropped and counted as a duplicate."""

    name: str
    code: str | None
    encode: Callable[[Original], bytes]


def _payment(
    original: Original,
    kind: str,
    *,
    version: int = 1,
    paid_at_ms: int | None = None,
    terminal: str | None = None,
    amount: str | None = None,
    extra: str = "",
) -> bytes:
    """A payment with an id of its own, so that no valid payment is missed or repeated because of it."""
    when = original.paid_at_ms if paid_at_ms is None else paid_at_ms
    where = original.terminal if terminal is None else terminal
    much = original.amount if amount is None else amount
    return (
        f'{{"v":{version},"payment_id":"bad-{kind}-{original.number:09d}","paid_at_ms":{when},'
        f'"card":"{original.card}","terminal":"{where}","amount":{much}{extra}}}'
    ).encode()


def _non_finite(original: Original) -> bytes:
    return _payment(original, "non-finite", amount=("NaN", "1e999", "-Infinity")[original.number % 3])


def _without_id(original: Original) -> bytes:
    return original.value.replace(f'"payment_id":"{original.payment_id}",'.encode(), b"")


BAD_KINDS = (
    BadKind("broken_json", "not_json", lambda original: original.value[: -2 - original.number % 40]),
    BadKind("non_finite", "non_finite", _non_finite),
    BadKind(
        "schema_violation",
        "schema",
        lambda original: _payment(original, "schema", terminal=original.terminal * _TOO_LONG),
    ),
    BadKind("wrong_type", "wrong_type", lambda original: _payment(original, "type", amount='"twelve"')),
    BadKind(
        "out_of_range", "out_of_range", lambda original: _payment(original, "range", amount=f"-1{original.amount}")
    ),
    BadKind("unknown_version", "unknown_version", lambda original: _payment(original, "version", version=99)),
    BadKind("missing_id", "missing_id", _without_id),
    BadKind(
        "oversize",
        "oversize",
        lambda original: _payment(original, "size", extra=f',"note":"{"x" * original.oversize_bytes}"'),
    ),
    BadKind("duplicate", None, lambda original: original.value),
    BadKind("late", "late", lambda original: _payment(original, "late", paid_at_ms=original.late_event_ms)),
    BadKind("future", "future", lambda original: _payment(original, "future", paid_at_ms=_YEAR_2100_MS)),
)
