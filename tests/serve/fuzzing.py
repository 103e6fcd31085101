"""Request bodies from a server's own description of itself, most of them nearly right."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

any_text = st.text(st.characters(exclude_categories=()), max_size=20)  # half surrogate pairs too
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(["a", "b", "<tool_call>", ""])
schemas: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(
        [
            *[{"type": kind} for kind in ("string", "integer", "boolean", "null")],
            *[{"enum": ["x", "</tool_call>", 1]}, {"$ref": "#/$defs/a"}, {"$ref": "#/nowhere"}, {}, True],
        ]
    )
    | json_values,
    lambda inner: st.fixed_dictionaries(
        {"type": st.sampled_from(["object", "array"])},
        optional={
            "properties": st.dictionaries(names, inner, max_size=2),
            "required": st.lists(names, max_size=2),
            "additionalProperties": st.booleans(),
            "items": inner,
            "$defs": st.dictionaries(names, inner, max_size=1),
        },
    ),
    max_leaves=5,
)
USUAL: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("tiny"),
    "id": st.text(max_size=9),
    "name": names | any_text,
    "type": st.sampled_from(["function", "json_schema", "text", "function_call", "message", "x"]),
    "function_call": st.none(),
    "parameters": schemas,
    "schema": schemas,
    "arguments": st.sampled_from(["", "{}", '{"a": "\\ud800"}', "[", '{"a": 1e999}', "{" * 9]),
    "pattern": st.sampled_from(["a+/", "[a-c]{2}", "(", "\\d*"]),
}
"""What a field of this name has to be for a body to come further than its first check."""


def posts(description: dict[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
    """Bodies for each address that takes JSON by POST."""
    known = description["components"]["schemas"]
    found = {}
    for path, operations in description["paths"].items():
        content = operations.get("post", {}).get("requestBody", {}).get("content", {})
        if "application/json" in content:
            found[path] = values(content["application/json"]["schema"], known)
    return found


def values(schema: dict[str, Any], known: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """What the schema allows, in small sizes; now and then something else."""
    right = _right(schema, known, depth)
    return st.integers(0, 19).flatmap(lambda chance: json_values if chance == 0 else right)


def _right(schema: dict[str, Any], known: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if "$ref" in schema:
        return st.deferred(lambda: _right(known[schema["$ref"].rpartition("/")[2]], known, depth))
    if "anyOf" in schema:
        return st.one_of([values(option, known, depth) for option in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object" and depth < 6:
        return _object(schema, known, depth)
    if kind == "array":
        items = values(schema.get("items", {}), known, depth + 1)
        least = schema.get("minItems", 0)
        return st.lists(items, min_size=least, max_size=max(least, min(schema.get("maxItems", 3), 3)))
    if kind == "string":
        return st.from_regex(schema["pattern"], fullmatch=True) if "pattern" in schema else any_text
    if kind == "integer":
        least = schema.get("minimum", -3)
        return st.integers(least, least + 40) | st.sampled_from([0, 1, schema.get("maximum", 2**40)])
    if kind == "number":
        return st.floats(schema.get("minimum", -3), schema.get("maximum", 3), allow_nan=False)
    return {"boolean": st.booleans(), "null": st.none()}.get(str(kind), json_values)


def _object(schema: dict[str, Any], known: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    fields = {
        name: USUAL[name] if name in USUAL else values(of, known, depth + 1)
        for name, of in schema.get("properties", {}).items()
    }
    if not fields:
        inner = schema.get("additionalProperties")
        return st.dictionaries(
            st.text(max_size=8) | st.integers(0, 400).map(str),
            values(inner, known, depth + 1) if isinstance(inner, dict) else json_values,
            max_size=3,
        )
    required = {name: fields.pop(name) for name in schema.get("required", [])}
    few = st.lists(st.sampled_from(sorted(fields)), max_size=4, unique=True) if fields else st.just([])
    return few.flatmap(
        lambda chosen: st.fixed_dictionaries({**required, **{name: fields[name] for name in chosen}})
    )
