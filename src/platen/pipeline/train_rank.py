"""Training by several processes: the program that `torchrun` starts as each of them.

    torchrun --nproc-per-node 2 -m platen.pipeline.train_rank PROJECT --tokens DIR --tokenizer DIR --out DIR

PROJECT is a folder with a `platen.yaml`; the token files and the tokenizer are artifacts of its pipeline
(`platen show tokens` says where they are). The processes share every batch and give the model that one
process would; the first writes it to --out, a new folder or that of a killed run to go on with.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from platen.core.artifacts import Artifact, Manifest
from platen.core.errors import PlatenError
from platen.core.stage import Progress, SilentProgress, StageContext, Task
from platen.project.file import load_project
from platen.train.config import PretrainConfig

SECONDS_BETWEEN_LINES = 5.0


class _LineTask:
    def __init__(self, description: str) -> None:
        self._description = description
        self._shown = time.monotonic()

    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        if time.monotonic() - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = time.monotonic()
            print(f"{self._description} {completed:.0%} {note or ''}", flush=True)


class LineProgress:
    """Progress as plain lines, for logs."""

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Task]:
        yield _LineTask(description)

    def say(self, message: str) -> None:
        print(message, flush=True)


def context(project: Path, tokens: Path, tokenizer: Path, out: Path, overrides: list[str]) -> StageContext:
    """The train stage's context from plain folders."""
    loaded = load_project(project, overrides)
    first = os.environ.get("RANK", "0") == "0"
    progress: Progress = LineProgress() if first else SilentProgress()
    out.mkdir(parents=True, exist_ok=True)
    return StageContext(
        name="train",
        fingerprint="",
        config=PretrainConfig(model=loaded.project.model, train=loaded.project.training()),
        inputs={"tokens": _artifact("tokens", tokens), "tokenizer": _artifact("tokenizer", tokenizer)},
        out=out,
        project_dir=loaded.directory,
        seed=loaded.project.seed,
        progress=progress,
    )


def _artifact(name: str, path: Path) -> Artifact:
    manifest = Manifest(
        name=name,
        kind=name,
        fingerprint="",
        code_version=1,
        config={},
        created_at=datetime.now(UTC),
        duration_s=0,
    )
    return Artifact(path, manifest)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="platen.pipeline.train_rank", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("project", type=Path)
    parser.add_argument("--tokens", type=Path, required=True, help="folder with train.bin and meta.json")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="folder that becomes the bundle")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    options = parser.parse_args(arguments)
    from platen.train.pretrain import pretrain

    try:
        pretrain(context(options.project, options.tokens, options.tokenizer, options.out, options.overrides))
    except PlatenError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
