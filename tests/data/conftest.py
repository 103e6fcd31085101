"""A corpus folder and a way to run the data stage on it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from platen.core.stage import StageContext
from platen.data.config import CleanConfig, DataConfig, SplitConfig
from platen.data.prepare import prepare
from platen.data.readers.config import Source


@dataclass(frozen=True)
class Prepared:
    """What the stage left: documents by split as {id: text}, and the report."""

    splits: dict[str, dict[str, str]]
    report: dict[str, Any]
    files: set[str]


Prepare = Callable[..., Prepared]


@pytest.fixture
def run_prepare(tmp_path: Path) -> Prepare:
    """`run_prepare("corpus", clean=…, split=…)` on sources relative to `tmp_path`."""

    def run(
        *sources: str | Source, clean: CleanConfig = CleanConfig(), split: SplitConfig = SplitConfig()
    ) -> Prepared:
        out = tmp_path / "out"
        out.mkdir()
        config = DataConfig(
            sources=tuple(Source(path=s) if isinstance(s, str) else s for s in sources),
            clean=clean,
            split=split,
        )
        prepare(StageContext("data", "0" * 16, config, {}, out, project_dir=tmp_path, seed=1))
        splits = {}
        for name in ("train", "validation", "test"):
            records = [json.loads(line) for line in (out / f"{name}.jsonl").open(encoding="utf-8")]
            splits[name] = {record["id"]: record["text"] for record in records}
        report = json.loads((out / "report.json").read_text("utf-8"))
        return Prepared(splits, report, {path.name for path in out.iterdir()})

    return run


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Ten files of a hundred characters, numbered."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(10):
        (folder / f"play-{number}.txt").write_text(f"Play {number}. ".ljust(100, "x"), encoding="utf-8")
    return folder
