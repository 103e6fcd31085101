"""The package on the page docs/extending.md, installed beside Platen, adds what the page says it adds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.pipeline.conftest import write_project

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
PROJECT = """\
name: extended
base: ./model
data: {sources: [{path: corpus/*.txt}], split: {validation: [d]}}
train:
  - {kind: noise, name: shaken, deviation: 0.001}
evaluate: {sample_tokens: 4, metrics: [surprising_tokens]}
stages:
  shouting: {split: train}
gate:
  - {metric: shouting.capitals, max: 0.2, no_worse_than: production}
  - {metric: surprising_tokens, max: 1, no_worse_than: production}
"""


def blocks(language: str) -> dict[str, str]:
    """The page's files, by the names in their first lines."""
    found = re.findall(rf"^```{language}\n# (\S+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return dict(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of installed packages that has the page's, as pip would leave it."""
    site = tmp_path_factory.mktemp("site")
    package = site / "platen_example"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in blocks("python").items():
        (package / name).write_text(text)
    project = tomllib.loads(blocks("toml")["pyproject.toml"])["project"]
    about = site / "platen_example-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 1.0\n")
    groups = project["entry-points"].items()
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups]
    (about / "entry_points.txt").write_text("\n".join(lines))
    return site


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: Path) -> Path:
    directory = write_project(tmp_path_factory.mktemp("extended") / "extended", PROJECT)
    shutil.copytree(tiny_bundle, directory / "model")
    return directory


def python(site: Path, *arguments: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(
        [*([str(site)] if installed else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def ran(site: Path, extended: Path) -> str:
    """What `platen run` says of the page's stage, metric and kind of training."""
    result = python(site, "-m", "platen", "run", str(extended))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def manifest(extended: Path, name: str) -> dict[str, object]:
    (file,) = (extended / ".platen" / "store" / name).glob("*/manifest.json")
    return json.loads(file.read_text())  # type: ignore[no-any-return]


def test_a_stage_from_outside_runs_and_is_gated(ran: str, extended: Path) -> None:
    made = manifest(extended, "shouting")
    assert made["kind"] == "shouting_report"
    assert made["config"] == {"split": "train"}
    texts = [(extended / "corpus" / f"{name}.txt").read_text() for name in "abc"]
    letters = [letter for letter in "".join(texts) if letter.isalpha()]
    share = sum(letter.isupper() for letter in letters) / len(letters)
    assert made["metrics"] == {"capitals": pytest.approx(share)}
    assert f"✓ shouting.capitals {share:.5g}, at most 0.2 wanted" in ran
    assert list(manifest(extended, "register")["inputs"]) == ["evaluate", "train", "shouting"]


def test_a_missed_gate_on_its_report_registers_nothing(site: Path, ran: str, extended: Path) -> None:
    strict = ["--set", "gate.0.max=0.0001", "--set", "register.model=strict"]
    result = python(site, "-m", "platen", "run", str(extended), *strict)
    assert result.returncode == 7
    assert "shouting.capitals" in result.stderr
    versions = python(site, "-m", "platen", "models", "-p", str(extended)).stdout
    assert "extended@1" in versions
    assert "strict" not in versions


def test_a_metric_from_outside_is_measured_and_compared(ran: str, extended: Path) -> None:
    assert "surprising_tokens" in manifest(extended, "evaluate")["metrics"]  # type: ignore[operator]
    assert "surprising_tokens" in ran
    (page,) = (extended / ".platen" / "store" / "evaluate").glob("*/report.md")
    assert "| surprising_tokens |" in page.read_text()


def test_a_kind_of_training_from_outside_makes_the_model(ran: str, extended: Path) -> None:
    from platen.models.bundle import open_bundle

    (folder,) = (path.parent for path in (extended / ".platen/store/train.shaken").glob("*/config.json"))
    name = "model.embed_tokens.weight"
    moved = (
        open_bundle(folder).model.state_dict()[name]
        - open_bundle(extended / "model").model.state_dict()[name]
    )
    assert float(moved.std()) == pytest.approx(1e-3, rel=0.1)
    evaluated = manifest(extended, "evaluate")["inputs"]
    assert evaluated["train"] == f"train.shaken/{folder.name}"  # type: ignore[index]


def test_without_the_package_the_project_says_what_there_is(extended: Path, site: Path) -> None:
    result = python(site, "-m", "platen", "status", str(extended), installed=False)
    assert result.returncode == 2
    assert "allowed: one of pretrain" in result.stderr
    assert "stages.shouting" in result.stderr


def test_an_engine_from_outside_serves(site: Path, tiny_bundle: Path) -> None:
    ask = """
import asyncio, sys
from platen.engines.local import open_model, stream_text
from platen.engines.protocol import SamplingParams
async def main():
    model = open_model(sys.argv[1], engine="parrot")
    params = SamplingParams(max_tokens=3)
    print("".join([e.text async for e in stream_text(model.engine, model.tokenizer, "abc", params)]))
    await model.engine.close()
asyncio.run(main())
"""
    result = python(site, "-c", ask, str(tiny_bundle))
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "abc"


def test_an_architecture_from_outside_computes_what_transformers_does(site: Path, tmp_path: Path) -> None:
    compare = """
import sys, torch
from pathlib import Path
from transformers import SeedOssConfig, SeedOssForCausalLM
from tests.conftest import TEXT
from tests.small_tokenizer import small_tokenizer
from platen.models.bundle import open_bundle, save_bundle
torch.manual_seed(3)
shape = dict(vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.25)
theirs = SeedOssForCausalLM(SeedOssConfig(**shape)).eval()
with torch.no_grad():
    for name, weight in theirs.named_parameters():
        if name.endswith("bias"):
            weight.normal_()
folder, again = Path(sys.argv[1]), Path(sys.argv[1]) / "again"
theirs.save_pretrained(folder)
small_tokenizer([TEXT] * 3, 320).save(folder)
ours = open_bundle(folder)
save_bundle(again, ours.model, ours.tokenizer)
ids = torch.randint(0, 320, (2, 20))
with torch.inference_mode():
    expected = theirs(ids).logits
    torch.testing.assert_close(ours.model(ids), expected, atol=1e-4, rtol=0)
    reopened = SeedOssForCausalLM.from_pretrained(again).eval()
    torch.testing.assert_close(reopened(ids).logits, expected, atol=1e-4, rtol=0)
"""
    result = python(site, "-c", compare, str(tmp_path))
    assert result.returncode == 0, result.stderr
