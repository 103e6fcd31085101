"""What commands are given to read: missing files end them alike, folders are read alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from platen.cli.main import app
from platen.core.errors import DataError
from platen.tokens.files import TokensMeta
from tests.tokens.corpus import learned


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    learned("bpe").save("tokenizer")


@pytest.mark.parametrize(
    "command",
    [
        "tokens train missing --out out",
        "tokens train tokenizer --chat-template missing --out out",
        "tokens count missing -t tokenizer",
        "tokens encode missing -t tokenizer --out out",
        "tokens extend tokenizer --words missing --out out",
        "tokens extend tokenizer --chat-template missing --out out",
        "tokens audit tokenizer --texts missing --no-planes",
        "data read missing",
        "data label missing",
        "data labels missing",
        "embed plot missing --out map.html",
        "embed search missing refund --model ./tokenizer",
        "baselines ngram missing --out out",
        "baselines draft missing --out out",
        "bench serve http://127.0.0.1:9 --prompts missing",
    ],
)
def test_a_missing_file_is_a_fault_of_the_data(command: str, tmp_path: Path) -> None:
    error = CliRunner().invoke(app, command.split()).exception
    assert isinstance(error, DataError), error
    assert "missing" in error.message
    assert error.hint
    assert error.exit_code == 3
    assert not (tmp_path / "out").exists()


def test_a_folder_is_counted_as_it_is_encoded(tmp_path: Path) -> None:
    """Each document that is encoded begins and ends with a token of its own."""
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.md").write_text("The light of day.")
    (folder / "b.jsonl").write_text('{"text": "light"}\n{"text": "day"}\n')
    (folder / "picture.png").write_bytes(b"\xff")
    for command in (
        "tokens encode texts -t tokenizer --out tokens",
        "tokens count texts -t tokenizer --json",
    ):
        done = CliRunner().invoke(app, command.split())
        assert done.exit_code == 0, done.output
    meta = TokensMeta.read(tmp_path / "tokens")
    (counted,) = json.loads(done.stdout)
    assert counted["name"] == "texts"
    assert counted["characters"] == len("The light of day.lightday")
    assert counted["tokens"] == meta.splits["train"].tokens - 2 * 3
