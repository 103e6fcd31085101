"""`platen keys`: from making a key to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_cli import platen
from tests.pipeline.conftest import write_project


def test_a_key_is_shown_once_listed_and_revoked(tmp_path: Path) -> None:
    write_project(tmp_path)
    made = platen(
        *("keys", "create", "batch [jobs]", "--tenant", "research", "--priority", "low", "--scope", "infer"),
        *("--model", "llama-*", "--tokens", "5000", "--money-budget", "2.5", "--expires", "30"),
        cwd=tmp_path,
    )
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("platen_")
    assert "not shown again" in made.stderr
    listed = platen("keys", "list", cwd=tmp_path).stdout
    for shown in ("batch [jobs]", "research", "infer (llama-*)", "low", "5k tokens", "0.00 of 2.50"):
        assert shown in listed, shown
    assert key.rpartition("_")[2] not in listed
    assert "is revoked" in platen("keys", "revoke", "batch [jobs]", cwd=tmp_path).stdout
    assert "revoked" in platen("keys", "list", "--all", cwd=tmp_path).stdout
    again = platen("keys", "revoke", "batch [jobs]", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (1, "")
    assert "platen keys list" in again.stderr


def test_folders_of_one_project_share_keys_in_a_database(
    tmp_path: Path, postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATEN_STATE_URL", postgres)
    here, there = (write_project(tmp_path / name) for name in ("here", "there"))
    assert platen("keys", "create", "shared-key", cwd=here).returncode == 0
    assert "shared-key" in platen("keys", "list", cwd=there).stdout
    assert "is revoked" in platen("keys", "revoke", "shared-key", cwd=there).stdout
    assert not list(tmp_path.glob("*/.platen/*"))


def test_a_name_must_be_one_and_the_project_must_be_there(tmp_path: Path) -> None:
    assert platen("keys", "create", "x", cwd=tmp_path).returncode == 2
    write_project(tmp_path)
    result = platen("keys", "create", "two\nlines", cwd=tmp_path)
    assert result.returncode == 2
    assert "no name" in result.stderr
