"""Which engine serves: by what there is, by what was measured on this machine, or by name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from platen.core.errors import ConfigError, MissingExtraError
from platen.engines import choose as choosing
from platen.engines import registry
from platen.engines.benchmark_cache import (
    SpeedMeasurement,
    compiled_folder,
    read_measurements,
    write_measurements,
)
from platen.engines.choose import Choice, choose
from platen.engines.openvino.spec import rank
from platen.engines.registry import engines, register, unregister
from platen.models.compiled import Compiled
from platen.models.folder import bundle_fingerprint
from platen.models.resolve import RegisteredModel, Resolver
from platen.models.stated_config import StatedConfig


def install(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let these engines' libraries, and no others', seem to be there."""
    modules = {spec.module for name, spec in engines().items() if name in names}
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda module: module in modules or None)


@pytest.fixture(autouse=True)
def everything_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch, "torch", "openvino", "llamacpp", "vllm")
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


@dataclass(frozen=True)
class Registered:
    folders: tuple[Path, ...]

    def find(self, reference: str | None) -> RegisteredModel:
        return RegisteredModel("poet", "poet@1", self.folders)


def chosen(folders: Sequence[Path], wanted: str = "auto", device: str = "auto") -> Choice:
    """Of the forms of one registered model."""
    return choose(Resolver(Registered(tuple(folders))).resolve("poet"), wanted, device)


def test_the_only_form_is_taken(tiny_bundle: Path) -> None:
    choice = chosen([tiny_bundle])
    assert choice.model.path == tiny_bundle
    assert choice.why.startswith("torch")


def test_unmeasured_a_compiled_form_goes_before_the_bundle(forms: list[Path]) -> None:
    choice = chosen(forms)
    assert choice.model.path == forms[1]
    assert choice.why.startswith("openvino: compiled to openvino, int8")
    assert "platen bench engines" in choice.why
    assert chosen([forms[0], forms[2]]).model.path == forms[2]


def test_on_other_processors_llama_cpp_goes_before_openvino(forms: list[Path]) -> None:
    register(replace(engines()["openvino"], rank=rank("riscv64")))
    try:
        assert chosen(forms).model.path == forms[2]
    finally:
        unregister("openvino")


def test_the_fastest_measured_is_taken_and_the_others_named(forms: list[Path]) -> None:
    config = StatedConfig.read(forms[0])
    write_measurements(config, [figures("torch", "as stored", 90), figures("openvino", "int8", 50)])
    choice = chosen(forms)
    assert choice.model.path == forms[0]
    assert "fastest measured here, 90 tokens/s" in choice.why
    assert "openvino 50" in choice.why


def test_figures_of_other_weights_or_shapes_say_nothing(forms: list[Path]) -> None:
    config = StatedConfig.read(forms[0])
    write_measurements(config, [figures("torch", "as stored", 90), figures("openvino", "int4", 50)])
    assert chosen(forms).model.path == forms[1]
    assert read_measurements(config)
    assert read_measurements(StatedConfig({**config.raw, "hidden_size": 64})) == []


def test_forms_that_measuring_left_in_the_cache_are_used(tiny_bundle: Path) -> None:
    folder = compiled_folder(bundle_fingerprint(tiny_bundle), "openvino", "int8")
    compiled(folder, tiny_bundle, "openvino", "int8")
    compiled(compiled_folder("f" * 16, "gguf", "q8_0"), tiny_bundle, "gguf", "q8_0")  # another model's
    assert chosen([tiny_bundle]).model.path == folder
    assert chosen([tiny_bundle], "torch").model.path == tiny_bundle


@pytest.mark.parametrize(("engine", "index"), [("torch", 0), ("openvino", 1), ("llamacpp", 2)])
def test_an_engine_asked_for_is_taken(forms: list[Path], engine: str, index: int) -> None:
    choice = chosen(forms, engine)
    assert choice.model.path == forms[index]
    assert "--engine" in choice.why


def test_an_engine_without_its_form_says_how_to_make_it(tiny_bundle: Path, forms: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"platen compile .* --to gguf"):
        chosen([tiny_bundle], "llamacpp")
    with pytest.raises(ConfigError, match="torch runs a bundle"):
        chosen([forms[1]], "torch")


def test_what_is_not_installed_is_not_taken_and_told(
    forms: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, "torch")
    choice = chosen(forms)
    assert choice.model.path == forms[0]
    assert "[openvino]" in choice.why
    with pytest.raises(MissingExtraError, match="openvino"):
        chosen(forms, "openvino")
    with pytest.raises(MissingExtraError, match="edge"):
        chosen([forms[2]])
