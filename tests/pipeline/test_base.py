"""Projects that start from a model: evaluated, gated, released, compiled and trained further."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from platen.core.artifacts import Artifact
from platen.core.errors import BundleError, ConfigError, GateFailed
from platen.models.bundle import bundle_fingerprint, open_bundle
from platen.pipeline.runner import Pipeline, RunReport
from platen.project.file import load_project
from tests.pipeline.conftest import write_project
from tests.serve.running import platen_serve

BASE_ALONE = """\
name: adopted
seed: 7
base: ./model
data:
  sources:
    - path: corpus/*.txt
  split:
    validation: [d]
evaluate:
  prompts: ["the king"]
  sample_tokens: 8
gate:
  - metric: bits_per_byte
    max: 40.0
"""
COMPILED = ["compile.to=gguf"]
STEP = "batch_size: 4, sequence_length: 16, evaluate_every: 4, precision: float32, threads: 1"


@pytest.fixture
def adopted(tmp_path: Path, tiny_bundle: Path) -> Path:
    """A project whose base is a random Llama in a folder beside its text."""
    directory = write_project(tmp_path / "adopted", BASE_ALONE)
    shutil.copytree(tiny_bundle, directory / "model")
    return directory


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    """Such a project, run once to its release and compiled; tests copy it or leave it as it is."""
    directory = write_project(tmp_path_factory.mktemp("finished") / "adopted", BASE_ALONE)
    shutil.copytree(tiny_bundle, directory / "model")
    made = run(directory, overrides=COMPILED).made
    assert sorted(made) == sorted(["data", "base", "tokens", "evaluate", "register", "compile"])
    return directory


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "again"))


def opened(directory: Path, overrides: Sequence[str] = ()) -> Pipeline:
    return Pipeline(load_project(directory, overrides))


def run(directory: Path, *targets: str, overrides: Sequence[str] = ()) -> RunReport:
    report = opened(directory, overrides).run(targets)
    for error in report.errors.values():
        raise error
    return report


def artifact(directory: Path, name: str, overrides: Sequence[str] = ()) -> Artifact:
    pipeline = opened(directory, overrides)
    return pipeline.artifact(next(entry for entry in pipeline.plan() if entry.stage.name == name))


def test_a_base_alone_is_evaluated_gated_released_and_compiled(finished: Path, tiny_bundle: Path) -> None:
    adopted = finished
    assert run(adopted, overrides=COMPILED).made == []
    base = artifact(adopted, "base")
    assert bundle_fingerprint(base.path) == bundle_fingerprint(tiny_bundle)
    assert artifact(adopted, "evaluate").manifest.metrics["parameters"] == base.manifest.metrics["parameters"]
    version = opened(adopted).registry.production("adopted")
    assert version is not None
    assert version.artifact == base.manifest.ref
    assert version.content == bundle_fingerprint(tiny_bundle)


def test_one_command_serves_what_it_adopted(adopted: Path) -> None:
    asked = {"model": "adopted", "prompt": "the king", "max_tokens": 4, "temperature": 0}
    command = [str(adopted), "--serve", "--set", "serve.port=0"]
    with platen_serve(*command, command="run", quiet=False) as (client, said):
        response = client.post("/v1/completions", json=asked)
    assert "adopted@1 is production" in said
    assert response.status_code == 200, response.text
    assert response.json()["usage"]["completion_tokens"] > 0


def test_a_changed_base_makes_stale_what_stands_on_it(again: Path) -> None:
    config = again / "model" / "generation_config.json"
    config.write_text(config.read_text().replace("true", "false"))
    planned = {entry.stage.name: entry for entry in opened(again).plan()}
    assert planned["data"].fresh
    assert planned["base"].why == "changed: model/generation_config.json"
    assert not planned["register"].fresh


def test_a_gate_refuses_a_base(again: Path) -> None:
    with pytest.raises(GateFailed, match="missed by"):
        run(again, overrides=["gate.0.max=0.1", "register.model=strict"])
    assert opened(again).registry.versions("strict") == []


def test_a_gguf_file_becomes_a_bundle(adopted: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("gguf")
    from platen.compress.compile import compile_bundle
    from platen.models.compiled import GGUF_FILE

    compile_bundle(tiny_bundle, adopted / "compiled", "gguf", "f16")
    shutil.copyfile(adopted / "compiled" / GGUF_FILE, adopted / "tiny.gguf")
    wanted = ["base=tiny.gguf"]
    run(adopted, "evaluate", overrides=wanted)
    imported, original = open_bundle(artifact(adopted, "base", wanted).path), open_bundle(tiny_bundle)
    ids = torch.tensor([[5, 9, 31, 77]])
    with torch.inference_mode():
        found, expected = imported.model.float()(ids), original.model.float()(ids)
    torch.testing.assert_close(found, expected, atol=0.1, rtol=0.05)


def test_a_registered_version_can_be_gone_on_from(again: Path) -> None:
    wanted = ["base=adopted@1", f"train={{steps: 4, {STEP}}}"]
    report = run(again, overrides=wanted)
    assert report.made == ["base", "tokens", "train", "evaluate", "register"]
    assert opened(again).registry.versions("adopted")[-1].number == 2


def test_training_goes_on_from_the_base_step_by_step(again: Path, tiny_bundle: Path) -> None:
    adopted = again
    each = [f"{{kind: pretrain, name: {name}, steps: 4, {STEP}}}" for name in ("first", "second")]
    steps = f"train=[{', '.join(each)}]"
    assert run(adopted, overrides=[steps]).made == ["train.first", "train.second", "evaluate", "register"]
    first, second = (artifact(adopted, f"train.{name}", [steps]) for name in ("first", "second"))
    assert second.manifest.inputs["model"] == first.manifest.ref
    assert first.manifest.inputs["model"] == artifact(adopted, "base").manifest.ref
    measured = artifact(adopted, "evaluate", [steps])
    assert measured.manifest.inputs["train"] == second.manifest.ref
    weights = [open_bundle(path).model.state_dict() for path in (tiny_bundle, first.path, second.path)]
    name = "model.layers.0.mlp.up_proj.weight"
    moved = [float((weights[at + 1][name] - weights[at][name]).abs().max()) for at in (0, 1)]
    assert all(0 < far < 0.1 for far in moved)  # of weights that are drawn with a deviation of 0.25


def test_a_learning_rate_of_almost_nothing_keeps_the_base(again: Path, tiny_bundle: Path) -> None:
    train = f"train={{steps: 2, learning_rate: 1.0e-30, weight_decay: 0, {STEP}}}"
    run(again, "train", overrides=[train])
    trained, original = open_bundle(artifact(again, "train", [train]).path), open_bundle(tiny_bundle)
    for name, weight in original.model.state_dict().items():
        torch.testing.assert_close(trained.model.state_dict()[name], weight, atol=1e-6, rtol=0)
    assert trained.tokenizer.sha256 == original.tokenizer.sha256


def test_steps_from_nothing_begin_with_the_projects_model(tmp_path: Path) -> None:
    from tests.pipeline.conftest import PLATEN_YAML

    directory = write_project(tmp_path / "tiny", PLATEN_YAML)
    one = "steps: 4, batch_size: 4, sequence_length: 16, precision: float32, threads: 1"
    steps = f"train=[{{kind: pretrain, name: a, {one}}}, {{kind: pretrain, name: b, {one}}}]"
    made = ["data", "tokenizer", "tokens", "train.a", "train.b"]
    assert run(directory, "train", overrides=[steps]).made == made
    assert run(directory, "train", overrides=[steps]).fresh == made


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.hidden_size=192"], r"model with base: the network and its tokenizer are those of \./model"),
        (["tokenizer.vocab_size=300"], "tokenizer with base"),
        (["train=[{kind: dpo, name: a, steps: 1}]"], "allowed: one of pretrain"),
        (["train=[{kind: pretrian, name: a, steps: 1}]"], "did you mean pretrain"),
        (["train=[{kind: pretrain, steps: 1}]"], "name: missing"),
        (["train=[" + 2 * "{kind: pretrain, name: a, steps: 1}, " + "]"], "two steps of the name a"),
        (["train=[]"], "empty list"),
        (["variants={a: {model: {hidden_size: 32}}}", "train={steps: 1}"], "the network is that of base"),
        (["variants={a: {}}"], "variants without train"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_a_base_is_refused(adopted: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_project(adopted, overrides)


@pytest.mark.parametrize("reference", ["./nowhere", "unheard-of", "nobody@3"])
def test_a_base_that_is_not_there_says_so_before_anything_is_made(adopted: Path, reference: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "platen", "run", str(adopted), "--set", f"base={reference}"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert reference.strip("./").partition("@")[0] in result.stderr
    assert not (adopted / ".platen" / "store").exists()


def test_a_compiled_form_is_no_base(adopted: Path, tiny_bundle: Path) -> None:
    pytest.importorskip("openvino")
    from platen.compress.compile import compile_bundle

    compile_bundle(tiny_bundle, adopted / "compiled", "openvino")
    with pytest.raises(BundleError, match="can't be taken further"):
        run(adopted, "base", overrides=["base=compiled"])


def test_sequences_longer_than_the_bases_window_are_refused(again: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.sequence_length \(129\) is longer .* \(128\)"):
        run(again, "train", overrides=["train={steps: 1, batch_size: 4, sequence_length: 129}"])
