"""A small corpus, its token files and trained-model artifacts, made without running the stages before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from platen.core.artifacts import Artifact, Manifest
from platen.core.stage import StageContext
from platen.evaluate.config import EvaluateConfig
from platen.models import ladder
from platen.models.config import ModelConfig

PLAYS = {
    "hamlet": "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 6,
    "lear": "Nothing will come of nothing: speak again.\nHow sharper than a serpent's tooth it is — ach! ✠\n"
    * 4,
    "macbeth": "Tomorrow, and tomorrow, and tomorrow,\nCreeps in this petty pace from day to day\n" * 5,
}


def artifact(
    path: Path, name: str, kind: str, *, fingerprint="f" * 16, config=None, metrics=None, notes=None
) -> Artifact:
    """A finished artifact around files that are there."""
    manifest = Manifest(
        name=name,
        kind=kind,
        fingerprint=fingerprint,
        code_version=1,
        config=config or {},
        metrics=metrics or {},
        notes=notes or {},
        created_at=datetime.now(UTC),
        duration_s=1.0,
    )
    return Artifact(path, manifest)


@dataclass
class Said:
    """A progress that remembers what was said."""

    lines: list[str] = field(default_factory=list)

    def task(self, description, *, total=None, unit=""):
        from platen.core.progress import SilentProgress

        return SilentProgress().task(description)

    def say(self, message):
        self.lines.append(message)


@dataclass
class Corpus:
    """Data and tokens artifacts whose validation split is the three plays and whose test split is empty."""

    root: Path
    data: Artifact
    tokens: Artifact

    def context(self, train: Artifact, out: Path, **config) -> StageContext:
        out.mkdir()
        settings = {"sample_tokens": 12, "prompts": ("To be", "")} | config
        return StageContext(
            name="evaluate",
            fingerprint="e" * 16,
            config=EvaluateConfig(**settings),
            inputs={"train": train, "data": self.data, "tokens": self.tokens},
            out=out,
            project_dir=self.root,
            seed=11,
            progress=Said(),
        )


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, tiny_tokenizer):
    root = tmp_path_factory.mktemp("corpus")
    data, tokens = root / "data", root / "tokens"
    data.mkdir()
    tokens.mkdir()
    lines = [json.dumps({"id": name, "text": text, "source": "here"}) for name, text in PLAYS.items()]
    (data / "validation.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (data / "test.jsonl").write_text("")
    ids = []
    for text in PLAYS.values():
        ids += [*tiny_tokenizer.encode(text), tiny_tokenizer.eos_id]
    np.array(ids, dtype="<u2").tofile(tokens / "validation.bin")
    (tokens / "test.bin").write_bytes(b"")
    size = sum(len(text.encode()) for text in PLAYS.values())
    meta = {
        "dtype": "uint16",
        "vocab_size": tiny_tokenizer.vocab_size,
        "eos_id": tiny_tokenizer.eos_id,
        "tokenizer_sha256": tiny_tokenizer.sha256,
        "splits": {
            "validation": {"tokens": len(ids), "bytes": size, "documents": len(PLAYS)},
            "test": {"tokens": 0, "bytes": 0, "documents": 0},
        },
    }
    (tokens / "meta.json").write_text(json.dumps(meta))
    return Corpus(root, artifact(data, "data", "data"), artifact(tokens, "tokens", "tokens"))


@pytest.fixture(scope="session")
def baseline(tmp_path_factory, tiny_tokenizer):
    """A SwiGLU rung with random weights as a finished `train` artifact."""
    torch.manual_seed(5)
    config = ModelConfig(
        architecture="swiglu",
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=2,
        max_position_embeddings=32,
    )
    model = ladder.build(config, tiny_tokenizer.vocab_size)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.3)
    path = tmp_path_factory.mktemp("train")
    ladder.save(path, model, tiny_tokenizer)
    return artifact(path, "train", "baseline", config={"model": config.model_dump()})
