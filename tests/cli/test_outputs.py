"""A place that can't be written to is refused before the work, whichever command was given it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from platen.cli.main import app
from platen.core.errors import ConfigError
from platen.core.files import replaced_folder
from platen.core.outputs import check_file, check_folder, check_new_folder

FILES = [
    "tokens audit nowhere --plot",
    "embed run nowhere --model ./nowhere --out",
    "embed plot nowhere --out",
    "data read nowhere --out",
    "data read nowhere --quarantine",
    "data label nowhere --db",
]
FOLDERS = [
    "tokens train nowhere --out",
    "tokens extend nowhere --out",
    "tokens encode nowhere -t nowhere --out",
    "tokens convert nowhere",
    "embed convert ./nowhere",
    "baselines compare nowhere --out",
    "baselines ngram nowhere --out",
    "baselines vectors nowhere --out",
    "baselines draft nowhere --out",
    "bench serve http://127.0.0.1:9 --out",
    "data slack --out",
]


def refused(command: str, place: str) -> ConfigError:
    error = CliRunner().invoke(app, [*command.split(), place]).exception
    assert isinstance(error, ConfigError), error
    assert error.hint
    return error


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("precious")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "nowhere").write_text("{}")


@pytest.mark.parametrize("command", FILES)
def test_a_file_needs_a_folder_and_can_not_be_one(command: str) -> None:
    assert "no folder missing" in refused(command, "missing/file.png").message
    if "--quarantine" not in command:  # which must not be there at all
        assert "folder.png is a folder" in refused(command, "folder.png").message


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_can_not_be_made_where_a_file_is(command: str, tmp_path: Path) -> None:
    if "convert" not in command:  # `tokens convert` writes files too
        assert refused(command, "plain").message.startswith("plain exists")
    assert refused(command, "plain/new/folder").message.startswith("plain/new")
    assert (tmp_path / "plain").read_text() == "precious"


def test_a_plot_s_name_says_a_format_that_there_is() -> None:
    for name in ("audit.txt", "audit"):
        error = refused("tokens audit nowhere --plot", name)
        assert error.hint == "End it with .png, .svg, .pdf, .jpg, .webp."


def test_a_source_that_is_not_there_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["data", "read", "missing.txt", "--out", "plain"]).exit_code == 1
    assert (tmp_path / "plain").read_text() == "precious"


def test_permissions_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the superuser may write everywhere, what the system says of it is given here."""
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    check_file(tmp_path / "plain", "--out")
    with pytest.raises(ConfigError, match=r"new\.txt can't be written"):
        check_file(tmp_path / "new.txt", "--out")
    for check in (check_folder, check_new_folder):
        check(tmp_path / "folder.png" / "a" / "b")
        with pytest.raises(ConfigError, match=f"nothing can be written to {tmp_path}"):
            check(tmp_path / "a" / "b")


def test_a_folder_is_replaced_only_when_all_is_written(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with replaced_folder(tmp_path / "model", "mark") as new:
            (new / "mark").write_text(text)
    with pytest.raises(RuntimeError), replaced_folder(tmp_path / "model", "mark"):
        raise RuntimeError
    assert (tmp_path / "model" / "mark").read_text() == "two"
    with pytest.raises(ConfigError, match="would be lost"), replaced_folder(tmp_path / "model"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"model", "plain", "folder.png", "nowhere"}
