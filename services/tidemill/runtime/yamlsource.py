"""YAML text as data plus where each part of it stands, so that a mistake can be shown at its line and column."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]

_LONGEST_NUMBER = 1_000
"""Digits; Python itself converts integers of a few thousand only."""

_ENDLESS = "an alias stands inside the very part that it repeats"


class Position(NamedTuple):
    """Counted from 1, as editors do."""

    line: int
    column: int


class Fault(NamedTuple):
    """Something wrong with the text itself, whatever it describes. A fatal one leaves nothing to look at further."""

    position: Position
    message: str
    fatal: bool = False


class YamlSource:
    """One parsed document. `data` is plain dicts, lists and scalars, or None where `faults` say why there is none."""

    def __init__(self, text: str) -> None:
        self.data: Any = None
        self.faults: list[Fault] = []
        self._values: dict[Path, Position] = {}
        self._keys: dict[Path, Position] = {}
        self._seen: set[int] = set()
        self._open: set[int] = set()
        try:
            reader = _reader()
            root = reader.compose(text)
            if root is not None:
                self.faults += self._walk(root, ())
                if not any(fault.fatal for fault in self.faults):
                    self.data = reader.constructor.construct_document(root)
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            position = Position(mark.line + 1, mark.column + 1) if mark is not None else Position(1, 1)
            self.faults.append(Fault(position, f"not YAML: {error.problem or error.context}"))
        except (YAMLError, ValueError) as error:
            self.faults.append(Fault(Position(1, 1), f"not YAML: {error}"))

    def value_at(self, path: Path) -> Position:
        """Where the value of `path` begins, or of the nearest part above it that is written in the file."""
        for length in range(len(path), 0, -1):
            if (found := self._values.get(path[:length])) is not None:
                return found
        return Position(1, 1)

    def key_at(self, path: Path) -> Position:
        """Where the key of `path` begins; in a list, its item."""
        return self._keys[path] if path in self._keys else self.value_at(path)

    def _walk(self, node: Node, path: Path) -> Iterator[Fault]:
        """Note the positions below `node`; each node once, so that aliases neither repeat nor recurse."""
        # A section is shown at its name, whichever line its first member is on.
        section = isinstance(node, MappingNode | SequenceNode) and path in self._keys
        self._values[path] = self._keys[path] if section else _position(node)
        if id(node) in self._open:
            yield Fault(self._values[path], _ENDLESS, fatal=True)
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        self._open.add(id(node))
        yield from self._members(node, path)
        self._open.discard(id(node))

    def _members(self, node: Node, path: Path) -> Iterator[Fault]:
        if isinstance(node, ScalarNode):
            yield from _unusable(node)
        elif isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self._keys[(*path, index)] = _position(item)
                yield from self._walk(item, (*path, index))
        elif isinstance(node, MappingNode):
            written: dict[str, Position] = {}
            for key, value in node.value:
                name = key.value if isinstance(key, ScalarNode) else str(key.value)
                position = _position(key)
                yield from _unusable(key)
                if name in written:
                    yield Fault(position, f"duplicate key {name!r}; the first is on line {written[name].line}")
                    continue
                written[name] = position
                self._keys[(*path, name)] = position
                yield from self._walk(value, (*path, name))


def _unusable(node: Node) -> Iterator[Fault]:
    """Escapes in double quotes can write halves of a character, which no record, hash or message could hold."""
    if not isinstance(node, ScalarNode):
        return
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(node.value[error.start]):04X}"
        message = f"{half} is half of a character, which UTF-8 cannot hold; write a whole one, such as \\U0001F600"
        yield Fault(_position(node), message, fatal=True)
    if (node.tag or "").endswith(":int") and len(node.value) > _LONGEST_NUMBER:
        yield Fault(_position(node), f"a number of {len(node.value):,} digits is larger than any here", fatal=True)


def _reader() -> YAML:
    """Pure Python, YAML 1.2 (`no` is text), plain data only. Duplicate keys are found by the walk, all of them."""
    reader = YAML(typ="safe", pure=True)
    reader.allow_duplicate_keys = True
    return reader


def _position(node: Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)
