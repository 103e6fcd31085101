"""Loading a good project file, its schema and reference page, and what `platen new` writes."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from platen.core.errors import ConfigError
from platen.models.config import ModelConfig
from platen.project.file import LoadedProject, json_schema, load_project, new_project, reference_markdown
from platen.project.sections import Project
from platen.train.config import TrainConfig
from tests.project.test_broken_project import VALID

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(ROOT.glob("examples/*/platen.yaml"))


def load(folder: Path, text: str, *overrides: str) -> LoadedProject:
    (folder / "platen.yaml").write_text(text, encoding="utf-8")
    return load_project(folder, overrides)


# -- values -----------------------------------------------------------------------------------------


def test_values_arrive_with_their_types(tmp_path: Path) -> None:
    loaded = load(tmp_path, VALID)
    assert loaded.directory == tmp_path.resolve()
    assert loaded.path == tmp_path / "platen.yaml"
    project = loaded.project
    assert project.name == "demo"
    assert project.data.sources[0].path == "corpus/*.txt"
    assert project.training().learning_rate == 0.001
    assert project.gate[0].max == 3.0
    assert project.tokenizer.min_frequency == 2  # a default


def test_the_file_itself_can_be_named(tmp_path: Path) -> None:
    load(tmp_path, VALID)
    other = tmp_path / "other.yaml"
    other.write_text(VALID.replace("seed: 7", "seed: 8"))
    assert load_project(other).project.seed == 8
    assert load_project(other).directory == tmp_path.resolve()


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-3", 0.001), ("2", 2.0), ("1.5E+0", 1.5), (".5", 0.5), ("2.", 2.0), ("0x10", 16.0), ("+3", 3.0)],
)
def test_numbers_follow_yaml_1_2(tmp_path: Path, written: str, value: float) -> None:
    text = VALID.replace("learning_rate: 1e-3", f"learning_rate: {written}")
    assert load(tmp_path, text).project.training().learning_rate == value


@pytest.mark.parametrize("written", ["no", "on", "1:30", "2024-01-01", "=", "1_000", '"5"', "'null'"])
def test_text_stays_text(tmp_path: Path, written: str) -> None:
    project = load(tmp_path, VALID.replace("seed: 7", f"store: {written}")).project
    assert project.store == written.strip("\"'")


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "platen.yaml").write_bytes(b"\xef\xbb\xbf" + VALID.replace("\n", "\r\n").encode())
    assert load_project(tmp_path).project.seed == 7


def test_anchors_and_merges(tmp_path: Path) -> None:
    text = VALID + (
        "variants:\n"
        "  a:\n    train: &base {steps: 3, batch_size: 4}\n"
        "  b:\n    train: {<<: *base, steps: 5}\n"
        "  c:\n    train: *base\n"
    )
    variants = load(tmp_path, text).project.variants
    assert variants["b"].train == {"steps": 5, "batch_size": 4}
    assert variants["c"].train == variants["a"].train == {"steps": 3, "batch_size": 4}


# -- overrides --------------------------------------------------------------------------------------


def test_overrides_win_and_the_last_most(tmp_path: Path) -> None:
    project = load(
        tmp_path,
        VALID,
        "train.steps=20",
        "train.steps=30",
        "train.learning_rate=5e-4",
        "data.sources.0.path=other.txt",
        "data.sources[0].encoding=latin-1",
        "gate=[]",
        "evaluate.prompts=[a, 'b: c']",
        "register.promote=candidate",
        "variants.wide.model.hidden_size=128",
        "train.grad_clip=null",
        "store=a=b",
    ).project
    assert project.training().steps == 30
    assert project.training().learning_rate == 5e-4
    assert project.data.sources[0].path == "other.txt"
    assert project.data.sources[0].encoding == "latin-1"
    assert project.gate == ()
    assert project.evaluate.prompts == ("a", "b: c")
    assert project.register_as.promote == "candidate"
    assert project.variants["wide"].model == {"hidden_size": 128}
    assert project.training().grad_clip is None
    assert project.store == "a=b"


def test_an_override_mends_the_file(tmp_path: Path) -> None:
    assert (
        load(tmp_path, VALID.replace("steps: 10", "steps: ten"), "train.steps=5").project.training().steps
        == 5
    )


# -- environment ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("s3://${BUCKET}/x", "s3://b-1/x"),
        ("${BUCKET}${BUCKET}", "b-1b-1"),
        ("${ABSENT:-d}", "d"),
        ("${EMPTY:-d}", "d"),
        ("x${EMPTY}", "x"),
        ("${BUCKET:-d}", "b-1"),
        ("${ABSENT:-}x", "x"),
        ("$${BUCKET}", "${BUCKET}"),
        ("$BUCKET and $$", "$BUCKET and $$"),
    ],
)
def test_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, value: str) -> None:
    monkeypatch.setenv("BUCKET", "b-1")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("ABSENT", raising=False)
    assert load(tmp_path, VALID.replace("seed: 7", f"store: {written}")).project.store == value


def test_values_from_the_environment_can_be_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "s3cr3t-key")
    loaded = load(tmp_path, VALID.replace("seed: 7", "store: s3://${KEY}@host"))
    assert loaded.redact("cannot open s3://s3cr3t-key@host") == "cannot open s3://${KEY}@host"
    assert loaded.redact({"store": ["s3://s3cr3t-key"], "steps": 3}) == {"store": ["s3://${KEY}"], "steps": 3}
    assert "s3cr3t" not in repr(loaded.interpolated.values())


def test_a_value_is_not_looked_into_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTER", "${INNER}")
    assert load(tmp_path, VALID.replace("seed: 7", "store: ${OUTER}")).project.store == "${INNER}"


# -- variants ---------------------------------------------------------------------------------------


def test_a_variant_changes_only_what_it_names(tmp_path: Path) -> None:
    text = VALID.replace("  hidden_size: 64", "  hidden_size: 64\n  rope_scaling: {factor: 4}") + (
        "variants:\n"
        "  wide: {model: {hidden_size: 128, rope_scaling: {low_freq_factor: 2}}}\n"
        "  long: {train: {steps: null, minutes: 2}}\n"
        "  rung: {model: {architecture: swiglu}}\n"
    )
    project = load(tmp_path, text).project
    wide, long = project.variant("wide"), project.variant("long")
    assert wide.train == project.train
    assert wide.model.hidden_size == 128
    assert wide.model.num_attention_heads == 4
    assert wide.model.rope_scaling is not None
    assert (wide.model.rope_scaling.factor, wide.model.rope_scaling.low_freq_factor) == (4, 2)
    assert long.model == project.model
    assert (long.train.steps, long.train.minutes) == (None, 2)
    assert project.variant("rung").model.architecture == "swiglu"
    with pytest.raises(KeyError):
        project.variant("none")


def test_a_variant_of_a_hand_made_project_is_checked_too() -> None:
    project = Project.model_validate(
        {
            "name": "x",
            "data": {"sources": [{"path": "x"}]},
            "train": {"steps": 1},
            "variants": {"a": {"model": {"hidden_size": "128"}}},
        }
    )
    with pytest.raises(ValidationError):
        project.variant("a")


# -- any file at all --------------------------------------------------------------------------------

_SYNTAX = (
    "\t : - \n ' \" [ ] { } &a *a << !!int !x null ~ -1 .nan 1e400 99999999999999999999 true no | > ? # ---"
)
_ODD = [
    '% @ ` \x00 \ufeff \u2028 é 🙂 "\\ud800" seed: model: train:{ ${HOME} ${ $',
    ": ",
    "- ",
    "  ",
    "&a ",
    "<<: ",
]
_PIECES = st.sampled_from([*_SYNTAX.split(" "), *_ODD[0].split(" "), *_ODD[1:]])


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 12), _PIECES), min_size=1, max_size=3))
def test_a_mutated_text_loads_or_is_refused(tmp_path: Path, edits: list[tuple[int, int, str]]) -> None:
    text = VALID
    for start, length, piece in edits:
        text = text[:start] + piece + text[start + length :]
    with contextlib.suppress(ConfigError):
        assert load(tmp_path, text).project.name


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60), st.integers(0, len(VALID)))
def test_mutated_bytes_load_or_are_refused(tmp_path: Path, noise: bytes, at: int) -> None:
    (tmp_path / "platen.yaml").write_bytes(VALID[:at].encode() + noise + VALID[at:].encode())
    with contextlib.suppress(ConfigError):
        assert load_project(tmp_path).project.name


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just(10**400), st.just([])
)
_ANY = st.recursive(
    _SCALARS,
    lambda below: st.lists(below, max_size=2) | st.dictionaries(st.text(max_size=6), below, max_size=2),
    max_leaves=4,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for step, below in steps for place in _places(below, (*path, step)))]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), _ANY)
def test_a_mutated_value_loads_or_is_refused(tmp_path: Path, data: st.DataObject, value: Any) -> None:
    tree = yaml.safe_load(VALID + "variants: {a: {model: {hidden_size: 32}}}\nretries: {train: {}}\n")
    *above, last = data.draw(st.sampled_from(_places(tree)[1:]))
    holder = tree
    for step in above:
        holder = holder[step]
    holder[last] = value
    with contextlib.suppress(ConfigError):
        load(tmp_path, yaml.safe_dump(tree, allow_unicode=True))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=30) | st.builds("train.{}={}".format, st.text(max_size=9), st.text(max_size=9)))
def test_any_override_loads_or_is_refused(tmp_path: Path, override: str) -> None:
    with contextlib.suppress(ConfigError):
        load(tmp_path, VALID, override)


# -- schema and reference ---------------------------------------------------------------------------


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.parent.name for path in EXAMPLES])
def test_examples_fit_the_published_schema_and_load(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        """YAML 1.2's numbers: PyYAML alone takes 2e-3 for a text."""

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+$"),
        list("0123456789"),
    )
    published = json.loads((ROOT / "docs/platen.schema.json").read_text())
    Draft202012Validator.check_schema(published)
    data = yaml.load(path.read_text(), Loader)
    assert [e.message for e in Draft202012Validator(published).iter_errors(data)] == []
    assert load_project(path).project.name == data["name"]
    assert path.read_text().startswith("# yaml-language-server: $schema=../../docs/platen.schema.json")


