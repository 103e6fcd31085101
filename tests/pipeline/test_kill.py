"""kill -9 at any moment: the next run goes on, and ends with the same bytes as an undisturbed one."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from platen.core.artifacts import Manifest

from .conftest import write_project
from .test_run import STAGES, pipeline_of

STEPS = "train.steps=60"


def start(directory: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "platen", "run", "--set", STEPS],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def made(directory: Path) -> dict[str, Manifest]:
    manifests = {m.name: m for m in pipeline_of(directory).store.manifests()}
    assert sorted(manifests) == sorted(STAGES)
    return manifests


def model_bytes(directory: Path) -> bytes:
    manifest = made(directory)["train"]
    path = pipeline_of(directory, [STEPS]).store.find("train", manifest.fingerprint)
    assert path is not None
    return (path.path / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, float]:
    """The model of a run left alone, and the seconds it took."""
    directory = write_project(tmp_path_factory.mktemp("calm") / "tiny")
    started = time.monotonic()
    assert start(directory).wait(timeout=200) == 0
    return model_bytes(directory), time.monotonic() - started


def kill_and_go_on(directory: Path, after: float) -> None:
    process = start(directory)
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    unfinished = pipeline_of(directory).store.leftovers()
    for manifest in pipeline_of(directory).store.manifests():  # what counts is whole
        artifact = pipeline_of(directory).store.find(manifest.name, manifest.fingerprint)
        assert artifact is not None
        assert pipeline_of(directory).store.verify(artifact) == []
    assert start(directory).wait(timeout=200) == 0
    assert not any(path.exists() for path in unfinished)


@pytest.mark.parametrize("share", [pytest.param(0.55, marks=pytest.mark.slow), 0.8])
def test_a_killed_run_ends_with_the_same_model(
    share: float, tiny_project: Path, undisturbed: tuple[bytes, float]
) -> None:
    model, seconds = undisturbed
    kill_and_go_on(tiny_project, share * seconds)
    assert model_bytes(tiny_project) == model


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_twenty_random_moments(moment: int, tiny_project: Path, undisturbed: tuple[bytes, float]) -> None:
    model, seconds = undisturbed
    kill_and_go_on(tiny_project, random.Random(moment).uniform(0.05, 1.0) * seconds)
    assert model_bytes(tiny_project) == model


@pytest.mark.slow
def test_killed_again_and_again_it_still_gets_there(
    tiny_project: Path, undisturbed: tuple[bytes, float]
) -> None:
    model, seconds = undisturbed
    for share in (0.7, 0.6, 0.5):
        process = start(tiny_project)
        time.sleep(share * seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tiny_project).wait(timeout=200) == 0
    assert model_bytes(tiny_project) == model
