"""Which engine serves: by what there is, by what was measured on this machine, or by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from platen.core.errors import ConfigError, MissingExtraError
from platen.engines import choose as choosing
from platen.engines.benchmark_cache import (
    SpeedMeasurement,
    compiled_folder,
    read_measurements,
    write_measurements,
)
from platen.engines.choose import choose
from platen.models.compiled import Compiled
from platen.models.folder import bundle_fingerprint, read_json
from platen.models.llama_config import LlamaConfig


@pytest.fixture(autouse=True)
def everything_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(choosing, "installed", lambda engine: True)
    monkeypatch.setattr(choosing.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path / "cache"))


def compiled(folder: Path, bundle: Path, to: str, weights: str) -> Path:
    folder.mkdir(parents=True)
    shutil.copy(bundle / "config.json", folder)
    Compiled(to, weights, bundle_fingerprint(bundle), 1).write(folder)
    return folder


@pytest.fixture
def forms(tiny_bundle: Path, tmp_path: Path) -> list[Path]:
    """A bundle, its OpenVINO form, its GGUF."""
    return [
        tiny_bundle,
        compiled(tmp_path / "ov", tiny_bundle, "openvino", "int8"),
        compiled(tmp_path / "gguf", tiny_bundle, "gguf", "q8_0"),
    ]


def figures(engine: str, weights: str, speed: float) -> SpeedMeasurement:
    return SpeedMeasurement(engine, weights, 1.0, 1.0, 1.0, speed, 1)


def config_of(bundle: Path) -> LlamaConfig:
    return LlamaConfig.from_hf(read_json(bundle / "config.json"))


def test_the_only_form_is_taken(tiny_bundle: Path) -> None:
    choice = choose([tiny_bundle])
    assert choice.path == tiny_bundle
    assert choice.why.startswith("torch")


def test_unmeasured_a_compiled_form_goes_before_the_bundle(forms: list[Path]) -> None:
    choice = choose(forms)
    assert choice.path == forms[1]
    assert choice.why.startswith("openvino: compiled to openvino, int8")
    assert "platen bench engines" in choice.why
    assert choose([forms[0], forms[2]]).path == forms[2]


def test_on_other_processors_llama_cpp_goes_before_openvino(
    forms: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing.platform, "machine", lambda: "riscv64")
    assert choose(forms).path == forms[2]


def test_the_fastest_measured_is_taken_and_the_others_named(forms: list[Path]) -> None:
    config = config_of(forms[0])
    write_measurements(config, [figures("torch", "as stored", 90), figures("openvino", "int8", 50)])
    choice = choose(forms)
    assert choice.path == forms[0]
    assert "fastest measured here, 90 tokens/s" in choice.why
    assert "openvino 50" in choice.why


def test_figures_of_other_weights_or_shapes_say_nothing(forms: list[Path]) -> None:
    config = config_of(forms[0])
    write_measurements(config, [figures("torch", "as stored", 90), figures("openvino", "int4", 50)])
    assert choose(forms).path == forms[1]
    assert read_measurements(config)
    assert read_measurements(replace(config, hidden_size=64)) == []


def test_forms_that_measuring_left_in_the_cache_are_used(tiny_bundle: Path) -> None:
    folder = compiled_folder(bundle_fingerprint(tiny_bundle), "openvino", "int8")
    compiled(folder, tiny_bundle, "openvino", "int8")
    compiled(compiled_folder("f" * 16, "gguf", "q8_0"), tiny_bundle, "gguf", "q8_0")  # another model's
    assert choose([tiny_bundle]).path == folder
    assert choose([tiny_bundle], "torch").path == tiny_bundle


@pytest.mark.parametrize(("engine", "index"), [("torch", 0), ("openvino", 1), ("llamacpp", 2)])
def test_an_engine_asked_for_is_taken(forms: list[Path], engine: choosing.EngineName, index: int) -> None:
    choice = choose(forms, engine)
    assert choice.path == forms[index]
    assert "--engine" in choice.why


def test_an_engine_without_its_form_says_how_to_make_it(tiny_bundle: Path, forms: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"platen compile .* --to gguf"):
        choose([tiny_bundle], "llamacpp")
    with pytest.raises(ConfigError, match="torch runs a bundle"):
        choose([forms[1]], "torch")


def test_what_is_not_installed_is_not_taken_and_told(
    forms: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "installed", lambda engine: engine == "torch")
    choice = choose(forms)
    assert choice.path == forms[0]
    assert "[openvino]" in choice.why
    with pytest.raises(MissingExtraError, match="openvino"):
        choose(forms, "openvino")
    with pytest.raises(MissingExtraError, match="edge"):
        choose([forms[2]])
