"""What the Open Inference Protocol asks of a server, whether it comes over REST or gRPC.

A model that writes takes texts in `text_input`, and how to sample as parameters or as further tensors of one
element (`max_tokens`, `temperature`, `seed` and so on, named as for `/v1/completions`); it gives
`text_output`. An embedding model takes `text` and gives `embedding`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import ValidationError

from platen import __version__
from platen.serve.access.caller import Caller
from platen.serve.api.completion_types import CompletionRequest
from platen.serve.api.embedding_types import EmbeddingRequest
from platen.serve.api.generation import Generation, check_count, sampling_of
from platen.serve.api.leased_prediction import predict
from platen.serve.api.oip.tensors import BYTES, Tensor, texts_tensor
from platen.serve.context import ServeContext
from platen.serve.guards.actions import Origin
from platen.serve.guards.output_screening import Oversight
from platen.serve.hub.embedding_model import EmbeddingModel
from platen.serve.hub.model_hub import Lease
from platen.serve.hub.routing import Variant
from platen.serve.hub.served_model import AnyModel, ModelInfo, ServedModel, writer
from platen.web.errors import ApiError, from_validation

SERVER_NAME, SERVER_VERSION = "platen", __version__
EXTENSIONS = ("binary_tensor_data",)
Scalar = bool | int | float | str
_NOT_PARAMETERS = frozenset(
    {"model", "prompt", "n", "stream", "stream_options", "echo", "logprobs", "suffix", "best_of"}
)
"""Fields of a completion request that this protocol says otherwise or has no place for in its answer."""


@dataclass(frozen=True)
class TensorInfo:
    """A tensor that a model takes or gives; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModelDescription:
    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True)
class InferRequest:
    """`version` empty is the server's choice; `outputs` empty are all."""

    model: str
    inputs: Sequence[Tensor]
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Scalar] = field(default_factory=dict)
    outputs: Sequence[str] = ()


@dataclass(frozen=True)
class InferResponse:
    model: str
    version: str
    id: str
    parameters: Mapping[str, int]
    outputs: Sequence[Tensor]


class OpenInference:
    """The protocol over a server's models. Raises ApiError everywhere."""

    def __init__(self, context: ServeContext) -> None:
        self._context, self._hub, self._state = context, context.hub, context.state

    def ready(self) -> bool:
        """Whether every model takes work."""
        return not self._state.draining and not any(map(_failed, self._hub.models()))

    def model_ready(self, name: str, version: str = "") -> bool:
        return not self._state.draining and not _failed(self._variant(name, version).model)

    def describe(self, name: str, version: str = "") -> ModelDescription:
        info = self._variant(name, version).model.info
        versions = dict.fromkeys(v.model.info.version for v in self._hub.route(name).variants)
        inputs, outputs = _tensors(info)
        return ModelDescription(name, tuple(versions), f"platen_{info.kind}", inputs, outputs)

    async def infer(self, request: InferRequest, caller: Caller) -> InferResponse:
        """Run a model; cancelling it stops the work. Raises ApiError, also when the caller may not."""
        caller.check_model(request.model)
        if request.version:
            route = self._hub.route(request.model)
            lease = Lease(self._hub, route, self._variant(request.model, request.version))
        else:
            lease = self._hub.acquire(request.model)
        made = await predict(lease, lambda model: self._run(model, request, caller))
        return made.value

    async def _run(self, model: AnyModel, request: InferRequest, caller: Caller) -> InferResponse:
        """Let this model answer, with the guards before and behind it."""
        inputs, made = _tensors(model.info)
        known = [tensor.name for tensor in made]
        unknown = next((name for name in request.outputs if name not in known), None)
        if unknown is not None:
            raise _refused("outputs", f"The model has no output '{unknown}'; it has {', '.join(known)}.")
        text, parameters = _read_inputs(inputs[0].name, request)
        origin = Origin(caller.name, model.info.name, model.info.version)
        incoming = self._context.guards.incoming(origin)
        if isinstance(model, EmbeddingModel):
            texts = text.texts() if incoming is None else await incoming.inputs(text.texts())
            outputs, told = await _embed(model, text.name, texts, parameters, caller)
        else:
            oversight = self._context.oversight(origin)
            outputs, told = await _generate(
                writer(model).guarded(incoming), text, parameters, caller, oversight
            )
        wanted = [tensor for tensor in outputs if not request.outputs or tensor.name in request.outputs]
        return InferResponse(model.info.name, model.info.version, request.id, told, wanted)

    def _variant(self, name: str, version: str) -> Variant:
        """What has this version among all that answers to the name; the stable one when it is empty."""
        route = self._hub.route(name)
        found = next((v for v in route.variants if version in ("", v.model.info.version)), None)
        if found is None:
            here = ", ".join(f"'{v.model.info.version}'" for v in route.variants)
            raise ApiError(
                404,
                f"The model '{name}' has no version '{version}' here; it has {here}.",
                param="version",
                code="model_not_found",
            )
        return found


