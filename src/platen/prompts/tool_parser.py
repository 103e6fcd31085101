"""Reads the calls out of a model's text while it comes.

`ToolReader` takes text in pieces of any size and gives text that is meant for the user, the beginnings of
calls and their arguments as they grow. What looks like a call and turns out to be none is given as text. How
the text is divided makes no difference.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

from platen.prompts.tools import ToolFormat


@dataclass(frozen=True)
class Said:
    """Text that is meant for the user."""

    text: str


@dataclass(frozen=True)
class CallBegun:
    """The model calls `name`; `index` counts the calls of this answer from 0."""

    index: int
    name: str


@dataclass(frozen=True)
class CallGrown:
    """More of the arguments (JSON text) of the call with this index."""

    index: int
    arguments: str


Piece = Said | CallBegun | CallGrown


class ToolReader:
    """One answer of a model that writes calls in `format`.

    A bare object is a call only at the beginning of an answer and if it names one of `names`; between
    markers any name is taken, for the model meant a call. Calls beyond `most` are left out.
    """

    def __init__(self, format: ToolFormat, names: Collection[str], *, most: int | None = None) -> None:
        self._format = format
        self._names = names if format.style == "bare" else None
        self._most = most
        self._state: Literal["said", "opening", "object", "after"] = "said"
        if format.style == "bare":
            self._state = "opening"
        self._pending = ""  # read, and neither given nor understood yet
        self._object = _CallObject(self._names)
        self._calls = 0

    @property
    def called(self) -> bool:
        """Whether the answer has calls."""
        return self._calls > 0 or self._object.begun

    def feed(self, text: str) -> list[Piece]:
        """Take the next text; returns what is certain now."""
        return self._merged(piece for character in text for piece in self._step(character))

    def finish(self) -> list[Piece]:
        """The end of the text: what was held back and is no part of a call."""
        pending, self._pending = self._pending, ""
        if self._state == "after" or self._object.begun or (self._calls and not pending.strip()):
            return []
        return self._merged([Said(pending)])

    def _merged(self, pieces: Iterator[Piece] | list[Piece]) -> list[Piece]:
        """Neighbours of one kind as one, without those of calls that are too many."""
        result: list[Piece] = []
        for piece in pieces:
            last = result[-1] if result else None
            if isinstance(piece, Said):
                if isinstance(last, Said):
                    result[-1] = Said(last.text + piece.text)
                elif piece.text:
                    result.append(piece)
            elif self._most is not None and piece.index >= self._most:
                continue
            elif isinstance(piece, CallGrown) and isinstance(last, CallGrown) and last.index == piece.index:
                result[-1] = CallGrown(piece.index, last.arguments + piece.arguments)
            else:
                result.append(piece)
        return result

    def _step(self, character: str) -> Iterator[Piece]:
        self._pending += character
        if self._state == "said":
            yield from self._say()
        elif self._state == "opening":
            yield from self._open()
        elif self._state == "object":
            yield from self._read_object(character)
        else:
            yield from self._go_on()

    def _say(self) -> Iterator[Piece]:
        """Text up to a marker; blanks before a marker belong to it, so they wait."""
        marker = self._format.open
        if self._pending.endswith(marker):
            text = self._pending.removesuffix(marker).rstrip()
            yield Said(text)
            self._pending, self._state = self._pending[len(text) :], "opening"
            return
        certain = len(self._pending) - _beginning(self._pending, marker)
        certain = len(self._pending[:certain].rstrip())
        yield Said(self._pending[:certain])
        self._pending = self._pending[certain:]

    def _open(self) -> Iterator[Piece]:
        """Between a marker, or the beginning of the answer, and the object."""
        read = "".join(self._pending.split())
        wanted = "[{" if self._format.style == "list" else "{"
        if read.removeprefix(self._format.open) == wanted:
            self._begin_object()
        elif not wanted.startswith(read.removeprefix(self._format.open)) and not (
            self._format.style == "bare" and self._format.open.startswith(read)
        ):
            yield from self._no_call()

    def _begin_object(self) -> None:
        self._object, self._state = _CallObject(self._names), "object"
        self._object.feed("{")

    def _read_object(self, character: str) -> Iterator[Piece]:
        begun = self._object.begun
        arguments = self._object.feed(character)
        if self._object.begun and not begun:
            yield CallBegun(self._calls, self._object.name)
        if arguments:
            yield CallGrown(self._calls, arguments)
        if self._object.state == "open":
            return
        if self._object.begun:
            self._calls += 1
            self._object.begun = False
            self._pending = self._pending[-1:]
        if self._object.state == "closed":
            self._pending, self._state = "", "after"
        else:
            yield from self._no_call()

    def _go_on(self) -> Iterator[Piece]:
        """Behind an object: the closing tag, or what stands between two objects."""
        read = self._pending.strip()
        if self._format.style == "tags":
            going_on = self._format.close.startswith(read)
        else:
            ends = ("{", "]") if self._format.style == "list" else ("{",)
            going_on = not read.strip(",; \t\n\r") or read.endswith(ends)
        if not going_on:
            yield from self._no_call()
        elif self._format.style == "tags":
            if read == self._format.close:
                self._pending, self._state = "", "said"
        elif read.endswith("{"):
            self._begin_object()
        elif read.endswith("]"):
            self._pending, self._state = "", "said"

    def _no_call(self) -> Iterator[Piece]:
        """What is pending is no call but text; with its last character a marker may begin."""
        given, self._pending = self._pending[:-1], self._pending[-1:]
        self._state = "said"
        yield Said(given)
        yield from self._say()


class _CallObject:
    """The JSON object of one call, character by character.

    `state` is `open` until its last brace (`closed`), or until it can't be a call (`broken`). `begun` says
    that `name` and arguments are being given: when the name comes first, as almost all models write it, the
    arguments are given as they grow; else at the end.
    """

    _HEAD = re.compile(r'\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*\{')
    _FIRST_KEY = re.compile(r'\{\s*"(?:name|arguments|parameters|id|type)"\s*:')

    def __init__(self, names: Collection[str] | None) -> None:
        self._names = names
        self.state: Literal["open", "closed", "broken"] = "open"
        self.begun = False
        self.name = ""
        self._text = ""
        self._nesting = ""  # the brackets that are open
        self._quoted = self._escaped = self._keyed = False

    def feed(self, character: str) -> str:
        """Take one character; returns what it adds to the arguments."""
        self._text += character
        depth = len(self._nesting)
        self._track(character)
        if self.state == "broken":
            return ""
        if self.begun:
            if not self._nesting:
                self.state = "closed"
            return character if max(depth, len(self._nesting)) > 1 else ""
        if not self._nesting:
            return self._complete()
        if character == ":" and not self._quoted and not self._keyed:
            self._keyed = True
            if not self._FIRST_KEY.fullmatch(self._text):
                self.state = "broken"
        if character == "{" and depth == 1 and (head := self._HEAD.fullmatch(self._text)):
            return self._give(_string(head[1]), "{")
        return ""

    def _track(self, character: str) -> None:
        if self._quoted:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == '"':
                self._quoted = False
        elif character == '"':
            self._quoted = True
        elif character in "{[":
            self._nesting += character
        elif character in "}]":
            if not self._nesting.endswith("{" if character == "}" else "["):
                self.state = "broken"
            self._nesting = self._nesting[:-1]

    def _give(self, name: object, arguments: str) -> str:
        if not isinstance(name, str) or not name or (self._names is not None and name not in self._names):
            self.state = "broken"
            return ""
        self.begun, self.name = True, name
        return arguments

    def _complete(self) -> str:
        """The object is whole and nothing of it has been given."""
        self.state = "closed"
        call = _parsed(self._text)
        arguments = call.get("arguments", call.get("parameters"))
        if isinstance(arguments, str):  # some models quote them once more
            arguments = _parsed(arguments)
        if arguments is None:
            arguments = {}
        if not isinstance(arguments, dict):
            self.state = "broken"
            return ""
        return self._give(call.get("name"), json.dumps(arguments, ensure_ascii=False))


def _parsed(text: str) -> dict[str, object]:
    """A JSON object; an empty one for anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _string(token: str) -> object:
    try:
        return json.loads(token)
    except ValueError:
        return None


def _beginning(text: str, marker: str) -> int:
    """Length of the longest end of `text` that begins `marker`."""
    for length in range(min(len(marker) - 1, len(text)), 0, -1):
        if marker.startswith(text[-length:]):
            return length
    return 0
