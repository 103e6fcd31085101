"""The project file's JSON Schema, and what is read from it: the allowed values of a key in words, and
the reference page `docs/project-file.md`; `platen schema` prints either.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from platen.project.sections import Project
from platen.project.stages import STAGES
from platen.project.yaml import KeyPath

SchemaNode = Mapping[str, Any]

_INTRODUCTION = """\
# The project file

`platen.yaml` describes a whole project: its text, tokenizer, model, training, evaluation, gate, release
and service. An unknown key, a value of the wrong type or an impossible combination is refused before
anything starts, with the line, what was found and what is allowed.

- **Overrides.** `--set train.steps=200` replaces one value for one command. The path is dotted, list items
  count from 0 (`data.sources.0.path`), and the value is read as YAML, so quote text that looks like a number.
- **Environment.** In a text value, `${NAME}` is replaced by the environment variable, and `${NAME:-default}`
  by the default where the variable is unset or empty; `$${` is a literal `${`. Messages show the reference,
  never the value.
- **YAML.** Version 1.2: only `true` and `false` are truth values, `1e-3` is a number, `12:30` is text.
  Anchors, aliases and `<<` merges work; tags do not.
- **Editors.** A first line `# yaml-language-server: $schema=.platen-schema.json` gives completion and checks;
  `platen schema > .platen-schema.json` writes that file.

This page and `platen.schema.json` are generated from the schema in `src/platen/project/sections.py`.
"""


def json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of `platen.yaml`, for editors and other tools."""
    schema = Project.model_json_schema(by_alias=True)
    variant = schema["$defs"]["Variant"]["properties"]
    for key, section in (("model", "ModelConfig"), ("train", "TrainConfig")):
        # A variant gives some of a section's keys; none of the two sections' keys is required by itself.
        variant[key] = {"$ref": f"#/$defs/{section}", "description": variant[key]["description"]}
    schema["properties"]["variants"]["additionalProperties"] = False
    schema["properties"]["retries"]["propertyNames"] = {
        "anyOf": [{"enum": list(STAGES.all())}, {"pattern": r"^train\.[a-z0-9_]{1,40}$"}]
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "platen.yaml",
        "description": "A Platen project: from raw text to a served language model.",
    } | {key: value for key, value in schema.items() if key not in ("title", "description")}


