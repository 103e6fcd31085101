"""A killed run, continued, is the run that was never killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from platen.core.errors import ArtifactError
from platen.core.stage import StageContext
from platen.train import loop
from platen.train.checkpoint import Checkpoint, CheckpointStore, TrainState
from platen.train.loop import mean_loss
from platen.train.pretrain import pretrain

from .conftest import ContextMaker

WORKER = """
import json, sys
from pathlib import Path
from platen.train.config import PretrainConfig
from platen.core.stage import StageContext
from platen.train.pretrain import pretrain
from tests.train.conftest import artifact

job = json.loads(sys.argv[1])
pretrain(StageContext(
    name="train", fingerprint="f" * 16, config=PretrainConfig.model_validate(job["config"]),
    inputs={role: artifact(Path(path), role) for role, path in job["inputs"].items()},
    out=Path(job["out"]), project_dir=Path(job["project_dir"]), seed=job["seed"]))
"""
ROOT = Path(__file__).parents[2]
TRAINING: dict[str, Any] = {
    "steps": 60,
    "dropout": 0.1,
    "optimizer": "muon",
    "patience": 50,
    "checkpoint_every": 7,
}


def start(ctx: StageContext, **env: str) -> subprocess.Popen[bytes]:
    job = {
        "config": ctx.config.model_dump(mode="json"),
        "inputs": {role: str(found.path) for role, found in ctx.inputs.items()},
        "out": str(ctx.out),
        "project_dir": str(ctx.project_dir),
        "seed": ctx.seed,
    }
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | env
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, json.dumps(job)], cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()[-2000:]


def curve(ctx: StageContext) -> list[dict[str, float]]:
    lines = (ctx.out / "training" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


def test_killed_runs_continue_to_the_same_bytes_and_curve(context: ContextMaker) -> None:
    undisturbed, killed = context("undisturbed", **TRAINING), context("killed", **TRAINING)
    pretrain(undisturbed)
    history = killed.out / "training" / "history.jsonl"
    for lines in (5, 30):  # before the first checkpoint, and between later ones
        process = start(killed)
        while process.poll() is None:
            if history.is_file() and history.read_bytes().count(b"\n") >= lines:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, errors.decode()[-2000:]
    finish(start(killed))
    assert curve(killed) == curve(undisturbed)
    for name in ("model.safetensors", "config.json", "training/last.safetensors", "README.md"):
        assert (killed.out / name).read_bytes() == (undisturbed.out / name).read_bytes(), name
    assert sorted(p.relative_to(killed.out) for p in killed.out.rglob("*")) == sorted(
        p.relative_to(undisturbed.out) for p in undisturbed.out.rglob("*")
    )


def test_a_kill_before_the_last_evaluation_does_not_skip_it(
    context: ContextMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = {"steps": 10, "evaluate_every": 4, "checkpoint_every": 5}
    undisturbed, killed = context("undisturbed", **training), context("killed", **training)
    pretrain(undisturbed)
    calls = 0

    def score(*arguments: Any) -> float:
        nonlocal calls
        calls += 1
        if calls == 3:  # after steps 4 and 8: step 10, whose checkpoint is written
            raise KeyboardInterrupt
        return mean_loss(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "mean_loss", score)
        with pytest.raises(KeyboardInterrupt):
            pretrain(killed)
    found = CheckpointStore(killed.out / "checkpoint").latest()
    assert found is not None
    assert found.state.step == 10
    pretrain(killed)
    assert curve(killed) == curve(undisturbed)
    assert (killed.out / "model.safetensors").read_bytes() == (
        undisturbed.out / "model.safetensors"
    ).read_bytes()


def test_a_minutes_budget_goes_on_where_it_was(context: ContextMaker) -> None:
    ctx = context(minutes=0.05, checkpoint_every=5)
    process = start(ctx)
    while process.poll() is None and not list((ctx.out / "checkpoint").glob("step-*[0-9]")):
        time.sleep(0.001)
    time.sleep(0.7)
    process.kill()
    process.communicate(timeout=60)
    found = CheckpointStore(ctx.out / "checkpoint").latest()
    assert found is not None
    began = time.perf_counter()
    result = pretrain(ctx)
    took = time.perf_counter() - began
    assert found.state.seconds > 0.3
    assert 3.0 <= result.metrics["seconds"] < 6
    assert took < result.metrics["seconds"] - found.state.seconds + 2


def save(store: CheckpointStore, step: int, best: int) -> None:
    state = TrainState(step=step, best_step=best)
    store.save(Checkpoint(state, {"w": torch.full((2,), float(step))}, {"w.momentum": torch.zeros(2)}))


def test_only_the_newest_checkpoint_and_the_best_weights_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save_best(4, {"w": torch.ones(2)})
    save(store, 5, 4)
    store.save_best(6, {"w": torch.ones(2)})  # not yet named by a checkpoint
    assert store.load_best(4)["w"].tolist() == [1, 1]
    save(store, 10, 6)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best-00000006.safetensors", "step-00000010"]
    found = store.latest()
    assert found is not None
    assert found.state == TrainState(step=10, best_step=6)
    assert found.weights["w"].tolist() == [10, 10]


def test_what_a_kill_left_half_written_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5, -1)
    half = tmp_path / "step-00000010.tmp"
    half.mkdir()
    (half / "tensors.safetensors").write_bytes(b"half")
    found = store.latest()
    assert found is not None
    assert found.state.step == 5


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    save(store, 5, -1)
    (tmp_path / "step-00000005" / "tensors.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="step-00000005"):
        store.latest()
