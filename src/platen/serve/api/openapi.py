"""The server's description of itself, `/openapi.json`, where FastAPI's own would be wrong.

Errors are OpenAI's error object with a status of 4xx or 5xx, never FastAPI's 422; and answers can be streams.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel

_REFS = "#/components/schemas/{model}"


class ErrorObject(BaseModel):
    """What was wrong. `param` names the field of the request, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """The answer to a request that was refused or that failed."""

    error: ErrorObject


class InferenceError(BaseModel):
    """The same in the Open Inference Protocol."""

    error: str


def streamed(piece: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`, whose answer can also be a stream of such pieces."""
    schema = piece.model_json_schema(mode="serialization", ref_template=_REFS)
    return {200: {"content": {"text/event-stream": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Let `app` describe itself as it is."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    components: dict[str, Any] = schema.setdefault("components", {}).setdefault("schemas", {})
    error = ErrorAnswer.model_json_schema(ref_template=_REFS)
    components |= error.pop("$defs") | {"ErrorAnswer": error}
    components["InferenceError"] = InferenceError.model_json_schema()
    for path, operations in schema["paths"].items():
        shape = _REFS.format(model="InferenceError" if path.startswith("/v2") else "ErrorAnswer")
        refused = {"content": {"application/json": {"schema": {"$ref": shape}}}}
        for operation in operations.values():
            responses = operation["responses"]
            responses.pop("422", None)
            responses.setdefault("4XX", {"description": "Refused", **refused})
            responses.setdefault("5XX", {"description": "Failed, or not able to take work now", **refused})
            stream = responses.get("200", {}).get("content", {}).get("text/event-stream")
            if stream is not None:
                components |= stream["schema"].pop("$defs", {})
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    return schema
