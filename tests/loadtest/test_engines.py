"""Engines measured on a tiny bundle: every installed one has figures, kept for the next time."""

from __future__ import annotations

from pathlib import Path

import pytest

from platen.core.errors import BundleError
from platen.engines.benchmark_cache import SpeedMeasurement, read_measurements
from platen.engines.choose import ENGINES, choose, form_of, installed
from platen.loadtest.engine_speed import Missing, measure, measure_engines
from platen.models.folder import read_json
from platen.models.llama_config import LlamaConfig


def test_an_engine_has_speeds_alone_and_crowded_and_memory(tiny_bundle: Path) -> None:
    figures = measure(form_of(tiny_bundle))
    assert (figures.engine, figures.weights) == ("torch", "as stored")
    assert figures.prefill_alone > 0
    assert figures.prefill_crowded > 0
    assert figures.decode_alone > 0
    assert figures.decode_crowded > 0
    assert figures.memory_bytes > 10 * 2**20


@pytest.mark.slow
def test_engines_are_measured_once_and_serving_then_takes_the_fastest(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path))
    said: list[str] = []
    rows = measure_engines(tiny_bundle, tell=said.append)
    found = [row for row in rows if isinstance(row, SpeedMeasurement)]
    assert {row.engine for row in found} == {engine for engine in ENGINES if installed(engine)}
    assert {row.engine for row in rows if isinstance(row, Missing)} == {
        engine for engine in ENGINES if not installed(engine)
    }
    config = LlamaConfig.from_hf(read_json(tiny_bundle / "config.json"))
    assert sorted(read_measurements(config), key=str) == sorted(found, key=str)
    said.clear()
    assert measure_engines(tiny_bundle, tell=said.append) == rows
    assert said == [], "nothing is measured or compiled again"
    assert choose([tiny_bundle]).why.startswith(found[0].engine)
    compiled = next(tmp_path.glob("compiled/*"), None)
    if compiled:
        with pytest.raises(BundleError, match="compiled already"):
            measure_engines(compiled)
