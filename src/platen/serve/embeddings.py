"""`POST /v1/embeddings`: texts to vectors."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from platen.engines.embedding import Vectors
from platen.serve.access import caller_of
from platen.serve.context import ServeContext
from platen.serve.embedding_model import embedding_of
from platen.serve.embedding_types import EmbeddingList, EmbeddingRequest, encode_answer
from platen.serve.generation import unless_disconnected
from platen.serve.predicting import predict
from platen.serve.served import AnyModel


def embeddings_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of a text, of several, or of token ids."""

        async def embed(model: AnyModel) -> tuple[Vectors, int]:
            embedder = embedding_of(model)
            batch = await embedder.engine.token_ids(body.inputs, body.truncate_prompt_tokens)
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
