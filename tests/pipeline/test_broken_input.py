"""Broken corpora, bundles and disks: a message that says what to do, an exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import write_project
from .test_run import pipeline_of, platen


def empty(corpus: Path) -> None:
    for file in corpus.iterdir():
        file.write_text("")


def absent(corpus: Path) -> None:
    shutil.rmtree(corpus)


def binary(corpus: Path) -> None:
    (corpus / "b.txt").write_bytes(bytes(range(256)) * 20)


def wrong_encoding(corpus: Path) -> None:
    (corpus / "b.txt").write_bytes("Ein schöner Tag für Grüße\n".encode("latin-1") * 10)


def one_document(corpus: Path) -> None:
    for name in "abc":
        (corpus / f"{name}.txt").unlink()


def unreadable(corpus: Path) -> None:
    (corpus / "b.txt").unlink()
    (corpus / "b.txt").symlink_to(corpus / "b.txt")


def too_little(corpus: Path) -> None:
    for file in corpus.iterdir():
        file.write_text("Four words of text.\n" if file.stem == "a" else f"So few of {file.stem}.\n")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (empty, "empty"),
        (absent, "corpus"),
        (binary, "b.txt"),
        (wrong_encoding, "b.txt"),
        (one_document, "train"),
        (unreadable, "b.txt"),
        (too_little, "tokens"),
    ],
)
def test_a_broken_corpus(damage: Callable[[Path], None], says: str, tiny_project: Path) -> None:
    damage(tiny_project / "corpus")
    result = platen(tiny_project, "run", "train")
    message = result.stderr
    assert result.returncode in (2, 3, 6), message
    assert says in message
    assert "→" in message
    assert "Traceback" not in message + result.stdout
    assert "train" not in [m.name for m in pipeline_of(tiny_project).store.manifests()]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_project(tmp_path_factory.mktemp("for-bundle") / "tiny")
    pipeline = pipeline_of(directory)
    assert pipeline.run(("train",)).errors == {}
    entry = next(e for e in pipeline.plan(("train",)) if e.stage.name == "train")
    return pipeline.artifact(entry).path


def truncated(path: Path) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def no_weights(path: Path) -> None:
    (path / "model.safetensors").unlink()


def pickled(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def another_architecture(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"architectures": ["BloomForCausalLM"]}))


def no_json(path: Path) -> None:
    (path / "config.json").write_text("{")


def another_tokenizer(path: Path) -> None:
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["model"]["merges"] = tokenizer["model"]["merges"][:-1]
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))


def shapes_disagree(path: Path) -> None:
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"intermediate_size": 48}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (truncated, "model.safetensors"),
        (no_weights, "safetensors"),
        (pickled, "pickle"),
        (another_architecture, "BloomForCausalLM"),
        (no_json, "config.json"),
        (another_tokenizer, "tokenizer"),
        (shapes_disagree, "mlp"),
    ],
)
def test_a_broken_bundle(damage: Callable[[Path], None], says: str, bundle: Path, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    shutil.copytree(bundle, broken)
    damage(broken)
    result = platen(tmp_path, "generate", "the", "-m", str(broken))
    assert result.returncode == 5, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a file system needs root")
def test_a_full_disk_leaves_nothing_half_written_and_the_next_run_goes_on(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    assert mounted.returncode == 0, mounted.stderr
    try:
        project = write_project(mount / "tiny")
        result = platen(project, "run", "train")
        assert result.returncode != 0
        assert "Traceback" not in result.stderr
        assert "space" in result.stderr.lower()
        store = pipeline_of(project).store
        for manifest in store.manifests():
            artifact = store.find(manifest.name, manifest.fingerprint)
            assert artifact is not None
            assert store.verify(artifact) == []
        subprocess.run(["mount", "-o", "remount,size=64m", str(mount)], check=True)
        again = platen(project, "run", "train")
        assert again.returncode == 0, again.stderr
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)


def test_a_state_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    project = write_project(tmp_path / "tiny")
    (project / ".platen").write_text("a file where the state directory should be")
    result = platen(project, "run")
    assert result.returncode != 0
    assert ".platen" in result.stderr
    assert "Traceback" not in result.stderr
