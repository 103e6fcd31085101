"""The Open Inference Protocol over gRPC: on a port of its own, in the HTTP server's event loop."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from platen.core.errors import PlatenError
from platen.serve.access.caller import Caller
from platen.serve.access.keys import Scope
from platen.serve.access.layer import AccessControl
from platen.serve.api.oip.inference import (
    EXTENSIONS,
    SERVER_NAME,
    SERVER_VERSION,
    InferRequest,
    InferResponse,
    OpenInference,
    TensorInfo,
)
from platen.serve.api.oip.messages import METHODS, SERVICE
from platen.serve.api.oip.tensors import Tensor, from_raw, from_values, to_raw
from platen.web.errors import ApiError, draining, failed
from platen.web.server_state import ServerState

log = logging.getLogger(__name__)

_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


_SCOPES: dict[str, Scope | None] = {
    "ServerLive": None,
    "ServerReady": None,
    "ModelReady": Scope.models,
    "ServerMetadata": Scope.models,
    "ModelMetadata": Scope.models,
    "ModelInfer": Scope.infer,
}


class RpcError(PlatenError):
    """The gRPC server can't start where it was told to."""


class RpcServer:
    """Serves `service` on a host and a port, to whom `access` lets in; port 0 takes a free one.

    A key is sent as over HTTP, in the metadata `authorization`.
    """

    def __init__(
        self, service: OpenInference, state: ServerState, access: AccessControl, host: str, port: int
    ) -> None:
        self._service, self._state, self._access = service, state, access
        self._host = f"[{host}]" if ":" in host else host
        self._port = port
        self._server: Any = None

    @property
    def address(self) -> str:
        """Where it answers, once it has started."""
        return f"{self._host}:{self._port}"

    async def start(self) -> None:
        """Answer from now on. Raises RpcError when the address can't be had."""
        # Without this option a second server on the port would take half of the first one's calls.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((self._handlers(),))
        try:
            self._port = self._server.add_insecure_port(self.address)
        except RuntimeError:
            raise RpcError(
                f"can't listen on {self.address} for gRPC",
                hint="Stop what uses the port, or take another: --grpc-port 0 takes any free one.",
            ) from None
        await self._server.start()

    async def stop(self) -> None:
        """End every call that still runs."""
        if self._server is not None:
            await self._server.stop(None)

    def _handlers(self) -> grpc.GenericRpcHandler:
        handlers = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._model_infer,
        }
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                name: grpc.unary_unary_rpc_method_handler(
                    self._told(handle, _SCOPES[name]),
                    request_deserializer=METHODS[name][0].FromString,
                    response_serializer=METHODS[name][1].SerializeToString,
                )
                for name, handle in handlers.items()
            },
        )

    def _told(
        self, handle: Callable[[Any, Caller], Awaitable[Any]], scope: Scope | None
    ) -> Callable[[Any, Any], Awaitable[Any]]:
        """A method's handler for those who may call it, whose errors reach them with the right status."""

        async def handler(request: Any, context: Any) -> Any:
            caller = Caller()
            try:
                if scope is not None:
                    caller = await self._access.identify(_authorization(context), scope)
                if scope is Scope.infer:
                    await caller.count_request()
                return await handle(request, caller)
            except ApiError as error:
                refusal = error
            except Exception:
                log.exception("a gRPC call failed")
                refusal = failed()
            finally:
                caller.settle(0, 0)  # nothing, unless the work failed before it could say what it had used
            wait = refusal.retry_after
            metadata = () if wait is None else (("retry-after", str(max(1, math.ceil(wait)))),)
            code = _CODES.get(refusal.status, grpc.StatusCode.INTERNAL)
            return await context.abort(code, refusal.message, metadata)

        return handler

    async def _server_live(self, _: Any, caller: Caller) -> Any:
        return METHODS["ServerLive"][1](live=True)

    async def _server_ready(self, _: Any, caller: Caller) -> Any:
        return METHODS["ServerReady"][1](ready=self._service.ready())

    async def _model_ready(self, request: Any, caller: Caller) -> Any:
        return METHODS["ModelReady"][1](ready=self._service.model_ready(request.name, request.version))

    async def _server_metadata(self, _: Any, caller: Caller) -> Any:
        return METHODS["ServerMetadata"][1](
            name=SERVER_NAME, version=SERVER_VERSION, extensions=list(EXTENSIONS)
        )

    async def _model_metadata(self, request: Any, caller: Caller) -> Any:
        found = self._service.describe(request.name, request.version)
        return METHODS["ModelMetadata"][1](
            name=found.name,
            versions=found.versions,
            platform=found.platform,
            inputs=map(_tensor_info, found.inputs),
            outputs=map(_tensor_info, found.outputs),
        )

    async def _model_infer(self, request: Any, caller: Caller) -> Any:
        if self._state.draining:
            raise draining(self._state.drain_seconds_left + 1)
        self._state.active += 1
        try:
            response = await self._service.infer(_read(request), caller)
        finally:
            self._state.active -= 1
        return _written(response, raw=bool(request.raw_input_contents))


def _authorization(context: Any) -> bytes | None:
    return next((str(v).encode() for k, v in context.invocation_metadata() if k == "authorization"), None)


def _tensor_info(info: TensorInfo) -> dict[str, Any]:
    return {"name": info.name, "datatype": info.datatype, "shape": info.shape}


def _read(request: Any) -> InferRequest:
    raw = list(request.raw_input_contents)
    if raw and len(raw) != len(request.inputs):
        raise ApiError(
            400,
            f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs.",
            param="raw_input_contents",
            code="invalid_tensor",
        )
    inputs = []
    for number, given in enumerate(request.inputs):
        if raw:
            inputs.append(from_raw(given.name, given.datatype, given.shape, raw[number]))
        else:
            field = _CONTENTS.get(given.datatype)
            values = list(getattr(given.contents, field)) if field else []
            inputs.append(from_values(given.name, given.datatype, given.shape, values))
    return InferRequest(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        parameters={key: _value(key, value) for key, value in request.parameters.items()},
        inputs=inputs,
        outputs=[output.name for output in request.outputs],
    )


def _value(name: str, parameter: Any) -> Any:
    choice = parameter.WhichOneof("parameter_choice")
    if choice is None:
        raise ApiError(400, f"The parameter '{name}' has no value.", param=name, code="invalid_value")
    return getattr(parameter, choice)


def _written(response: InferResponse, *, raw: bool) -> Any:
    """The response; tensors raw if the request's were."""
    return METHODS["ModelInfer"][1](
        model_name=response.model,
        model_version=response.version,
        id=response.id,
        parameters={key: {"int64_param": value} for key, value in response.parameters.items()},
        outputs=[_output(tensor, raw) for tensor in response.outputs],
        raw_output_contents=[to_raw(tensor) for tensor in response.outputs] if raw else [],
    )


def _output(tensor: Tensor, raw: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
    return told if raw else {**told, "contents": {_CONTENTS[tensor.datatype]: tensor.values}}