def resolve(schema: SchemaNode, node: SchemaNode) -> SchemaNode:
    """`node` with its `$ref` followed; what stands beside the reference wins."""
    if "$ref" not in node:
        return node
    target = schema["$defs"][str(node["$ref"]).rpartition("/")[2]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def find(schema: SchemaNode, path: KeyPath, root: Any = None) -> SchemaNode | None:
    """The schema of the value at `path`, or None where no such key exists.

    `root` is the file's content: where one key says which section another one is in, as `block` does in
    `data.filters.blocks`, it is that section's.
    """
    node: SchemaNode | None = schema
    for depth, step in enumerate(path):
        below = (_below(option, step) for option in _options(schema, node, get(root, path[:depth])))
        node = next((found for found in below if found is not None), None)
    return node and resolve(schema, node)


def get(root: Any, path: KeyPath) -> Any:
    """The value at `path` of a file's content, or None."""
    for step in path:
        if isinstance(root, dict):
            root = root.get(step)
        elif isinstance(root, list) and isinstance(step, int) and step < len(root):
            root = root[step]
        else:
            return None
    return root


def alternatives(node: SchemaNode) -> tuple[SchemaNode, ...]:
    """What a value may be; a choice by one of its keys is written as `oneOf`."""
    return tuple(node.get("anyOf") or node.get("oneOf") or (node,))


def _options(schema: SchemaNode, node: SchemaNode | None, value: Any) -> Iterator[SchemaNode]:
    """What a node may be; of a choice by one of its keys only what `value` says there, if it says one."""
    if node is not None:
        node = resolve(schema, node)
        choice = node.get("discriminator")
        if choice is not None and isinstance(tag := get(value, (choice["propertyName"],)), str):
            chosen = choice["mapping"].get(tag)
            if chosen is not None:
                yield resolve(schema, {"$ref": chosen})
                return
        for option in alternatives(node):
            yield resolve(schema, option)


def _below(node: SchemaNode, step: str | int) -> SchemaNode | None:
    """The schema one step down, or None."""
    if isinstance(step, int):
        return node.get("items")
    return node.get("properties", {}).get(step) or _any_name(node)


def _any_name(node: SchemaNode) -> SchemaNode | None:
    """The schema of a section's values where the file's author chooses the names."""
    choices = (*node.get("patternProperties", {}).values(), node.get("additionalProperties"))
    return next((choice for choice in choices if isinstance(choice, Mapping)), None)


def keys_at(schema: SchemaNode, path: KeyPath, root: Any = None) -> tuple[str, ...]:
    """The keys that the section at `path` may have; empty where it is no section of fixed keys.

    `root` as for `find`.
    """
    options = _options(schema, find(schema, path, root), get(root, path))
    return tuple({key: None for option in options for key in option.get("properties", ())})


def in_words(schema: SchemaNode, node: SchemaNode) -> str:
    """What values a schema node allows, such as `whole number ≥ 1` or `one of cosine, wsd`."""
    node = resolve(schema, node)
    if "anyOf" in node:
        return " or ".join(in_words(schema, option) for option in node["anyOf"])
    if "enum" in node:
        return "one of " + ", ".join(f"`{value}`" for value in node["enum"])
    if "const" in node:
        return f"`{node['const']}`"
    match node.get("type"):
        case "boolean":
            return "`true` or `false`"
        case "null":
            return "`null`"
        case "integer":
            return "whole number" + _limits(node)
        case "number":
            return "number" + _limits(node)
        case "string":
            return f"text matching `{node['pattern']}`" if "pattern" in node else "text"
        case "array":
            return f"list of {in_words(schema, node['items'])}s"
        case "object" if "properties" in node:
            return "section"
        case "object" if _any_name(node) is not None:
            return "names, each with a section"
    return "section"


def _limits(node: SchemaNode) -> str:
    low = next((f" {sign} {_number(node[key])}" for key, sign in _LOW if key in node), "")
    high = next((f" {sign} {_number(node[key])}" for key, sign in _HIGH if node.get(key, 1e15) < 1e15), "")
    return f"{low} and{high}" if low and high else low or high


_LOW = (("minimum", "≥"), ("exclusiveMinimum", ">"))
_HIGH = (("maximum", "≤"), ("exclusiveMaximum", "<"))


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) and value != int(value) else f"{int(value)}"


def reference_markdown() -> str:
    """The reference page: a table of keys for each section."""
    schema = json_schema()
    parts = [_INTRODUCTION, "## Top level\n", _table(schema, schema)]
    for path, node in _sections(schema):
        parts.append(f"## `{path}`\n")
        if description := schema["$defs"][node]["description"]:
            parts.append(description + "\n")
        parts.append(_table(schema, schema["$defs"][node]))
    return "\n".join(parts)


def _sections(schema: SchemaNode) -> Iterator[tuple[str, str]]:
    """Every section once, as (where it stands, its name in `$defs`), in the file's order."""
    seen: set[str] = set()

    def walk(node: SchemaNode, path: str) -> Iterator[tuple[str, str]]:
        for key, below in node.get("properties", {}).items():
            where = f"{path}{key}"
            for option in below.get("anyOf", (below,)):
                if option.get("type") == "array":
                    option, place = option["items"], f"{where}[]"
                elif (named := _any_name(option)) is not None:
                    option, place = named, f"{where}.NAME"
                else:
                    place = where
                for one in alternatives(option):
                    name = str(one.get("$ref", "")).rpartition("/")[2]
                    if name and name not in seen:
                        seen.add(name)
                        yield place + _kind(schema["$defs"][name]) * (one is not option), name
                        yield from walk(schema["$defs"][name], f"{place}.")

    return walk(schema, "")


def _kind(section: SchemaNode) -> str:
    """How a section of a choice is told from the others: by the one value of one of its keys."""
    return next((f" ({key}: {n['const']})" for key, n in section["properties"].items() if "const" in n), "")


def _table(schema: SchemaNode, section: SchemaNode) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    required = section.get("required", ())
    for key, node in section["properties"].items():
        merged = resolve(schema, node)
        default = "**required**" if key in required else _default(merged)
        cells = (f"`{key}`", in_words(schema, node), default, merged.get("description", ""))
        lines.append("| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _default(node: SchemaNode) -> str:
    value = node.get("default")
    if isinstance(value, Mapping):
        return "as below" if value else "none"
    if value is None:
        return "none"
    return f"`{json.dumps(value)}`" if value != [] else "none"
