"""The Open Inference Protocol over REST, with Triton's binary extension: tensors as raw bytes after the JSON.

With the header `Inference-Header-Content-Length` that many bytes of a body are JSON; the tensors whose
`binary_data_size` says so follow in their order. An error is `{"error": "…"}`, as the protocol has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException

from platen.serve.access.layer import caller_of
from platen.serve.api.generation import unless_disconnected
from platen.serve.api.oip.inference import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    InferRequest,
    InferResponse,
    ModelDescription,
    OpenInference,
    Scalar,
)
from platen.serve.api.oip.tensors import Tensor, from_raw, from_values, to_plain, to_raw
from platen.web.errors import ApiError, from_validation, json_response

LENGTH_HEADER = "inference-header-content-length"
BINARY_SIZE = "binary_data_size"
Parameters = dict[str, Scalar]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class InputTensor(_Strict):
    name: str
    datatype: str
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=16)]
    parameters: Parameters = {}
    data: list[Any] | None = None


class RequestedOutput(_Strict):
    name: str
    parameters: Parameters = {}


class InferenceRequest(_Strict):
    """The JSON of a request."""

    id: str = ""
    parameters: Parameters = {}
    inputs: Annotated[list[InputTensor], Field(min_length=1, max_length=64)]
    outputs: list[RequestedOutput] = []


class ErrorMessage(BaseModel):
    """What was wrong."""

    error: str


class _Route(APIRoute):
    """Answers errors as the protocol has them."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        handle = super().get_route_handler()

        async def handler(request: Request) -> Response:
            try:
                response: Response = await handle(request)
            except ApiError as error:
                headers = dict(error.response().headers)
                keep = {name: value for name, value in headers.items() if not name.startswith("content-")}
                return json_response(error.status, {"error": error.message}, keep)
            except HTTPException as error:
                return json_response(error.status_code, {"error": str(error.detail)})
            return response

        return handler


def open_inference_router(service: OpenInference) -> APIRouter:
    errors: dict[int | str, dict[str, Any]] = {status: {"model": ErrorMessage} for status in ("4XX", "5XX")}
    router = APIRouter(prefix="/v2", route_class=_Route, responses=errors)
    # Of a route's two paths the lower is tried first: names may have slashes, so the longer one goes first.

    @router.get("")
    async def server_metadata() -> dict[str, Any]:
        """The server's name, version and extensions of the protocol."""
        return {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": list(EXTENSIONS)}

    @router.get("/health/live")
    async def server_live() -> dict[str, bool]:
        """Whether the server answers: it does."""
        return {"live": True}

    @router.get("/health/ready")
    async def server_ready(response: Response) -> dict[str, bool]:
        """Whether all models take work (200) or not (503)."""
        return _ready(response, service.ready())

    @router.get("/models/{model:path}/ready")
    @router.get("/models/{model:path}/versions/{version}/ready")
    async def model_ready(model: str, response: Response, version: str = "") -> dict[str, Any]:
        """Whether a model takes work (200) or not (503)."""
        return {"name": model, **_ready(response, service.model_ready(model, version))}

    @router.post("/models/{model:path}/infer", openapi_extra=_BODY)
    @router.post("/models/{model:path}/versions/{version}/infer", openapi_extra=_BODY)
    async def infer(model: str, request: Request, version: str = "") -> Response:
        """Run a model: `text_input` to `text_output`, or `text` to `embedding`."""
        header, raw = await _body(request)
        asked = InferRequest(
            model=model,
            version=version,
            id=header.id,
            parameters={
                key: value for key, value in header.parameters.items() if key != "binary_data_output"
            },
            inputs=_inputs(header.inputs, raw),
            outputs=[output.name for output in header.outputs],
        )
        response = await unless_disconnected(request, service.infer(asked, caller_of(request)))
        return Response(status_code=499) if response is None else _answer(header, response)

    @router.get("/models/{model:path}")
    @router.get("/models/{model:path}/versions/{version}")
    async def model_metadata(model: str, version: str = "") -> dict[str, Any]:
        """What tensors a model takes and gives."""
        return _metadata(service.describe(model, version))

    return router


_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object", "required": ["inputs"]}}},
    }
}


def _ready(response: Response, ready: bool) -> dict[str, bool]:
    response.status_code = 200 if ready else 503
    return {"ready": ready}


def _metadata(description: ModelDescription) -> dict[str, Any]:
    def tensors(infos: Sequence[Any]) -> list[dict[str, Any]]:
        return [{"name": one.name, "datatype": one.datatype, "shape": list(one.shape)} for one in infos]

    return {
        "name": description.name,
        "versions": list(description.versions),
        "platform": description.platform,
        "inputs": tensors(description.inputs),
        "outputs": tensors(description.outputs),
    }


async def _body(request: Request) -> tuple[InferenceRequest, memoryview]:
    """The JSON part of a body, and the raw bytes that follow."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "Send the body uncompressed.", code="unsupported_encoding")
    body = await request.body()
    given = request.headers.get(LENGTH_HEADER)
    length = len(body)
    if given is not None:
        if not (given.isascii() and given.isdigit() and int(given) <= len(body)):
            raise ApiError(400, f"{LENGTH_HEADER} is not a length within the body.", code="invalid_header")
        length = int(given)
    try:
        return InferenceRequest.model_validate_json(body[:length]), memoryview(body)[length:]
    except ValidationError as error:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            raise ApiError(400, f"{first['msg']}.", code="invalid_json") from None
        raise from_validation(error.errors()) from None


def _inputs(inputs: Sequence[InputTensor], raw: memoryview) -> list[Tensor]:
    tensors, at = [], 0
    for given in inputs:
        size = given.parameters.get(BINARY_SIZE)
        if size is None:
            if given.data is None:
                raise ApiError(400, f"The input '{given.name}' has no data.", code="invalid_tensor")
            tensors.append(from_values(given.name, given.datatype, given.shape, given.data))
            continue
        if not isinstance(size, int) or size < 0 or at + size > len(raw) or given.data is not None:
            raise ApiError(
                400, f"The input '{given.name}': {BINARY_SIZE} does not fit.", code="invalid_tensor"
            )
        tensors.append(from_raw(given.name, given.datatype, given.shape, bytes(raw[at : at + size])))
        at += size
    if at != len(raw):
        raise ApiError(400, f"{len(raw) - at} bytes of the body belong to no input.", code="invalid_body")
    return tensors


def _answer(asked: InferenceRequest, response: InferResponse) -> Response:
    by_default = asked.parameters.get("binary_data_output") is True
    binary = {output.name: output.parameters.get("binary_data", by_default) for output in asked.outputs}
    outputs, raw = [], b""
    for tensor in response.outputs:
        told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary.get(tensor.name, by_default):
            data = to_raw(tensor)
            raw += data
            told["parameters"] = {BINARY_SIZE: len(data)}
        else:
            told["data"] = to_plain(tensor)
        outputs.append(told)
    header = orjson.dumps(
        {
            "model_name": response.model,
            "model_version": response.version,
            **({"id": response.id} if response.id else {}),
            "parameters": response.parameters,
            "outputs": outputs,
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
    if not any(binary.get(tensor.name, by_default) for tensor in response.outputs):
        return Response(header, media_type="application/json")
    return Response(
        header + raw, headers={LENGTH_HEADER: str(len(header))}, media_type="application/octet-stream"
    )
