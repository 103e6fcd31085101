"""The command line: quick help, clear errors, the right exit codes, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from platen.cli.console import human_time
from tests.pipeline.conftest import write_project

COMMANDS = [
    "new",
    "run",
    "status",
    "show",
    "compile",
    "serve",
    "chat",
    "generate",
    "models",
    "keys",
    "data",
    "bench",
    "traffic",
    "plan",
    "doctor",
    "ui",
    "gc",
    "schema",
]


def platen(*arguments: str, cwd: Path | None = None, columns: int = 140) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "platen", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1"},
    )


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    result = platen("--help")
    assert result.returncode == 0
    assert all(command in result.stdout for command in COMMANDS)
    heavy = "torch mlflow dagster fastapi transformers matplotlib numpy tokenizers"
    script = (
        "import sys; import platen.cli.main\n"
        f"print([name for name in {heavy.split()!r} if name in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_with_an_example(command: str) -> None:
    result = platen(command, "--help")
    assert result.returncode == 0
    assert "Example" in result.stdout
    assert f"platen {command}" in result.stdout


def test_shell_completion_completes_commands() -> None:
    completed = subprocess.run(
        [sys.executable, "-m", "platen"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"_PLATEN_COMPLETE": "complete_bash", "COMP_WORDS": "platen sta", "COMP_CWORD": "1"},
    )
    assert completed.stdout.split() == ["status"]


def test_outside_a_project_it_says_how_to_start_one(tmp_path: Path) -> None:
    for command in ("run", "status", "gc", "serve"):
        result = platen(command, cwd=tmp_path)
        assert result.returncode == 2, command
        assert "platen new" in result.stderr
        assert "Traceback" not in result.stderr


def test_an_unknown_option_is_refused() -> None:
    result = platen("run", "--sett", "a=b")
    assert result.returncode == 2
    assert "--sett" in result.stderr


def test_version() -> None:
    from platen import __version__

    assert platen("--version").stdout.split() == ["platen", __version__]


def test_a_new_project_is_valid_at_once(tmp_path: Path) -> None:
    assert platen("new", "hello", cwd=tmp_path).returncode == 0
    result = platen("status", "hello", cwd=tmp_path)
    assert result.returncode == 0
    assert "never made" in result.stdout
    refused = platen("new", "hello", cwd=tmp_path)
    assert refused.returncode == 2
    assert "hello" in refused.stderr


def test_plan_reproduces_the_rules_of_thumb() -> None:
    """7 billion parameters: 14 GB to serve in 16 bits, 112 GB to train; 512 tokens of cache, 512 MB."""
    result = platen("plan", "--parameters", "7B", "--context", "512", "--batch", "16")
    assert result.returncode == 0
    for figure in ("14 GB", "112 GB", "512 MB", "8 GB"):
        assert figure in result.stdout, result.stdout


def test_a_version_goes_through_its_whole_life(tmp_path: Path) -> None:
    write_project(tmp_path / "hello")
    run = platen("run", "hello", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert "platen show evaluate -p hello" in run.stdout
    shown = platen("show", "train", "-p", "hello", cwd=tmp_path, columns=60)
    path = next((tmp_path / "hello" / ".platen" / "store" / "train").iterdir())
    assert str(path) in shown.stdout, "a path broken in two can't be copied"
    assert "  model.safetensors\n" in shown.stdout
    assert "tiny@1" in platen("models", "-p", "hello", cwd=tmp_path).stdout
    promoted = platen("models", "promote", "tiny@1", "candidate", "-p", "hello", cwd=tmp_path)
    assert promoted.returncode == 0, promoted.stderr
    assert "tiny@1 is candidate" in promoted.stdout
    live = platen("models", "delete", "tiny@1", "--yes", "-p", "hello", cwd=tmp_path)
    assert live.returncode != 0
    assert "tiny@1" in live.stderr
    assert "tiny@1" in platen("models", "-p", "hello", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (4.21, "4.2 s"),
        (75, "0:01:15"),
        (90_000, "1 day, 1:00:00"),
        (5 * 86_400, "5 days"),
        (1e11, "3,169 years"),
    ],
)
def test_times_read_like_times(seconds: float, text: str) -> None:
    assert human_time(seconds) == text


def test_interrupting_a_run_is_clean(tmp_path: Path) -> None:
    import signal

    assert platen("new", "hello", cwd=tmp_path).returncode == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "platen", "run", "hello", "--set", "train.minutes=5"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        work = tmp_path / "hello" / ".platen" / "work"
        deadline = time.monotonic() + 60
        while not list(work.glob("train-*/*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "goes on from there" in errors
    assert "Traceback" not in errors
