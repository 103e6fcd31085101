"""`POST /v1/embeddings`: texts to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from platen.serve.access.layer import caller_of
from platen.serve.api.embedding_types import EmbeddingList, EmbeddingRequest, encode_answer
from platen.serve.api.generation import unless_disconnected
from platen.serve.api.leased_prediction import predict
from platen.serve.context import ServeContext
from platen.serve.guards.actions import Origin
from platen.serve.hub.embedding_model import embedding_of
from platen.serve.hub.served_model import AnyModel
from platen.web.errors import ApiError

if TYPE_CHECKING:
    from platen.engines.embedding.embedder import Vectors


def embeddings_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of a text, of several, or of token ids."""

        async def embed(model: AnyModel) -> tuple[Vectors, int]:
            embedder = embedding_of(model)
            inputs = body.inputs
            origin = Origin.of(request.scope, model.info.name, model.info.version)
            if (incoming := context.guards.incoming(origin)) is not None:
                inputs = await incoming.inputs(_texts(inputs))
            batch = await embedder.engine.token_ids(inputs, body.truncate_prompt_tokens)
            return await embedder.embed(batch, body.dimensions, caller), sum(map(len, batch))

        caller = caller_of(request)
        caller.check_model(body.model)
        lease = context.hub.acquire(body.model, user=body.user)
        made = await unless_disconnected(request, predict(lease, embed))
        if made is None:
            return Response(status_code=499)
        vectors, tokens = made.value
        answer = encode_answer(vectors, body.model, tokens, as_base64=body.encoding_format == "base64")
        return Response(answer, media_type="application/json", headers=made.headers)

    return router


def _texts(inputs: Sequence[str] | Sequence[list[int]]) -> list[str]:
    """The inputs as texts that guards can look over. Raises ApiError for token ids."""
    texts = [given for given in inputs if isinstance(given, str)]
    if len(texts) < len(inputs):
        raise ApiError(
            400,
            "Token ids can't be looked over by this server's guards; send text.",
            param="input",
            code="token_ids_not_allowed",
        )
    return texts
