"""Formulas of derived features, such as `log(amount / customer_mean_7d)`: text to tree, never `eval`.

    sum      = product (("+" | "-") product)*
    product  = unary (("*" | "/") unary)*
    unary    = "-" unary | primary
    primary  = number | name | function "(" sum ("," sum)* ")" | "(" sum ")"

`−`, `×` and `÷` may stand for `-`, `*` and `/`. Operators of one level group to the left.

Meaning (`features.core.derivation` computes it): null in, null out; a division by zero, `log` of 0 or less, `log1p` of
−1 or less, and anything beyond the range of a float64 are null. `bucket(x, 1, 10, 100)` is how many of the ascending
bounds are at most x: 0, 1, 2 or 3.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

LONGEST = 1_000
DEEPEST = 50
"""Parentheses, calls and minus signs inside one another."""

FUNCTIONS: Mapping[str, tuple[int, int | None]] = {
    "log": (1, 1),
    "log1p": (1, 1),
    "abs": (1, 1),
    "min": (2, None),
    "max": (2, None),
    "bucket": (2, None),
}
"""Name → fewest and most arguments; None: any number."""

Operator = Literal["+", "-", "*", "/"]


class ExpressionError(ValueError):
    """The text is no expression; `column` counts from 1."""

    def __init__(self, column: int, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.message = message


@dataclass(frozen=True, slots=True)
class Number:
    value: float


@dataclass(frozen=True, slots=True)
class Name:
    """A feature or a number field. `column` is where it stands, and no part of the meaning."""

    name: str
    column: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Negative:
    operand: "Expression"


@dataclass(frozen=True, slots=True)
class Binary:
    operator: Operator
    left: "Expression"
    right: "Expression"


@dataclass(frozen=True, slots=True)
class Call:
    function: str
    arguments: "tuple[Expression, ...]"


Expression = Number | Name | Negative | Binary | Call


class _Token(NamedTuple):
    """`kind` is number, name, symbol or end."""

    kind: str
    text: str
    column: int


_PATTERN = re.compile(
    r"\s*(?:(?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*)|(?P<symbol>[-+*/(),−×÷]))", re.ASCII
)
_SYNONYMS = {"−": "-", "×": "*", "÷": "/"}


def parse(text: str) -> Expression:
    """Raises ExpressionError with the column of the first thing that does not belong."""
    if len(text) > LONGEST:
        raise ExpressionError(LONGEST + 1, f"an expression is at most {LONGEST} characters long")
    return _Parser(list(_tokens(text))).whole()


def names(expression: Expression) -> Iterator[Name]:
    """Every name in the order of the text, repeated ones too."""
    match expression:
        case Name():
            yield expression
        case Negative(operand):
            yield from names(operand)
        case Binary(_, left, right):
            yield from names(left)
            yield from names(right)
        case Call(_, arguments):
            for argument in arguments:
                yield from names(argument)
        case Number():
            pass


def text_of(expression: Expression) -> str:
    """A text that `parse` reads as this very tree."""
    match expression:
        case Number(value):
            return repr(value)
        case Name(name):
            return name
        case Negative(operand):
            return f"-({text_of(operand)})"
        case Binary(operator, left, right):
            return f"({text_of(left)}) {operator} ({text_of(right)})"
        case Call(function, arguments):
            return f"{function}({', '.join(map(text_of, arguments))})"


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while text[at:].strip():
        match = _PATTERN.match(text, at)
        if match is None:
            column = at + len(text[at:]) - len(text[at:].lstrip()) + 1
            raise ExpressionError(column, f"{text[column - 1]!r} means nothing here")
        kind = match.lastgroup or ""
        found = match[kind]
        yield _Token(kind, _SYNONYMS.get(found, found), match.start(kind) + 1)
        at = match.end()
    yield _Token("end", "", len(text) + 1)


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        tree = self._sum()
        token = self._tokens[self._at]
        if token.kind != "end":
            raise ExpressionError(token.column, f"an operator is missing in front of {token.text!r}")
        return tree

    def _take(self, *symbols: str) -> str | None:
        token = self._tokens[self._at]
        if token.kind == "symbol" and token.text in symbols:
            self._at += 1
            return token.text
        return None

    def _close(self) -> None:
        token = self._tokens[self._at]
        if self._take(")") is None:
            raise ExpressionError(token.column, f"')' is missing in front of {token.text or 'the end'!r}")

    def _sum(self) -> Expression:
        tree = self._product()
        while (operator := self._take("+", "-")) is not None:
            tree = Binary("+" if operator == "+" else "-", tree, self._product())
        return tree

    def _product(self) -> Expression:
        tree = self._unary()
        while (operator := self._take("*", "/")) is not None:
            tree = Binary("*" if operator == "*" else "/", tree, self._unary())
        return tree

    def _unary(self) -> Expression:
        token = self._tokens[self._at]
        self._depth += 1
        if self._depth > DEEPEST:
            raise ExpressionError(token.column, f"more than {DEEPEST} levels inside one another")
        tree = Negative(self._unary()) if self._take("-") else self._primary()
        self._depth -= 1
        return tree

    def _primary(self) -> Expression:
        token = self._tokens[self._at]
        if self._take("("):
            tree = self._sum()
            self._close()
            return tree
        if token.kind == "number":
            self._at += 1
            value = float(token.text)
            if value == float("inf"):
                raise ExpressionError(token.column, f"{token.text} is too large a number")
            return Number(value)
        if token.kind != "name":
            found = "the end" if token.kind == "end" else repr(token.text)
            raise ExpressionError(token.column, f"a number, a name or '(' is missing in front of {found}")
        self._at += 1
        return self._call(token) if self._take("(") else Name(token.text, token.column)

    def _call(self, function: _Token) -> Expression:
        if function.text not in FUNCTIONS:
            raise ExpressionError(
                function.column, f"unknown function {function.text!r}; there are {', '.join(FUNCTIONS)}"
            )
        columns = [self._tokens[self._at].column]
        arguments = [self._sum()]
        while self._take(","):
            columns.append(self._tokens[self._at].column)
            arguments.append(self._sum())
        self._close()
        fewest, most = FUNCTIONS[function.text]
        if len(arguments) < fewest or (most is not None and len(arguments) > most):
            wanted = f"{fewest}" if most == fewest else f"at least {fewest}"
            raise ExpressionError(
                function.column,
                f"{function.text} takes {wanted} argument{'s' if wanted != '1' else ''}, not {len(arguments)}",
            )
        if function.text == "bucket":
            self._check_bounds(arguments[1:], columns[1:])
        return Call(function.text, tuple(arguments))

    @staticmethod
    def _check_bounds(bounds: list[Expression], columns: list[int]) -> None:
        before = None
        for bound, column in zip(bounds, columns, strict=True):
            value = constant(bound)
            if value is None:
                raise ExpressionError(column, "a bound of bucket must be a number")
            if before is not None and value <= before:
                raise ExpressionError(column, "the bounds of bucket must ascend")
            before = value


def constant(expression: Expression) -> float | None:
    """The value of a number, also behind minus signs; None for anything else."""
    match expression:
        case Number(value):
            return value
        case Negative(operand):
            inner = constant(operand)
            return None if inner is None else -inner
        case _:
            return None