def _failed(model: AnyModel) -> bool:
    return model.engine.stats().failed


def _tensors(info: ModelInfo) -> tuple[tuple[TensorInfo, ...], tuple[TensorInfo, ...]]:
    """What a model takes and what it gives; the first input is the text."""
    if info.kind == "embedding":
        return (TensorInfo("text", BYTES, (-1,)),), (TensorInfo("embedding", "FP32", (-1, -1)),)
    outputs = TensorInfo("text_output", BYTES, (-1,)), TensorInfo("finish_reason", BYTES, (-1,))
    return (TensorInfo("text_input", BYTES, (-1,)),), outputs


def _read_inputs(text_name: str, request: InferRequest) -> tuple[Tensor, dict[str, Scalar]]:
    """The texts, and the parameters: those of the request and the tensors that are none but values."""
    text: Tensor | None = None
    parameters = dict(request.parameters)
    for tensor in request.inputs:
        if tensor.name == text_name and text is None:
            text = tensor
        elif tensor.name == text_name or tensor.name in parameters:
            raise _refused("inputs", f"'{tensor.name}' is given twice.")
        else:
            parameters[tensor.name] = tensor.scalar()
    if text is None or not text.values:
        raise _refused("inputs", f"The model needs the input '{text_name}' ({BYTES}) with at least one text.")
    return text, parameters


async def _generate(
    model: ServedModel,
    text: Tensor,
    parameters: Mapping[str, Scalar],
    caller: Caller,
    oversight: Oversight,
) -> tuple[list[Tensor], dict[str, int]]:
    texts = text.texts()
    body = _completion_request(model.info.name, texts, parameters)
    check_count(model.engine, len(texts), 1, text.name)
    prompts = await model.text_prompts(texts, body.truncate_prompt_tokens)
    sampling = sampling_of(body, body.max_tokens, None, model.info.defaults)
    generation = await Generation.start(
        model.engine, prompts, sampling, caller=caller, model=model.info.name, prompt_param=text.name
    )
    generation.oversee(oversight)
    written, reasons = [""] * len(texts), [""] * len(texts)
    async for item in generation.events():
        written[item.index] += item.event.text
        reasons[item.index] = item.event.finish_reason or ""
    usage = generation.usage()
    outputs = [
        texts_tensor("text_output", text.shape, written),
        texts_tensor("finish_reason", text.shape, reasons),
    ]
    return outputs, {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
    }


def _completion_request(
    model: str, texts: Sequence[str], parameters: Mapping[str, Scalar]
) -> CompletionRequest:
    """The parameters, checked as those of `/v1/completions` are."""
    foreign = next((name for name in parameters if name in _NOT_PARAMETERS), None)
    if foreign is not None:
        raise _refused(foreign, f"Unknown parameter: '{foreign}'.")
    try:
        return CompletionRequest.model_validate({**parameters, "model": model, "prompt": list(texts)})
    except ValidationError as error:
        raise from_validation(error.errors()) from None


async def _embed(
    model: EmbeddingModel,
    name: str,
    texts: Sequence[str],
    parameters: Mapping[str, Scalar],
    caller: Caller,
) -> tuple[list[Tensor], dict[str, int]]:
    try:
        wanted = EmbeddingRequest.model_validate({**parameters, "model": model.info.name, "input": texts})
    except ValidationError as error:
        raise from_validation(error.errors()) from None
    batch = await model.engine.token_ids(texts, wanted.truncate_prompt_tokens, param=name)
    vectors = await model.embed(batch, wanted.dimensions, caller)
    outputs = [Tensor("embedding", "FP32", vectors.shape, vectors.reshape(-1))]
    return outputs, {"prompt_tokens": sum(map(len, batch))}


def _refused(param: str, message: str) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")
