"""`platen generate` and `platen chat` sample as generation_config.json asks, unless told otherwise."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from platen.cli import chat as chat_command
from platen.cli.main import app
from platen.models.generation_config import SamplingDefaults
from platen.serve.config import ServeConfig
from platen.serve.hub.served_model import ModelInfo, ServedModel
from platen.tokens.tokenizer import Tokenizer
from tests.serve.running import RunningServer, ScriptedEngine

INFO = ModelInfo("tiny", 128, 12_345, "chat", "f" * 16, 1_700_000_000)


@pytest.fixture
def greedy(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny model, whose makers want the likeliest token always."""
    folder = tmp_path / "model"
    shutil.copytree(tiny_bundle, folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0, "do_sample": False}))
    return folder


def generated(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["generate", "To be", "--max-tokens", "20", *arguments])
    assert result.exit_code == 0, result.output
    return result.output


def test_generate(tiny_bundle: Path, greedy: Path) -> None:
    likeliest = generated("-m", str(tiny_bundle), "--temperature", "0")
    assert generated("-m", str(greedy), "--seed", "1") == likeliest
    sampled = generated("-m", str(tiny_bundle), "--temperature", "0.8", "--seed", "1")
    assert sampled != likeliest
    assert generated("-m", str(tiny_bundle), "--seed", "1") == sampled
    assert generated("-m", str(greedy), "--temperature", "0.8", "--seed", "1") == sampled


def test_chat(
    tiny_bundle: Path, greedy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def answered(model: Path, **options: float) -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO("To be\n"))
        chat_command.command(model=str(model), max_tokens=20, seed=1, **options)  # type: ignore[arg-type]
        return capsys.readouterr().out

    assert answered(greedy) == answered(tiny_bundle, temperature=0)
    assert answered(tiny_bundle) == answered(tiny_bundle, temperature=0.8) != answered(greedy)


@pytest.mark.parametrize("wishes", [SamplingDefaults(0.3, 20, 0.9, 0.05, 1.1), SamplingDefaults()])
def test_chat_with_a_server(
    tiny_tokenizer: Tokenizer, wishes: SamplingDefaults, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ScriptedEngine(["a"])
    model = ServedModel(engine, tiny_tokenizer, replace(INFO, defaults=wishes))
    server = RunningServer([model], ServeConfig(drain_seconds=1))
    try:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n"))
        chat_command.command(url=server.url)
    finally:
        server.stop()
    sampling = engine.requests[0].sampling
    found = (
        sampling.temperature,
        sampling.top_k,
        sampling.top_p,
        sampling.min_p,
        sampling.repetition_penalty,
    )
    assert found == ((0.3, 20, 0.9, 0.05, 1.1) if wishes.top_k else (0.8, 0, 1, 0, 1))
