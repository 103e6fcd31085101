"""`POST /v1/embeddings`: texts to vectors."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from platen.serve.context import ServeContext
from platen.serve.embedding_model import embedding_of
from platen.serve.embedding_types import EmbeddingList, EmbeddingRequest, encode_answer
from platen.serve.generation import unless_disconnected


def embeddings_router(context: ServeContext) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of a text, of several, or of token ids."""
        lease = context.hub.acquire(body.model, user=body.user)
        try:
            engine = embedding_of(lease.model).engine
            batch = await engine.token_ids(body.inputs, body.truncate_prompt_tokens)
            vectors = await unless_disconnected(request, engine.embed(batch, body.dimensions))
        finally:
            lease.release()
        if vectors is None:
            return Response(status_code=499)
        tokens = sum(map(len, batch))
        answer = encode_answer(vectors, body.model, tokens, as_base64=body.encoding_format == "base64")
        return Response(answer, media_type="application/json")

    return router
