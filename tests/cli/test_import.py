"""`platen models import`: a bundle of a GGUF file, compared with llama.cpp, whole or not at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from platen.cli.main import app
from platen.compress.compile import compile_bundle
from platen.core.errors import BundleError, ConfigError
from platen.models.bundle import open_bundle, save_bundle

pytest.importorskip("gguf")


@pytest.fixture
def file(tiny_bundle: Path, tmp_path: Path) -> Path:
    compile_bundle(tiny_bundle, tmp_path / "compiled", "gguf", "f16")
    return tmp_path / "compiled" / "model.gguf"


def test_import(file: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["models", "import", str(file), "--out", str(out), "--dtype", "float32"])
    assert done.exit_code == 0, done.output
    assert "LlamaForCausalLM, float32" in done.output
    assert ("beside llama.cpp" in done.output) is (importlib.util.find_spec("llama_cpp") is not None)
    found, original = open_bundle(out).model.state_dict(), open_bundle(tiny_bundle).model.state_dict()
    assert found.keys() == original.keys()
    for name, tensor in original.items():
        expected = tensor if tensor.dim() == 1 else tensor.half().float()
        torch.testing.assert_close(found[name], expected)


def test_a_refusal_leaves_nothing(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    error = (
        CliRunner()
        .invoke(app, ["models", "import", str(file), "--out", str(out), "--dtype", "int8"])
        .exception
    )
    assert isinstance(error, BundleError)
    assert "int8" in error.message
    assert not out.exists()
    file.write_bytes(file.read_bytes()[:-1000])
    error = CliRunner().invoke(app, ["models", "import", str(file), "--out", str(out)]).exception
    assert isinstance(error, BundleError)
    assert str(file) in error.message
    assert not out.exists()


def test_a_folder_of_somebodys_is_left_alone(file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    error = CliRunner().invoke(app, ["models", "import", str(file), "--out", str(tmp_path / "out")]).exception
    assert isinstance(error, ConfigError)
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


def test_a_bundle_of_another_model_is_told_apart(file: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")  # the extra edge, built from source
    from platen.engines.llamacpp.agreement import MOST_DIVERGENCE, agreement, require_agreement

    assert agreement(file, tiny_bundle).divergence < MOST_DIVERGENCE / 100
    bundle = open_bundle(tiny_bundle)
    for name, tensor in bundle.model.state_dict().items():
        if "q_proj" in name:  # as if the rows stood in llama.cpp's order
            tensor.copy_(tensor.flip(0))
    save_bundle(tmp_path / "other", bundle.model, bundle.tokenizer)
    with pytest.raises(BundleError, match="doesn't predict what llama"):
        require_agreement(file, tmp_path / "other")
