"""A small corpus as the `tokens` stage leaves it, and a stage context over it."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from platen.core.artifacts import Artifact, Manifest
from platen.core.stage import StageContext
from platen.models.config import ModelConfig
from platen.tokens.tokenizer import Tokenizer
from platen.train.config import PretrainConfig, TrainConfig

MODEL = ModelConfig(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=32,
)


def write_tokens(folder: Path, tokenizer: Tokenizer, splits: dict[str, np.ndarray[Any, Any]]) -> Path:
    """The files of a `tokens` artifact."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, ids in splits.items():
        ids.astype("<u2").tofile(folder / f"{name}.bin")
    meta = {
        "dtype": "uint16",
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "tokenizer_sha256": tokenizer.sha256,
        "splits": {n: {"tokens": len(i), "bytes": len(i), "documents": 1} for n, i in splits.items()},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def artifact(path: Path, kind: str) -> Artifact:
    manifest = Manifest(
        name=kind,
        kind=kind,
        fingerprint="0" * 16,
        code_version=1,
        config={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        duration_s=0.0,
    )
    return Artifact(path, manifest)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Tokenizer) -> tuple[Path, Path]:
    """(tokens folder, tokenizer folder): ids of a repeating pattern with noise, so that a loss can fall."""
    root = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(5)
    ids = np.tile(np.arange(10, 60), 120)
    ids = np.where(random.random(len(ids)) < 0.1, random.integers(1, 300, len(ids)), ids)
    tokens = write_tokens(root / "tokens", tiny_tokenizer, {"train": ids[:5000], "validation": ids[5000:]})
    tiny_tokenizer.save(root / "tokenizer")
    return tokens, root / "tokenizer"


ContextMaker = Callable[..., StageContext]


@pytest.fixture
def context(corpus: tuple[Path, Path], tmp_path: Path) -> ContextMaker:
    """A maker of stage contexts: `context(steps=10, learning_rate=1e-3, ...)`."""

    def make(out: str = "out", *, model: ModelConfig = MODEL, seed: int = 3, **train: Any) -> StageContext:
        defaults: dict[str, Any] = {
            "batch_size": 8,
            "sequence_length": 16,
            "evaluate_every": 10,
            "evaluate_tokens": 256,
            "checkpoint_every": 5,
            "precision": "float32",
            "threads": 1,
        }
        folder = tmp_path / out
        folder.mkdir(exist_ok=True)
        return StageContext(
            name="train",
            fingerprint="f" * 16,
            config=PretrainConfig(model=model, train=TrainConfig(**(defaults | train))),
            inputs={
                "tokens": artifact(corpus[0], "tokens"),
                "tokenizer": artifact(corpus[1], "tokenizer"),
            },
            out=folder,
            project_dir=tmp_path,
            seed=seed,
        )

    return make
