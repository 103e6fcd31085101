"""Runs a stage function on a folder of inputs, as the pipeline would."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from platen.core.artifacts import Artifact, Manifest
from platen.core.stage import StageContext, StageResult

RunStage = Callable[..., StageResult]


@pytest.fixture
def run_stage(tmp_path: Path) -> RunStage:
    """`run_stage(function, config, out, data=folder, …)`."""

    def run(
        function: Callable[[StageContext], StageResult], config: Any, out: Path, **inputs: Path
    ) -> StageResult:
        out.mkdir(parents=True)
        return function(
            StageContext(
                name=out.name,
                fingerprint="0" * 16,
                config=config,
                inputs={role: _artifact(role, path) for role, path in inputs.items()},
                out=out,
                project_dir=tmp_path,
                seed=1,
            )
        )

    return run


def write_data(folder: Path, splits: Mapping[str, Sequence[str]]) -> Path:
    """A data artifact with these texts."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("train", "validation", "test"):
        lines = [
            json.dumps({"id": f"{name}-{i}", "text": text, "source": "memory"}, ensure_ascii=False) + "\n"
            for i, text in enumerate(splits.get(name, ()))
        ]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def _artifact(role: str, path: Path) -> Artifact:
    manifest = Manifest(
        name=role,
        kind=role,
        fingerprint="0" * 16,
        code_version=1,
        config={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        duration_s=0.0,
    )
    return Artifact(path=path, manifest=manifest)
