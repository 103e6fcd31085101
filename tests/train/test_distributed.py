"""Two processes that a stage starts give the model of one, and their artifact enters the store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from platen.core.artifacts import Artifact
from platen.core.errors import ConfigError, TrainingError
from platen.pipeline.runner import Pipeline
from platen.project.file import load_project
from platen.train.distributed import joined
from tests.pipeline.conftest import write_project

PROJECT = """
name: tiny
data: {sources: [{path: corpus/*.txt}], split: {validation: [d]}}
tokenizer: {vocab_size: 300}
model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4}
train: {steps: 12, batch_size: 8, sequence_length: 16, evaluate_every: 6, evaluate_tokens: 256,
  precision: float32, threads: 1}
"""


def curve(out: Path) -> list[dict[str, float]]:
    lines = (out / "training" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def train(directory: Path, *overrides: str) -> Artifact:
    pipeline = Pipeline(load_project(directory, overrides))
    report = pipeline.run(("train",))
    for error in report.errors.values():
        raise error
    entry = next(entry for entry in pipeline.plan() if entry.stage.name == "train")
    return pipeline.artifact(entry)


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    one = train(write_project(tmp_path / "one", PROJECT), "train.accumulation=2")
    two = train(write_project(tmp_path / "two", PROJECT), "train.accumulation=2", "train.processes=2")
    assert two.manifest.fingerprint == one.manifest.fingerprint  # nothing that the model depends on
    assert two.manifest.metrics["steps"] == 12
    first, second = curve(one.path), curve(two.path)
    assert [row.get("step") for row in first] == [row.get("step") for row in second]
    assert second[0] == pytest.approx(first[0], abs=2e-6)  # same weights, so loss and gradient of one batch
    for a, b in zip(first[1:], second[1:], strict=True):  # rounding grows through Adam's division
        assert b == pytest.approx(a, abs=5e-4)
    weights = [load_file(artifact.path / "model.safetensors") for artifact in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-3, rtol=0)


def test_an_error_of_the_processes_is_the_stages(tmp_path: Path) -> None:
    directory = write_project(tmp_path / "tiny", PROJECT)
    with pytest.raises(TrainingError, match="one step of 4000 sequences") as caught:
        train(directory, "train.batch_size=4000", "train.processes=2")
    assert "lower train.batch_size" in (caught.value.hint or "")


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"batch_size \(8\) can't be shared by 3 processes"), joined(8, 1):
        pass
