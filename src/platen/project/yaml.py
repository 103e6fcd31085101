"""YAML text as plain values, each with the line and column it came from.

The rules are YAML 1.2's core schema, so `no`, `on` and `12:30` are text and `1e-3` is a number, as in
editors and JSON. Duplicate keys, keys that are not text, tags and several documents are refused;
anchors, aliases and `<<` merges work. Size, depth and alias expansion are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

KeyPath = tuple[str | int, ...]

MAX_DEPTH = 40
MAX_VALUES = 20_000
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, order=True)
class Position:
    """Counted from 1, as editors do."""

    line: int
    column: int


@dataclass(frozen=True)
class Problem:
    """One thing wrong with the text. `path` is the key it concerns, `at` where (None: not in the file)."""

    path: KeyPath
    message: str
    at: Position | None = None


class YamlTextError(Exception):
    """The text is not YAML of the kind accepted here; there are no values to go on with."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


@dataclass
class Values:
    """The plain values, and where each key and each value stands."""

    root: Any = None
    keys: dict[KeyPath, Position] = field(default_factory=dict)
    values: dict[KeyPath, Position] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def position(self, path: KeyPath, *, of_key: bool = False) -> Position | None:
        """Where `path`, or the nearest part above it that was written, stands."""
        first, second = (self.keys, self.values) if of_key else (self.values, self.keys)
        while True:
            at = first.get(path) or second.get(path)
            if at is not None or not path:
                return at
            # A missing key belongs to the line that opens its section.
            path, first, second = path[:-1], self.keys, self.values


class _Resolver(BaseResolver):
    """YAML 1.2 core schema: what a plain scalar means."""


for _kind, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
):
    _Resolver.add_implicit_resolver(_TAG + _kind, re.compile(rf"(?:{_pattern})\Z"), list(_first))
