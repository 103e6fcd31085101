"""Requests over the whole surface of a server, made by Hypothesis from its own description.

Right and wrong methods, bodies after the schemas with fields left out, swapped and made up, bodies that are
no JSON, odd headers, good keys and others, clients who hang up early. Calls over gRPC are shots too.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from hypothesis import strategies as st

from platen.serve.api.oip.messages import METHODS as RPC_METHODS


@dataclass(frozen=True)
class Shot:
    """One request; its client hangs up when `stay` messages have come back, if that is not None."""

    method: str
    path: str
    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    stay: int | None = None
    place: str = ""
    """The route it is for, as the description has it."""

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "body": base64.b64encode(self.body).decode()}


texts = st.text(st.characters(exclude_categories=()), max_size=20)  # half surrogate pairs too
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "model": st.just("fuzz"),
    "shadow": st.none() | st.just("fuzz"),
    "reload": st.just(False),
    "input": st.sampled_from(["to be", ["a", "b"], [1, 2], [[3], [4]], "", []]),
    "max_tokens": st.integers(0, 8),
    "max_completion_tokens": st.integers(1, 8),
    "n": st.integers(1, 3),
    "prompt": st.sampled_from(["to be", "", [1, 2, 3], ["a", "b"], [[5], [6, 7]]]),
    "stream": st.booleans(),
    "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
    "content": st.sampled_from(["to be", "or not", "", "🙂"]),
    "stop": st.none() | st.sampled_from(["a", ["e", "x"], "\n"]),
    "logit_bias": st.dictionaries(st.integers(0, 511).map(str), st.floats(-100, 100), max_size=3),
    "response_format": st.sampled_from(
        [
            {"type": "text"},
            {"type": "json_object"},
            {"type": "regex", "pattern": "[ab]{1,4}"},
            {"type": "regex", "pattern": "("},
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer"}}},
        ]
    ),
}
"""Fields whose right values a schema does not tell; most requests would be refused for them alone."""
REQUIRED_OFTEN = ("model", "max_tokens", "max_completion_tokens")


def of_schema(schema: dict[str, Any], parts: dict[str, Any], depth: int = 0) -> st.SearchStrategy[Any]:
    """Values that mostly fit a JSON schema."""
    if "$ref" in schema:
        return of_schema(parts[schema["$ref"].rpartition("/")[2]], parts, depth)
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return st.one_of([of_schema(one, parts, depth) for one in schema[key]])
    kind = schema.get("type")
    if kind == "object" or "properties" in schema:
        return _object(schema, parts, depth)
    if kind == "array":
        low = schema.get("minItems", 0)
        return st.lists(of_schema(schema.get("items", {}), parts, depth + 1), min_size=low, max_size=low + 2)
    if kind == "integer":
        low = schema.get("minimum", -2)
        return st.integers(low, max(low, min(schema.get("maximum", 40), low + 60)))
    if kind == "number":
        return st.floats(schema.get("minimum", -3), schema.get("maximum", 3), allow_nan=False)
    simple = {"string": texts, "boolean": st.booleans(), "null": st.none()}
    return simple.get(str(kind), anything)


def _object(schema: dict[str, Any], parts: dict[str, Any], depth: int) -> st.SearchStrategy[Any]:
    if depth > 3 or "properties" not in schema:
        return st.dictionaries(st.text(max_size=6), anything, max_size=3)
    fields = {
        name: LIKELY[name] if name in LIKELY else of_schema(one, parts, depth + 1)
        for name, one in schema["properties"].items()
    }
    needed = {*schema.get("required", ()), *(name for name in REQUIRED_OFTEN if name in fields)}
    others = sorted(set(fields) - needed)

    @st.composite
    def build(draw: st.DrawFn) -> dict[str, Any]:
        chosen = draw(st.lists(st.sampled_from(others), max_size=2, unique=True)) if others else []
        value = {name: draw(fields[name]) for name in [*sorted(needed), *chosen]}
        damage = draw(st.integers(0, 7))
        if damage == 0 and value:  # one request in four is damaged: a field missing, wrong or unknown
            value.pop(draw(st.sampled_from(sorted(value))))
        elif damage == 1:
            value[draw(st.sampled_from(sorted(fields)) | st.text(max_size=8))] = draw(anything)
        return value

    return build()


# -- bodies that the description does not tell enough of ------------------------------------------------

TEXT_MODEL, EMBEDDING_MODEL, UPSTREAM = "fuzz", "embed", "far"
_tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["text_input", "text_input", "text", "max_tokens", "seed", "x"]),
        "datatype": st.sampled_from(["BYTES", "BYTES", "INT64", "FP32", "x"]),
        "shape": st.sampled_from([[1], [1], [2], [1, 1], [0], [-1], [2**40], []]),
    },
    optional={
        "data": st.sampled_from([["to be"], ["a", "b"], [1], [2.5], [], [None], [["a"]]]) | anything,
        "parameters": st.dictionaries(
            st.just("binary_data_size") | st.text(max_size=4), anything, max_size=1
        ),
    },
)
_good_text = st.just({"name": "text_input", "datatype": "BYTES", "shape": [1], "data": ["to be"]})
_good_limit = st.just({"name": "max_tokens", "datatype": "INT64", "shape": [1], "data": [4]})
inferences = st.fixed_dictionaries(
    {"inputs": st.tuples(_good_text, _good_limit).map(list) | st.lists(_tensors, max_size=3)},
    optional={
        "id": st.text(max_size=8) | anything,
        "parameters": st.dictionaries(st.sampled_from(["temperature", "seed", "n"]), anything, max_size=2),
        "outputs": st.lists(
            st.fixed_dictionaries({"name": st.sampled_from(["text_output", "x"])}), max_size=2
        ),
    },
)
"""Bodies for the Open Inference Protocol, whose tensors it reads by itself."""


def _model_in(path: str, body: Any) -> Any:
    """The body with a model that the route is for, where it names the usual one; some go to the upstream."""
    if isinstance(body, dict) and body.get("model") == TEXT_MODEL:
        if path == "/v1/embeddings":
            return body | {"model": EMBEDDING_MODEL}
        if path.startswith("/v1/") and body.get("stream") is True and body.get("n") is not None:
            return body | {"model": UPSTREAM}
    return body


# -- calls over gRPC -----------------------------------------------------------------------------------

_names = st.sampled_from([TEXT_MODEL, TEXT_MODEL, EMBEDDING_MODEL, "x", ""])
_small = st.integers(-3, 40)


@st.composite
def rpc_shots(draw: st.DrawFn) -> Shot:
    """Well-formed messages, as any client library writes them, with contents that may be wrong."""
    method = draw(st.sampled_from([*sorted(RPC_METHODS), *["ModelInfer"] * 6]))
    message = RPC_METHODS[method][0]()
    if method in ("ModelReady", "ModelMetadata"):
        message.name, message.version = draw(_names), draw(st.sampled_from(["", "", "1"]))
    if method == "ModelInfer":
        message.model_name = draw(_names)
        message.model_version = draw(st.sampled_from(["", "", "", "1"]))
        for _ in range(draw(st.integers(0, 2))):
            tensor = message.inputs.add()
            tensor.name = draw(st.sampled_from(["text_input", "text", "max_tokens", "x"]))
            tensor.datatype = draw(st.sampled_from(["BYTES", "BYTES", "INT64", "FP32", ""]))
            tensor.shape.extend(draw(st.sampled_from([[1], [1], [2], [-1], [2**40], []])))
            tensor.contents.bytes_contents.extend(draw(st.lists(st.binary(max_size=8), max_size=2)))
            tensor.contents.int64_contents.extend(draw(st.lists(_small, max_size=1)))
            if draw(st.integers(0, 4)) == 0:
                message.raw_input_contents.append(draw(st.binary(max_size=12)))
        for name in draw(st.lists(st.sampled_from(["temperature", "seed", "max_tokens", "x"]), max_size=2)):
            message.parameters[name].int64_param = draw(_small)
    return Shot(
        "GRPC", method, body=message.SerializeToString(), stay=draw(st.none() | st.just(0)), place=method
    )


# -- calls over HTTP -----------------------------------------------------------------------------------

header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
odd_headers = st.dictionaries(
    st.sampled_from(
        ["accept", "accept-encoding", "content-encoding", "range", "expect", "authorization", "origin",
         "host", "x-request-id", "content-length", "if-none-match", "transfer-encoding", "cookie",
         "inference-header-content-length"]
    ),
    st.sampled_from(["application/json", "gzip", "bytes=9-0", "*", "Bearer x", "http://e", "9"])
    | header_values,
    max_size=2,
)  # fmt: skip
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]


def shots(description: dict[str, Any], key: str) -> st.SearchStrategy[Shot]:
    """Requests over all that `description` (an OpenAPI document) has, and beside it. `key` may do all."""
    parts = description.get("components", {}).get("schemas", {})
    calls: list[tuple[str, str, st.SearchStrategy[Any] | None]] = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema")
            bodies = None if schema is None else of_schema(schema, parts)
            calls.append((method.upper(), path, inferences if path.endswith("/infer") else bodies))
    calls.sort(key=lambda call: call[:2])
    with_body = [call for call in calls if call[2] is not None]
    paths = sorted({path for _, path, _ in calls} | {"/", "/static/app.js", "/static/../app.py", "/nothing"})
    keys = st.sampled_from([f"Bearer {key}"] * 6 + [f"Bearer {key}x", "Bearer platen_1_2", ""])

    @st.composite
    def shot(draw: st.DrawFn) -> Shot:
        kind = draw(st.integers(0, 9))
        if kind < 7:  # a call as described
            method, path, bodies = draw(st.sampled_from(with_body if kind < 6 and with_body else calls))
            body = b"" if bodies is None else _encoded(_model_in(path, draw(bodies)))
            headers = {"content-type": "application/json"} | (draw(odd_headers) if kind == 0 else {})
        else:  # any method, path and body
            method, path = draw(st.sampled_from(METHODS)), draw(st.sampled_from(paths))
            path += draw(st.sampled_from(["", "", "/", "/x", "%00", "//"]))
            body = draw(st.binary(max_size=60) | anything.map(_encoded))
            headers = {"content-type": draw(st.sampled_from(["application/json", "text/plain", "x"]))}
            headers |= draw(odd_headers)
        if presented := draw(keys):
            headers.setdefault("authorization", presented)
        place = path
        while "{" in path:
            before, _, rest = path.partition("{")
            filled = draw(st.sampled_from([TEXT_MODEL, TEXT_MODEL, EMBEDDING_MODEL, "x"]) | texts)
            path = before + quote(filled, errors="replace") + rest.partition("}")[2]
        query = draw(st.sampled_from(["", "", "", "a=b", "%", "model=fuzz&stream=1"]))
        stay = draw(st.none() | st.none() | st.integers(0, 4))
        return Shot(method, path, query, tuple(sorted(headers.items())), body, stay, place)

    return st.integers(0, 19).flatmap(lambda chance: rpc_shots() if chance == 0 else shot())


def _encoded(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=True).encode()