def test_there_are_examples() -> None:
    assert EXAMPLES


def test_the_published_files_are_up_to_date() -> None:
    again = "run `make docs`"
    assert (ROOT / "docs/project-file.md").read_text() == reference_markdown(), again
    assert json.loads((ROOT / "docs/platen.schema.json").read_text()) == json_schema(), again


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({}, True),
        ({"nmae": 1}, False),
        ({"train": {"steps": 0}}, False),
        ({"train": {"stpes": 5}}, False),
        ({"data": {"sources": []}}, False),
        ({"variants": {"a": {"model": {"hidden_size": 4}}}}, True),
        ({"variants": {"a": {"model": {"hiden_size": 4}}}}, False),
        ({"variants": {"A!": {}}}, False),
        ({"retries": {"trian": {}}}, False),
        ({"data": {"sources": [{"path": "x"}], "split": {"validation": ["a"]}}}, True),
    ],
)
def test_the_schema_tells_good_from_bad(change: dict[str, Any], fits: bool) -> None:
    data = {"name": "x", "data": {"sources": [{"path": "x"}]}, "train": {"steps": 5}} | change
    assert Draft202012Validator(json_schema()).is_valid(data) is fits


def test_every_key_is_described_for_editors() -> None:
    schema = json_schema()
    for name, section in [("top", schema), *schema["$defs"].items()]:
        assert section["additionalProperties"] is False, name
        for key, node in section["properties"].items():
            assert node.get("description"), f"{name}.{key} has no description"


