"""Grammars that hold a text to calls of given functions, written as one model writes them.

Each function's arguments are held to its own JSON schema, so references inside it keep their meaning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from platen.prompts.structured import Grammar
from platen.prompts.tools import FunctionTool, ToolFormat

MOST_CALLS = 16
"""Calls in one answer; a model that repeats itself would never end."""


def calls_grammar(
    format: ToolFormat, tools: Sequence[FunctionTool], *, several: bool, instead: Grammar | str | None = None
) -> Grammar:
    """Text that calls these functions: one, or with `several` up to 16 where the model can do that.

    `instead` is what the answer may be in place of calls: a JSON schema or a regular expression that it
    must match, or `text` for anything that is no call (with which calls may begin, too).
    """
    rules = [f"start: {_alternatives(format, instead)}", f"calls: {_calls(format, several)}"]
    if isinstance(instead, Grammar):
        rules.append(f"answer: {_answer(instead)}")
    elif instead is not None:
        rules.append(f"TEXT: {_text(format)}")
    rules.append("call: " + " | ".join(f"call{index}" for index in range(len(tools))))
    for index, tool in enumerate(tools):
        rules.append(f"call{index}: {_object(format, tool, index)}")
        rules.append(f"arguments{index}: %json {json.dumps(_schema(format, tool))}")
    return Grammar("lark", "\n".join(rules))


def _alternatives(format: ToolFormat, instead: Grammar | str | None) -> str:
    if instead is None:
        return "calls"
    if isinstance(instead, Grammar):
        return "calls | answer"
    return "calls | TEXT" if format.style == "bare" else "calls | TEXT | TEXT calls"


def _calls(format: ToolFormat, several: bool) -> str:
    opening = [] if format.style == "bare" else [_marked(format, format.open)]
    more = ""
    if several and format.several:
        more = f"({_marked(format, format.between)} call){{0,{MOST_CALLS - 1}}}"
    return _joined([*opening, _marked(format, format.before), "call", more, _marked(format, format.after)])


def _object(format: ToolFormat, tool: FunctionTool, index: int) -> str:
    slots = {"name": _literal(tool.name), "arguments": f"arguments{index}", "id": "/[a-zA-Z0-9]{9}/"}
    return _joined(_literal(text) if kind == "text" else slots[kind] for kind, text in format.parts)


def _schema(format: ToolFormat, tool: FunctionTool) -> dict[str, object]:
    """What the arguments must match, laid out as the model lays them out: blanks never go on for ever."""
    items, keys = format.separators
    layout = {"whitespace_flexible": False, "item_separator": items, "key_separator": keys}
    own = {"type": "object", **(tool.parameters or {"additionalProperties": False})}
    return {**own, "x-guidance": layout}


def _answer(grammar: Grammar) -> str:
    if grammar.kind == "json_schema":
        return f"%json {grammar.text}"
    pattern = re.sub(r"(?s)\\.|/", lambda found: "\\/" if found[0] == "/" else found[0], grammar.text)
    return f"/{pattern}/"


def _text(format: ToolFormat) -> str:
    """Anything that is no call: without the marker, or not beginning like an object."""
    if format.style == "bare":
        return r"/\s*[^{\s](.|\n)*/"
    if format.open in format.markers:
        return r"/(.|\n)+/"  # a special token is no part of a text
    return rf"/(.|\n)+/ & ~/(.|\n)*{re.escape(format.open)}(.|\n)*/"


def _marked(format: ToolFormat, text: str) -> str:
    """Literal text; a special token in it must be that token."""
    if not format.markers:
        return _literal(text)
    pattern = "(" + "|".join(map(re.escape, format.markers)) + ")"
    return _joined(
        f"<[{format.markers[piece]}]>" if piece in format.markers else _literal(piece)
        for piece in re.split(pattern, text)
    )


def _literal(text: str) -> str:
    return json.dumps(text) if text else ""


def _joined(pieces: Iterable[str]) -> str:
    return " ".join(piece for piece in pieces if piece)
