"""Functions that a model may call, and how it writes a call.

There is no common notation: some models put a JSON object between tags, some write a list after a marker,
some write the bare object. What a model was trained on is what its chat template makes of an earlier call, so
`tool_format` renders two calls through the template and looks at what comes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal
from weakref import WeakKeyDictionary

from platen.prompts.messages import Message, ToolCall
from platen.prompts.templates import ChatTemplateError, TemplateOptions, apply_chat_template
from platen.tokens.tokenizer import Tokenizer

ToolStyle = Literal["tags", "list", "bare"]
"""`<tool_call>{…}</tool_call>` (Hermes, Qwen); `[TOOL_CALLS] [{…}, …]` (Mistral); `{…}` (Llama 3)."""

OPEN: dict[ToolStyle, str] = {"tags": "<tool_call>", "list": "[TOOL_CALLS]", "bare": "<|python_tag|>"}
CLOSE: dict[ToolStyle, str] = {"tags": "</tool_call>", "list": "]", "bare": ""}


@dataclass(frozen=True)
class FunctionTool:
    """A function: its name, what it is for, and the JSON schema (object) of its arguments."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    strict: bool = False
    """Calls must match the schema even when the model is free not to call."""

    def for_template(self) -> dict[str, Any]:
        """As chat templates take it: OpenAI's form, with every key that they rely on."""
        parameters = self.parameters or {"type": "object", "properties": {}}
        function = {"name": self.name, "description": self.description, "parameters": parameters}
        return {"type": "function", "function": function}


@dataclass(frozen=True)
class ToolFormat:
    """How one model writes calls.

    `before`, `between` and `after` stand around the calls' JSON objects, and `parts` make up such an object:
    text, and in between the places of `name`, `arguments` and `id`. `separators` are JSON's, between items
    and after keys. `several` says whether one answer can have more than one call. `markers` are the ids of
    the special tokens among open and close.
    """

    style: ToolStyle
    before: str
    between: str
    after: str
    parts: tuple[tuple[Literal["text", "name", "arguments", "id"], str], ...]
    separators: tuple[str, str]
    several: bool
    markers: Mapping[str, int]

    @property
    def open(self) -> str:
        return OPEN[self.style]

    @property
    def close(self) -> str:
        return CLOSE[self.style]


_QUESTION = "What does the platen press?"
_ARGUMENTS = {"first": 1, "second": 2}
_CALLS = (
    ToolCall("probe_one", json.dumps(_ARGUMENTS), "platen001"),  # Mistral's templates want nine letters
    ToolCall("probe_two", json.dumps(_ARGUMENTS), "platen002"),
)
_TOOLS = tuple(FunctionTool(call.name, "A probe.", {"type": "object", "properties": {}}) for call in _CALLS)


_FOUND: WeakKeyDictionary[Tokenizer, ToolFormat | None] = WeakKeyDictionary()
_ASKED = Message("user", _QUESTION).as_chat()
_GIVEN = tuple(tool.for_template() for tool in _TOOLS)


def tool_format(tokenizer: Tokenizer) -> ToolFormat | None:
    """How the model of this tokenizer writes calls; None when its chat template has no place for tools, or
    writes calls in a way that is none of the three. Found out once.
    """
    if tokenizer not in _FOUND:
        _FOUND[tokenizer] = _find_format(tokenizer)
    return _FOUND[tokenizer]


def _find_format(tokenizer: Tokenizer) -> ToolFormat | None:
    if not tokenizer.has_chat_template or not _mentions_tools(tokenizer):
        return None
    for calls in (_CALLS, _CALLS[:1]):
        answer = _rendered(tokenizer, calls)
        found = None if answer is None else _read(answer, calls, tokenizer)
        if found is not None:
            return found
    return None


def _mentions_tools(tokenizer: Tokenizer) -> bool:
    """Whether the tools that it is given reach the model."""
    try:
        prompt = apply_chat_template(tokenizer, [_ASKED], TemplateOptions(tools=_GIVEN))
    except ChatTemplateError:
        return False
    return _TOOLS[0].name in prompt


def _rendered(tokenizer: Tokenizer, calls: Sequence[ToolCall]) -> str | None:
    """What the template makes of an answer with these calls, from where the model's own words begin."""
    answer = Message("assistant", "", calls=tuple(calls)).as_chat()
    try:
        prompt = apply_chat_template(tokenizer, [_ASKED], TemplateOptions(tools=_GIVEN))
        whole = apply_chat_template(
            tokenizer, [_ASKED, answer], TemplateOptions(tools=_GIVEN, add_generation_prompt=False)
        )
    except ChatTemplateError:
        return None
    return whole.removeprefix(prompt) if whole.startswith(prompt) else whole.rpartition(_QUESTION)[2]


def _read(answer: str, calls: Sequence[ToolCall], tokenizer: Tokenizer) -> ToolFormat | None:
    places = [_object(answer, call.name) for call in calls]
    spans = [place for place in places if place is not None]
    if len(spans) != len(calls):
        return None
    start, end = spans[0][0], spans[-1][1]
    style = _style(answer[:start])
    parts = _parts(answer[slice(*spans[0])], calls[0])
    if style is None or parts is None or CLOSE[style] not in answer[end:]:
        return None
    opened = answer.rindex(OPEN[style], 0, start) + len(OPEN[style]) if style != "bare" else start
    closed = answer.index(CLOSE[style], end) + len(CLOSE[style])
    tight = (",", ":") if '"first":1' in answer else (", ", ": ")
    markers = {name: tokenizer.token_to_id(name) for name in (OPEN[style], CLOSE[style])}
    special = tokenizer.special_ids
    return ToolFormat(
        style,
        before=answer[opened:start],
        between=answer[spans[0][1] : spans[1][0]] if len(spans) > 1 else "",
        after=answer[end:closed],
        parts=parts,
        separators=tight,
        several=len(spans) > 1,
        markers={name: found for name, found in markers.items() if found is not None and found in special},
    )


def _style(before: str) -> ToolStyle | None:
    """The notation of a call, from what stands before its object."""
    if "<tool_call>" in before:
        return "tags"
    if re.search(r"\[TOOL_CALLS\]\s*\[\s*$", before):
        return "list"
    return "bare" if before.strip() in ("", "<|python_tag|>") else None


def _object(text: str, name: str) -> tuple[int, int] | None:
    """Where the JSON object with this `name` begins and ends."""
    decoder = json.JSONDecoder()
    for match in re.finditer(r"\{", text):
        try:
            value, end = decoder.raw_decode(text, match.start())
        except ValueError:
            continue
        if value.get("name") == name and (value.get("arguments") or value.get("parameters")) == _ARGUMENTS:
            return match.start(), end
    return None


def _parts(text: str, call: ToolCall) -> tuple[tuple[Any, str], ...] | None:
    """A call's object taken apart at its name, its arguments and, if it is there, its id."""
    arguments = re.search(r"\{[^{}]*\}", text[1:])
    if arguments is None:
        return None
    pattern = "|".join(
        f"(?P<{kind}>{re.escape(value)})"
        for kind, value in (("arguments", arguments.group()), ("name", call.name), ("id", call.id))
    )
    parts: list[tuple[str, str]] = []
    at = 0
    for match in re.finditer(pattern, text):
        parts += [("text", text[at : match.start()]), (match.lastgroup or "", match.group())]
        at = match.end()
    return (*parts, ("text", text[at:]))
