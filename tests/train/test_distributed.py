"""Two processes started by torchrun give the model of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from platen.core.errors import ConfigError
from platen.pipeline.train_rank import main
from platen.train.distributed import joined

PROJECT = """
name: tiny
data: {sources: [{path: text.txt}]}
model: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, num_attention_heads: 4}
train: {steps: 12, batch_size: 8, sequence_length: 16, evaluate_every: 6, evaluate_tokens: 256,
  precision: float32, threads: 1}
"""


def curve(out: Path) -> list[dict[str, float]]:
    lines = (out / "training" / "history.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in rows]


@pytest.fixture
def arguments(tmp_path: Path, corpus: tuple[Path, Path]) -> list[str]:
    (tmp_path / "platen.yaml").write_text(PROJECT)
    (tmp_path / "text.txt").write_text("text")
    tokens, tokenizer = corpus
    return [str(tmp_path), "--tokens", str(tokens), "--tokenizer", str(tokenizer)]


def test_two_processes_take_the_steps_of_one(arguments: list[str], tmp_path: Path) -> None:
    arguments.append("--out")
    assert main([*arguments, str(tmp_path / "one")]) == 0
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1"]
    worker = [
        "--nproc-per-node",
        "2",
        "-m",
        "platen.pipeline.train_rank",
        *arguments,
        str(tmp_path / "two"),
    ]
    worker += ["--set", "train.accumulation=2"]
    process = subprocess.Popen(
        [sys.executable, *torchrun, *worker],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=90)
    finally:
        if process.poll() is None:  # torchrun's workers are in its session
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, errors.decode()[-3000:]
    one, two = curve(tmp_path / "one"), curve(tmp_path / "two")
    assert [row.get("step") for row in one] == [row.get("step") for row in two]
    assert two[0] == pytest.approx(one[0], abs=2e-6)  # same weights, so loss and gradient of one batch
    for a, b in zip(one[1:], two[1:], strict=True):  # rounding grows through Adam's division
        assert b == pytest.approx(a, abs=5e-4)
    weights = [load_file(tmp_path / out / "model.safetensors") for out in ("one", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=2e-3, rtol=0)


def test_a_batch_that_the_processes_cannot_share_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match=r"batch_size \(8\) can't be shared by 3 processes"), joined(8, 1):
        pass


def test_a_user_error_is_one_line_and_its_exit_code(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "out"), "--set", "train.batch_size=400"]) == 6
    assert "5,000 tokens" in capsys.readouterr().err