def test_the_reference_names_every_key() -> None:
    page = reference_markdown()
    for section in (ModelConfig, TrainConfig):
        for key in section.model_fields:
            assert f"| `{key}` |" in page
    assert "| `port` | whole number ≥ 0 and ≤ 65535 | `8000` |" in page


# -- platen new -------------------------------------------------------------------------------------


def test_a_new_project_loads_and_has_text(tmp_path: Path) -> None:
    folder = tmp_path / "hello"
    written = new_project(folder, "hello")
    assert {path.relative_to(folder).as_posix() for path in written} >= {
        "platen.yaml",
        "README.md",
        ".gitignore",
        ".platen-schema.json",
    }
    assert all(path.is_file() for path in written)
    project = load_project(folder).project
    assert project.name == "hello"
    stems = {path.stem for path in folder.glob(project.data.sources[0].path)}
    assert len(stems) >= 3
    assert isinstance(project.data.split.validation, tuple)
    assert set(project.data.split.validation) < stems
    text = (folder / "platen.yaml").read_text()
    assert text.startswith("# yaml-language-server: $schema=.platen-schema.json\n")
    assert json.loads((folder / ".platen-schema.json").read_text()) == json_schema()
    assert ".platen/" in (folder / ".gitignore").read_text().split()
    assert "hello" in (folder / "README.md").read_text()


def test_what_the_new_file_comments_out_is_valid_too(tmp_path: Path) -> None:
    new_project(tmp_path / "hello", "hello")
    text = (tmp_path / "hello/platen.yaml").read_text()
    opened = [
        line.replace("# ", "", 1) if ":" in line and "#" in line[:6] else line
        for line in text.splitlines()[6:]
    ]
    (tmp_path / "hello/platen.yaml").write_text("\n".join(opened))
    project = load_project(tmp_path / "hello").project
    assert set(project.variants) == {"narrow", "wide"}
    assert project.schedule == "0 3 * * *"
    assert project.retries["train"].max_retries == 3
    assert project.gate[1].by == 0.02


@pytest.mark.parametrize("name", ["Hello", "a b", "", "-x", "a/b", "ä", "x" * 64, "."])
def test_a_bad_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="can't name a project") as caught:
        new_project(tmp_path / "new", name)
    assert not (tmp_path / "new").exists()
    assert "platen new " in str(caught.value)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        new_project(tmp_path, "hello")
    with pytest.raises(ConfigError, match="is a file"):
        new_project(tmp_path / "mine.txt", "hello")
    with pytest.raises(ConfigError):
        new_project(tmp_path / "mine.txt" / "below", "hello")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert new_project(tmp_path, "hello")


@pytest.mark.slow
def test_a_wheel_carries_the_template(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "src", tree / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(tmp_path),
    ]
    subprocess.run([*build, str(tree)], check=True, timeout=240)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("platen/templates/project/")}
    template = tree / "src/platen/templates/project"
    assert packed == {
        path.relative_to(tree / "src").as_posix() for path in template.rglob("*") if path.is_file()
    }
