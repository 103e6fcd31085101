"""Engines measured on a tiny bundle: every installed one has figures, kept for the next time."""

from __future__ import annotations

from pathlib import Path

import pytest

from platen.engines.choose import ENGINES, choose, installed
from platen.engines.measured import Figures, read_figures
from platen.errors import BundleError
from platen.loadtest.engines import Missing, measure_engines
from platen.models.bundle import read_json
from platen.models.config import LlamaConfig


def test_engines_are_measured_once_and_serving_then_takes_the_fastest(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path))
    said: list[str] = []
    rows = measure_engines(tiny_bundle, tell=said.append)
    found = [row for row in rows if isinstance(row, Figures)]
    assert {row.engine for row in found} == {engine for engine in ENGINES if installed(engine)}
    assert {row.engine for row in rows if isinstance(row, Missing)} == {
        engine for engine in ENGINES if not installed(engine)
    }
    for row in found:
        assert min(row.prefill_alone, row.decode_alone, row.prefill_crowded, row.decode_crowded) > 0
        assert row.memory_bytes > 10 * 2**20
    config = LlamaConfig.from_hf(read_json(tiny_bundle / "config.json"))
    assert sorted(read_figures(config), key=str) == sorted(found, key=str)
    said.clear()
    assert measure_engines(tiny_bundle, tell=said.append) == rows
    assert said == [], "nothing is measured or compiled again"
    choice = choose([tiny_bundle])
    assert choice.why.startswith(found[0].engine)
    compiled = next(tmp_path.glob("compiled/*"), None)
    if compiled:
        with pytest.raises(BundleError, match="compiled already"):
            measure_engines(compiled)
