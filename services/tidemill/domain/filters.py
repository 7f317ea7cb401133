"""The text of `where`, read by hand: comparisons joined by `and`, such as `channel == "web" and amount >= 9.5`.

    filter     := comparison ("and" comparison)*
    comparison := field ("==" | "!=" | "<" | "<=" | ">" | ">=") (text | number)

A text stands in single or double quotes, without escapes; a number is decimal, and taken exactly.
"""

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, cast

Operator = Literal["==", "!=", "<", "<=", ">", ">="]

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<operator>==|!=|<=|>=|<|>)
      | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?![\w.]))
      | (?P<text>"[^"]*"|'[^']*')
    )""",
    re.VERBOSE,
)


@dataclass(frozen=True, order=True)
class Comparison:
    """`field operator value`; a text has only == and !=."""

    field: str
    operator: Operator
    value: str | Decimal

    def __str__(self) -> str:
        shown = f'"{self.value}"' if isinstance(self.value, str) else f"{self.value.normalize():f}"
        return f"{self.field} {self.operator} {shown}"


@dataclass(frozen=True)
class Filter:
    """Events for which every comparison holds."""

    comparisons: tuple[Comparison, ...]

    def __str__(self) -> str:
        """The same filter as text, in one spelling."""
        return " and ".join(map(str, self.comparisons))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int

    def __str__(self) -> str:
        return f"{self.text!r} at column {self.at + 1}" if self.kind else "the end"


class FilterError(ValueError):
    """The text is no filter; the message says what was expected where."""


def parse_filter(text: str) -> Filter:
    """The filter that `text` says. Raises FilterError. Knows no fields: whether they exist is for the caller."""
    tokens = _tokens(text)
    comparisons = [_comparison(tokens[0:3])]
    position = 3
    while tokens[position].kind:
        if (tokens[position].kind, tokens[position].text) != ("name", "and"):
            raise FilterError(f"expected `and` or the end, not {tokens[position]}")
        comparisons.append(_comparison(tokens[position + 1 : position + 4]))
        position += 4
    return Filter(tuple(dict.fromkeys(comparisons)))


def _comparison(tokens: list[_Token]) -> Comparison:
    """The first three of `tokens`, the last of which may be the end."""
    wanted = (("name",), ("operator",), ("number", "text"))
    names = ("the name of a field", "one of == != < <= > >=", "a number or a quoted text")
    for token, kinds, name in zip(tokens, wanted, names, strict=False):
        if token.kind not in kinds or (token.kind, token.text) == ("name", "and"):
            raise FilterError(f"expected {name}, not {token}")
    field, sign, literal = tokens
    operator = cast("Operator", sign.text)
    if literal.kind == "number":
        return Comparison(field.text, operator, Decimal(literal.text))
    if operator not in ("==", "!="):
        raise FilterError(f"a text is compared by == or !=, not {sign}")
    return Comparison(field.text, operator, literal.text[1:-1])


def _tokens(text: str) -> list[_Token]:
    """All tokens, and four times the end, so that looking ahead needs no check."""
    found, at = [], 0
    while text[at:].strip():
        match = _TOKEN.match(text, at)
        if match is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            raise FilterError(f"cannot read {text[start : start + 12]!r} at column {start + 1}")
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return found + [_Token("", "", len(text))] * 4
