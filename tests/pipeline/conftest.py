"""A whole project small enough to go from text to a registered model in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

VERSE = "the king shall ride to war and love his crown no more good night sweet sword of england"

PLATEN_YAML = """\
name: tiny
seed: 7
data:
  sources:
    - path: corpus/*.txt
  split:
    validation: [d]
tokenizer:
  vocab_size: 300
model:
  hidden_size: 16
  intermediate_size: 32
  num_hidden_layers: 1
  num_attention_heads: 2
  max_position_embeddings: 32
train:
  steps: 12
  batch_size: 4
  sequence_length: 16
  evaluate_every: 4
  checkpoint_every: 4
  precision: float32
  threads: 1
evaluate:
  prompts: ["the king"]
  sample_tokens: 8
gate:
  - metric: bits_per_byte
    max: 20.0
"""


def write_project(directory: Path, text: str = PLATEN_YAML) -> Path:
    """Four documents of made-up verse and the project file above."""
    draw = random.Random(0)
    corpus = directory / "corpus"
    corpus.mkdir(parents=True)
    for name in "abcd":
        lines = (" ".join(draw.choices(VERSE.split(), k=8)).capitalize() + "." for _ in range(60))
        (corpus / f"{name}.txt").write_text("\n".join(lines) + "\n")
    (directory / "platen.yaml").write_text(text)
    return directory


@pytest.fixture
def tiny_project(tmp_path: Path) -> Path:
    return write_project(tmp_path / "tiny")
