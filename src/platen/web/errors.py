"""Every refusal and failure as the OpenAI error object, so that any OpenAI client understands it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from platen.core.errors import complaint

TYPES = {
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "service_unavailable_error",
    504: "server_error",
}


class ApiError(Exception):
    """An answer that is an error. `param` names the request's field, `code` is for programs."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.retry_after, self.headers = retry_after, headers or {}

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {
            "error": {
                "message": self.message,
                "type": TYPES.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> Response:
        headers = dict(self.headers)
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        return json_response(self.status, self.body(), headers)


def json_response(status: int, body: object, headers: dict[str, str] | None = None) -> Response:
    """JSON in ASCII, so that an echoed half of a surrogate pair can't break it."""
    return Response(json.dumps(body), status, headers, media_type="application/json")


def overloaded(retry_after: float) -> ApiError:
    return ApiError(
        429,
        "The server is busy and its queue is full. Try again in a moment.",
        code="overloaded",
        retry_after=retry_after,
    )


def waited_too_long(retry_after: float) -> ApiError:
    return ApiError(
        503,
        "The server is busy: this request has waited too long for its turn. Try again in a moment.",
        code="queue_timeout",
        retry_after=retry_after,
    )


def draining(retry_after: float) -> ApiError:
    return ApiError(
        503,
        "The server is shutting down. Try again when it is back.",
        code="shutting_down",
        retry_after=retry_after,
    )


def engine_stopped() -> ApiError:
    return ApiError(503, "The server's engine has stopped. Restart the server.", code="engine_stopped")


def failed() -> ApiError:
    return ApiError(500, "The server failed while it worked on this request.", code="internal_error")


async def unexpected(_: Request, error: Exception) -> Response:
    """The answer where nothing else has caught an error."""
    return failed().response()


def install_handlers(app: FastAPI) -> None:
    """Make `app` answer every error, its own and the framework's, with the error object."""

    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def validation_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return from_validation(error.errors()).response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = ApiError(
            error.status_code, _http_message(request, error), code=_CODES.get(error.status_code)
        )
        return json_response(answer.status, answer.body(), dict(error.headers or {}))

    async def client_gone(_: Request, error: Exception) -> Response:
        return Response(status_code=499)  # nobody reads it

    app.add_exception_handler(ClientDisconnect, client_gone)
    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, validation_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(Exception, unexpected)


_CODES = {404: "not_found", 405: "method_not_allowed", 413: "body_too_large"}


def _http_message(request: Request, error: HTTPException) -> str:
    if error.status_code == 404:
        return f"There is nothing at {request.method} {request.url.path}."
    if error.status_code == 405:
        return f"{request.url.path} does not take {request.method}."
    return str(error.detail)


def from_validation(errors: Sequence[Any]) -> ApiError:
    """The first of pydantic's complaints, and how many more there are."""
    first = errors[0]
    if first["type"] == "json_invalid":
        at, why = first["loc"][-1], first.get("ctx", {}).get("error", "")
        return ApiError(400, f"The body is not valid JSON: {why} at character {at}.", code="invalid_json")
    path = [part for part in first["loc"] if part != "body"]
    if first["type"] == "value_error" and not path:
        return ApiError(400, f"{first['ctx']['error']}.".capitalize(), code="invalid_value")
    if not path:
        return ApiError(400, "The body must be a JSON object, sent as application/json.", code="invalid_body")
    param = _param_name(path)
    if first["type"] == "extra_forbidden":
        message, code = f"Unknown parameter: '{param}'.", "unknown_parameter"
    elif first["type"] == "missing":
        message, code = f"Missing required parameter: '{param}'.", "missing_required_parameter"
    elif first["type"] == "unsupported":
        message, code = f"'{param}': {complaint(first)}", "unsupported_parameter"
    else:
        message, code = f"Invalid '{param}': {complaint(first)}.", "invalid_value"
    if len(errors) > 1:
        message += f" ({len(errors) - 1} more problem{'s' if len(errors) > 2 else ''} in this request.)"
    return ApiError(400, message, param=param, code=code)


def _param_name(path: Sequence[object]) -> str:
    """`("messages", 0, "content")` as `messages[0].content`."""
    name = ""
    for part in path:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else str(part)
    return name
