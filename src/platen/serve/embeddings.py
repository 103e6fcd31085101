"""`POST /v1/embeddings`: texts to vectors."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from platen.serve.embedding_model import EmbeddingModel
from platen.serve.embedding_types import EmbeddingList, EmbeddingRequest, encode_answer
from platen.serve.generation import unless_disconnected


def embeddings_router(find: Callable[[str], EmbeddingModel]) -> APIRouter:
    router = APIRouter()

    @router.post("/v1/embeddings", response_model=EmbeddingList)
    async def create_embeddings(body: EmbeddingRequest, request: Request) -> Response:
        """Vectors of a text, of several, or of token ids."""
        model = find(body.model)
        batch = await model.token_ids(body.inputs, body.truncate_prompt_tokens)
        vectors = await unless_disconnected(request, model.embed(batch, body.dimensions))
        if vectors is None:
            return Response(status_code=499)
        tokens = sum(map(len, batch))
        answer = encode_answer(vectors, body.model, tokens, as_base64=body.encoding_format == "base64")
        return Response(answer, media_type="application/json")

    return router
