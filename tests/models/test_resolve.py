"""What a user types, and the model that it leads to."""

from __future__ import annotations

import json
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pytest

from platen.core.errors import BundleError, ConfigError, RegistryError
from platen.models.bundle import open_bundle
from platen.models.compiled import Compiled
from platen.models.folder import bundle_fingerprint
from platen.models.resolve import RegisteredModel, Resolver, resolve


@dataclass(frozen=True)
class Registered:
    """Has poet@2, which is in production too, with the given folders."""

    folders: tuple[Path, ...]

    def find(self, reference: str | None) -> RegisteredModel:
        if reference not in (None, "poet", "poet@2", "poet@production"):
            raise RegistryError(f"no {reference}")
        return RegisteredModel("poet", "poet@2", self.folders)


def compiled(folder: Path, bundle: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundle / name, folder)
    Compiled("openvino", "int8", bundle_fingerprint(bundle), 123).write(folder)
    return folder


def test_a_folder_is_a_bundle(tiny_bundle: Path) -> None:
    found = resolve(str(tiny_bundle))
    assert (found.form, found.path, found.name, found.version) == ("bundle", tiny_bundle, "tiny", None)
    opened = open_bundle(tiny_bundle)
    assert found.config.vocab_size == opened.config.vocab_size
    assert found.config.context_window == opened.config.max_position_embeddings
    assert found.parameters == opened.config.num_parameters()
    assert found.fingerprint == opened.fingerprint
    assert found.end_ids == (opened.tokenizer.eos_id,)


def test_a_compiled_folder_has_its_bundles_fingerprint(tiny_bundle: Path, tmp_path: Path) -> None:
    found = resolve(compiled(tmp_path / "fast", tiny_bundle))
    assert (found.form, found.weights, found.parameters) == ("openvino", "int8", 123)
    assert found.fingerprint == resolve(tiny_bundle).fingerprint
    (tmp_path / "fast" / "compiled.json").write_text('{"to": "openvino"}')
    with pytest.raises(BundleError, match=r"compiled\.json is damaged"):
        resolve(tmp_path / "fast")


@pytest.mark.parametrize("reference", [None, "poet", "poet@2", "poet@production"])
def test_a_registered_name_has_all_its_forms(
    tiny_bundle: Path, tmp_path: Path, reference: str | None
) -> None:
    resolver = Resolver(Registered((tiny_bundle, compiled(tmp_path / "fast", tiny_bundle))))
    location = resolver.locate(reference)
    assert (location.kind, location.name, location.version) == ("registered", "poet", "poet@2")
    found = resolver.resolve(location)
    assert [form.form for form in found.forms] == ["bundle", "openvino"]
    assert {form.version for form in found.forms} == {"poet@2"}
    with pytest.raises(RegistryError, match="no painter"):
        resolver.resolve("painter")


def test_a_folder_goes_before_a_registered_name(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "poet")
    monkeypatch.chdir(tmp_path)
    assert Resolver(Registered(())).locate("poet").kind == "folder"


def test_a_url_is_fetched_and_held_until_it_is_released(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path))
    url = f"memory://{uuid.uuid4().hex}/tiny"
    for file in tiny_bundle.iterdir():
        fsspec.filesystem("memory").pipe_file(f"{url}/{file.name}", file.read_bytes())
    location = Resolver().locate(url)
    assert (location.kind, location.name, location.is_here) == ("url", "tiny", False)
    found = resolve(url)
    assert found.path.is_relative_to(tmp_path)
    assert found.fingerprint == bundle_fingerprint(tiny_bundle)
    assert found.held is not None
    found.release()


def test_a_hub_name_is_told_from_a_path() -> None:
    assert Resolver().locate("HuggingFaceTB/SmolLM2-135M").kind == "hub"
    for path in ("/nowhere/model", "./nowhere", "~/nowhere", "../nowhere"):
        with pytest.raises(BundleError, match="no model folder"):
            Resolver().locate(path)
    with pytest.raises(BundleError, match="no model folder nowhere"):
        Resolver().locate("nowhere")
    with pytest.raises(ConfigError, match="no model is named"):
        Resolver().locate(None)


def test_a_file_has_to_be_gguf(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\3\0\0\0")
    assert Resolver().locate(tmp_path / "model.gguf").kind == "gguf file"
    assert resolve(tmp_path / "model.gguf").form == "gguf"
    (tmp_path / "other.gguf").write_bytes(b"zip!")
    with pytest.raises(BundleError, match="is no GGUF file"):
        resolve(tmp_path / "other.gguf")
    with pytest.raises(BundleError, match=r"missing\.gguf can't be read: No such file"):
        resolve("missing.gguf")


def test_a_remote_model_names_its_tokenizer(tiny_bundle: Path) -> None:
    address = f"http://127.0.0.1:9/v1?model=theirs&tokenizer={tiny_bundle}"
    found = resolve(f"remote:{address}")
    assert (found.form, found.address, found.path) == ("remote", address, tiny_bundle)
    assert found.tokenizer.sha256 == open_bundle(tiny_bundle).tokenizer.sha256
    with pytest.raises(ConfigError, match="does not say which tokenizer"):
        resolve("remote:http://127.0.0.1:9/v1?model=theirs")


def test_an_architecture_that_nobody_here_knows_still_says_what_engines_need(
    tiny_bundle: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_bundle, tmp_path / "unseen")
    config = {
        "architectures": ["UnseenForConditionalGeneration"],
        "eos_token_id": [7, 9],
        "text_config": {"vocab_size": 4000, "max_position_embeddings": 512, "tie_word_embeddings": True},
    }
    (folder / "config.json").write_text(json.dumps(config))
    found = resolve(folder)
    assert found.config.architecture == "UnseenForConditionalGeneration"
    assert (found.config.vocab_size, found.config.context_window) == (4000, 512)
    assert found.config.eos_token_ids == (7, 9)
    (folder / "config.json").write_text("{}")
    with pytest.raises(BundleError, match="no positive whole number under vocab_size"):
        _ = resolve(folder).config.vocab_size
