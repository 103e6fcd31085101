"""What pydantic found wrong with a project file, said in the file's own terms: where, what was found, what
is allowed, and what was probably meant."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from platen.core.wording import suggestion
from platen.project.schema import SchemaNode, alternatives, find, get, in_words, keys_at, resolve
from platen.project.yaml import KeyPath, Problem, Values

_SHOWN = 60


def explain(
    error: ValidationError, above: KeyPath, values: Values, schema: SchemaNode, *, alone: bool = False
) -> list[Problem]:
    """The errors as problems; `above` is the key path of what was validated.

    With `alone`, what was validated is part of a section: errors that other keys could mend are left out.
    """
    problems: dict[KeyPath, Problem] = {}
    for details in error.errors(include_url=False):
        if alone and details["type"] in ("missing", "value_error"):
            continue
        path = _path(details, above, values.root)
        problem = _problem(details, path, values, schema)
        problems.setdefault(problem.path, problem)
    # Where a value may be one thing or another, the complaint about its inside is the useful one.
    return [p for path, p in problems.items() if not any(path == q[: len(path)] != q for q in problems)]


def _path(details: ErrorDetails, above: KeyPath, root: Any) -> KeyPath:
    """The key path in the file: pydantic's location without its names for a union's branches."""
    path = above
    for step in details["loc"]:
        at = get(root, path)
        if step in at if isinstance(at, dict) else isinstance(at, list) and isinstance(step, int):
            path = (*path, step)
    return path


def _problem(details: ErrorDetails, path: KeyPath, values: Values, schema: SchemaNode) -> Problem:
    match details["type"]:
        case "extra_forbidden":
            return Problem(path, _unknown_key(path, schema, values.root), values.position(path, of_key=True))
        case "missing":
            missing = (*path, str(details["loc"][-1]))
            at = values.position(path, of_key=True)
            return Problem(missing, f"missing; it is required{_meaning(schema, missing, values.root)}", at)
        case "value_error":
            message = str(details["ctx"]["error"])
            culprit = _named_in(message, path, values.root)
            whole = isinstance(get(values.root, culprit), dict)
            return Problem(culprit, message, values.position(culprit, of_key=whole))
        case "union_tag_invalid" | "union_tag_not_found":
            key = details["ctx"]["discriminator"].strip("'")
            tags = list((find(schema, path) or {}).get("discriminator", {}).get("mapping", ()))
            tag = get(values.root, (*path, key))
            return Problem(
                (*path, key),
                f"found {shown(tag)}; allowed: one of {', '.join(tags)}"
                + (suggestion(tag, tags) if isinstance(tag, str) else ""),
                values.position((*path, key)),
            )
    if details["loc"] and details["loc"][-1] == "[key]":
        return Problem(path, _bad_name(path, details, schema), values.position(path, of_key=True))
    found = get(values.root, path)
    node = find(schema, path, values.root) or {}
    if path and isinstance(path[-1], int):  # an item of a list: only the list says what it is
        items = find(schema, path[:-1], values.root) or {}
        node = {"description": items.get("description"), **node}
    message = f"found {shown(found)}; allowed: {_allowed(schema, node)}{_advice(found, schema, node)}"
    return Problem(path, message, values.position(path))


def _unknown_key(path: KeyPath, schema: SchemaNode, root: Any) -> str:
    key, known = str(path[-1]), keys_at(schema, path[:-1], root)
    guess = suggestion(key, known)
    if not guess:
        elsewhere = [section for section in keys_at(schema, ()) if key in keys_at(schema, (section,))]
        guess = f"; it belongs under {' or '.join(elsewhere)}" if elsewhere else ""
    return f"unknown key{guess}; allowed here: {', '.join(known)}"


def _bad_name(path: KeyPath, details: ErrorDetails, schema: SchemaNode) -> str:
    parent = find(schema, path[:-1]) or {}
    names: Sequence[str] = parent.get("propertyNames", {}).get("enum", ())
    if names:
        return f"unknown name{suggestion(str(path[-1]), names)}; allowed: {', '.join(names)}"
    return f"not a usable name; allowed: text matching `{details.get('ctx', {}).get('pattern', '')}`"


def _named_in(message: str, path: KeyPath, root: Any) -> KeyPath:
    """The key that a check on a whole section speaks of first, so that the line shown is that key's."""
    section = get(root, path)
    if not isinstance(section, dict):
        return path
    for word in re.findall(r"[a-z][a-z0-9_.]*[a-z0-9]", message):
        steps = tuple(word.split("."))
        if get(section, steps) is not None:
            return (*path, *steps)
    return path


def _meaning(schema: SchemaNode, path: KeyPath, root: Any) -> str:
    node = find(schema, path, root)
    if node is None:
        return ""
    meaning = str(node.get("description", "")).rstrip(".")
    return f" ({in_words(schema, node)}{': ' + meaning if meaning else ''})"


def _allowed(schema: SchemaNode, node: SchemaNode) -> str:
    words = in_words(schema, node)
    if "pattern" in node:
        meaning = str(node.get("description") or "").rstrip(".")
        return f"{words} ({meaning})" if meaning else words
    if "minItems" in node:
        return f"{words}, at least {node['minItems']}"
    if node.get("minLength"):
        return f"{words} that is not empty"
    return words


def shown(value: Any) -> str:
    """A value as a message names it: `the text "200"`, `true`, `a list`."""
    match value:
        case None:
            return "nothing (null)"
        case bool():
            return "`true`" if value else "`false`"
        case int() | float():
            if isinstance(value, float) and not math.isfinite(value):
                return "the number ." + str(value).removeprefix("-")
            return (
                f"the number {_short(str(value))}" if abs(value) < 10**300 else "a number beyond all limits"
            )
        case str():
            return f'the text "{_short(value)}"' if value else "an empty text"
        case list():
            return f"a list of {len(value)}" if value else "an empty list"
    return f"a section ({_short(', '.join(value))})" if value else "an empty section"


def _short(text: str) -> str:
    text = text.replace("\n", "\\n")
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _advice(found: Any, schema: SchemaNode, node: SchemaNode) -> str:
    """What was probably meant, or nothing."""
    types = _types(schema, node)
    if isinstance(found, str):
        if "${" in found and "string" not in types:
            return "; a variable is always text: use --set for other values"
        if choices := node.get("enum"):
            return suggestion(found, choices)
        if near := next((c for c in (found.upper(), found.lower()) if _fits(c, node)), None):
            return f"; write {near}"
        if "boolean" in types and found.lower() in ("yes", "on", "y", "no", "off", "n"):
            return f"; write {'true' if found.lower() in ('yes', 'on', 'y') else 'false'}"
        digits = found.strip().replace("_", "").replace(",", "")
        if types & {"integer", "number"} and re.fullmatch(r"[-+]?[0-9]*\.?[0-9]+([eE][-+]?[0-9]+)?", digits):
            return f"; write {digits} without quotes" if digits == found else f"; write {digits}"
        if "array" in types and found:
            return f'; write a list: ["{_short(found)}"]'
    if isinstance(found, float) and "integer" in types and found.is_integer() and abs(found) < 1e15:
        return f"; write {int(found)}"
    if isinstance(found, bool | int | float) and "string" in types:
        return "; put it in quotes"
    if found is None and "object" in types:
        return "; give it keys, or remove the line for the defaults"
    return ""


def _fits(text: str, node: SchemaNode) -> bool:
    return "pattern" in node and re.search(node["pattern"], text) is not None


def _types(schema: SchemaNode, node: SchemaNode) -> set[str]:
    return {str(resolve(schema, option).get("type")) for option in alternatives(node)}
