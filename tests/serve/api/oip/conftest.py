"""A model that writes and one that embeds, over REST and gRPC, with Triton's clients unmodified."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
import tritonclient.grpc
import tritonclient.http

from platen.engines.embedding.embedder import Embedder
from platen.serve.config import ServeConfig
from platen.serve.hub.batcher import BatchLimits
from platen.serve.hub.embedding_model import EmbeddingEngine, EmbeddingModel
from platen.serve.hub.served_model import ModelInfo
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine, serving


@pytest.fixture
def both(scripted: ScriptedEngine, minilm: Embedder, tiny_tokenizer: Tokenizer) -> Iterator[RunningServer]:
    """`tiny` is scripted; `org/minilm` embeds."""
    info = ModelInfo("org/minilm", minilm.max_tokens, 1, "embedding", "e" * 16, 1_700_000_000, "7")
    model = EmbeddingModel(EmbeddingEngine(minilm, BatchLimits()), info)
    config = ServeConfig(drain_seconds=1, grpc_port=0)
    with serving(scripted, tiny_tokenizer, config, [model]) as running:
        yield running
    asyncio.run(model.engine.close())


@pytest.fixture
def http_client(both: RunningServer) -> Iterator[tritonclient.http.InferenceServerClient]:
    client = tritonclient.http.InferenceServerClient(both.url.removeprefix("http://"))
    yield client
    client.close()


@pytest.fixture
def grpc_client(both: RunningServer) -> Iterator[tritonclient.grpc.InferenceServerClient]:
    assert both.rpc is not None
    client = tritonclient.grpc.InferenceServerClient(both.rpc.address)
    yield client
    client.close()