_Resolver.add_implicit_resolver(_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    """Text to nodes; no constructor, so nothing but plain values can come of it."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self._depth = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            at = _position(self.peek_event().start_mark)  # type: ignore[no-untyped-call]
            raise YamlTextError(Problem((), f"nested deeper than {MAX_DEPTH} levels", at))
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def parse(text: str) -> Values:
    """Read YAML text.

    Problems that leave the rest readable (a duplicate key, a tag) are collected in `problems`.
    Raises `YamlTextError` where nothing sensible can be read.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        raise YamlTextError(_syntax_problem(error)) from error
    except ReaderError as error:
        raise YamlTextError(_character_problem(text, error)) from error
    except (ValueError, OverflowError) as error:  # an escape such as "\U00110000" inside the scanner
        raise YamlTextError(Problem((), "an escape in a quoted text is not a Unicode character")) from error
    values = Values()
    if node is not None:
        _Builder(values).build(node)
    return values


class _Builder:
    def __init__(self, values: Values) -> None:
        self._values = values
        self._open: set[int] = set()
        self._count = 0

    def build(self, root: Node) -> None:
        self._values.root = self._value(root, ())

    def _report(self, path: KeyPath, message: str, node: Node) -> None:
        self._values.problems.append(Problem(path, message, _position(node.start_mark)))

    def _value(self, node: Node, path: KeyPath) -> Any:
        self._values.values[path] = _position(node.start_mark)
        if isinstance(node, ScalarNode):
            self._count_up(node, path)
            return self._scalar(node, path)
        if isinstance(node, MappingNode) and node.tag == _TAG + "map":
            return self._mapping(node, path)
        if isinstance(node, SequenceNode) and node.tag == _TAG + "seq":
            with self._opened(node, path):
                return [self._value(child, (*path, i)) for i, child in enumerate(node.value)]
        return self._tagged(node, path)

    def _count_up(self, node: Node, path: KeyPath) -> None:
        self._count += 1
        if self._count > MAX_VALUES:
            message = f"more than {MAX_VALUES} values, aliases expanded"
            raise YamlTextError(Problem(path, message, _position(node.start_mark)))

    @contextmanager
    def _opened(self, node: Node, path: KeyPath) -> Iterator[None]:
        """Keep count, and refuse an alias that stands inside what it names."""
        self._count_up(node, path)
        if id(node) in self._open:
            raise YamlTextError(Problem(path, "an alias that contains itself", _position(node.start_mark)))
        self._open.add(id(node))
        yield
        self._open.discard(id(node))

    def _tagged(self, node: Node, path: KeyPath) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self._report(path, f"found the tag {tag}; tags are not used in this file: remove it", node)

    def _mapping(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        with self._opened(node, path):
            result = self._merged(node, path)
            own: set[str] = set()
            for key_node, value_node in node.value:
                if key_node.tag == _TAG + "merge":
                    continue
                if not isinstance(key_node, ScalarNode) or key_node.tag != _TAG + "str":
                    text = f" {key_node.value[:40]}" if isinstance(key_node, ScalarNode) else ""
                    self._report(path, f"the key{text} is not text; put it in quotes", key_node)
                    continue
                key = key_node.value
                if key in own:
                    first = self._values.keys[*path, key].line
                    self._report((*path, key), f"the key is given twice, first in line {first}", key_node)
                    continue
                own.add(key)
                self._values.keys[*path, key] = _position(key_node.start_mark)
                result[key] = self._value(value_node, (*path, key))
            return result

    def _merged(self, node: MappingNode, path: KeyPath) -> dict[str, Any]:
        """What `<<: *base` brings; of several bases the first wins, and the mapping's own keys over all."""
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag != _TAG + "merge":
                continue
            bases = value_node.value if isinstance(value_node, SequenceNode) else [value_node]
            for base in reversed(bases):
                if isinstance(base, MappingNode):
                    result |= self._mapping(base, path)
                else:
                    self._report(path, "`<<` takes an alias of a section, or a list of them", base)
        return result

    def _scalar(self, node: ScalarNode, path: KeyPath) -> Any:
        text: str = node.value
        kind = node.tag.removeprefix(_TAG)
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
                case "float":
                    return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
                case "str" | "merge":
                    text.encode()
                    return text
        except UnicodeEncodeError:
            self._report(path, "a text with half of a surrogate pair; write the character itself", node)
            return None
        except (ValueError, KeyError):
            self._report(path, f"found {text[:40]!r}, which is not a usable {kind}", node)
            return None
        return self._tagged(node, path)


def _position(mark: yaml.Mark) -> Position:
    return Position(mark.line + 1, mark.column + 1)


_ADVICE = (
    (r"character '\\t'", "a tab: YAML is indented with spaces only"),
    (r"while scanning a quoted scalar.*end of (stream|document)", "a quote that opens here is never closed"),
    (
        r"mapping values are not allowed here",
        "a colon where no key can stand: check the indentation, or put a text that contains `: ` in quotes",
    ),
    (r"could not find expected ':'", "a line that is neither `key: value` nor a list item"),
    (r"expected a single document", "a second document after `---`; a project is one document"),
    (r"found undefined alias", "an alias (`*name`) without its anchor (`&name`) before it"),
    (r"expected <block end>", "indentation that fits neither the line above nor an outer section"),
    (
        r"while parsing a flow (sequence|mapping).*expected ','",
        "the bracket that opens here is never closed, or a comma is missing after it",
    ),
)


def _syntax_problem(error: yaml.MarkedYAMLError) -> Problem:
    said = f"{error.context or ''}: {error.problem or ''}"
    mark = error.problem_mark or error.context_mark
    for pattern, advice in _ADVICE:
        if re.search(pattern, said, re.DOTALL):
            if "opens here" in advice and error.context_mark is not None:
                mark = error.context_mark
            return Problem((), advice, _position(mark) if mark else None)
    return Problem((), f"not YAML: {said.strip(': ')}", _position(mark) if mark else None)


def _character_problem(text: str, error: ReaderError) -> Problem:
    before = text[: error.position]
    at = Position(before.count("\n") + 1, len(before) - before.rfind("\n"))
    number = error.character if isinstance(error.character, int) else ord(error.character[:1] or "\0")
    return Problem((), f"the control character U+{number:04X}; a project file is plain text", at)
