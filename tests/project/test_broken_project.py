"""Broken project files: each is refused with exit code 2, the line, and words that help; nothing starts."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest.mock import patch

import pytest

from platen.cli.main import main
from platen.core.errors import ConfigError
from platen.project.file import load_project

VALID = """\
name: demo
seed: 7
data:
  sources:
    - path: corpus/*.txt
  clean:
    unicode: NFC
  split:
    validation: 0.1
tokenizer:
  vocab_size: 512
model:
  hidden_size: 64
  num_attention_heads: 4
  max_position_embeddings: 128
train:
  steps: 10
  sequence_length: 64
  learning_rate: 1e-3
evaluate:
  temperature: 0.8
gate:
  - metric: bits_per_byte
    max: 3.0
serve:
  port: 8000
"""


def alter(old: str, new: str) -> str:
    """The valid file with one part exchanged."""
    assert VALID.count(old) == 1, old
    return VALID.replace(old, new)


def variant(text: str) -> str:
    """The valid file with a variant."""
    return f"{VALID}variants:\n  a:\n{text}"


def refusal(folder: Path, content: str | bytes, *overrides: str) -> ConfigError:
    file = folder / "platen.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    before = sorted(folder.rglob("*"))
    with pytest.raises(ConfigError) as caught:
        load_project(folder, overrides)
    said, code = platen_run(folder, overrides)
    assert code == 2
    assert said == f"platen: {caught.value}\n"
    assert sorted(folder.rglob("*")) == before, "nothing may be started or written"
    return caught.value


def platen_run(folder: Path, overrides: Sequence[str]) -> tuple[str, int]:
    """What `platen run` says on standard error, and its exit code."""
    settings = [part for override in overrides for part in ("--set", override)]
    said = io.StringIO()
    with (
        patch.object(sys, "argv", ["platen", "run", str(folder), *settings]),
        contextlib.redirect_stderr(said),
        pytest.raises(SystemExit) as ended,
    ):
        main()
    assert isinstance(ended.value.code, int)
    return said.getvalue(), ended.value.code


# What is wrong, the file, the line that the message names, and phrases it must contain.
CASES: list[tuple[str, str | bytes, int, list[str]]] = [
    # -- not a text, not YAML
    ("empty", "", 1, ["empty", "platen new"]),
    ("only comments", "# nothing\n# here\n", 1, ["empty"]),
    ("binary", b"\x7fELF\x02\x01\x01\x00\x00", 1, ["U+007F", "plain text"]),
    ("zero byte", b"name: demo\nseed: \x00\n", 2, ["U+0000"]),
    ("not UTF-8", "name: demo\nstore: caf\xe9\n".encode("latin-1"), 2, ["0xe9", "UTF-8"]),
    ("UTF-16", "name: demo".encode("utf-16"), 1, ["0xff", "UTF-8"]),
    ("tab", alter("  vocab_size: 512", "\tvocab_size: 512"), 11, ["tab", "spaces"]),
    ("unclosed quote", alter("name: demo", 'name: "demo'), 1, ["quote", "never closed"]),
    ("unclosed bracket", alter("seed: 7", "seed: [7"), 2, ["bracket", "never closed", "comma"]),
    ("colon in a text", alter("name: demo", "name: demo: two"), 1, ["colon", "quotes"]),
    ("indentation", alter("vocab_size: 512", "vocab_size: 512\n seed: 1"), 12, ["indentation"]),
    ("two documents", VALID + "---\nname: other\n", 27, ["document"]),
    ("list at top", "- name: demo\n", 1, ["list", "name, data, train"]),
    ("scalar at top", "demo\n", 1, ["single value"]),
    ("undefined alias", alter("seed: 7", "seed: *seed"), 2, ["alias", "anchor"]),
    ("alias in itself", "name: demo\ndata: &d\n  sources: [*d]\n", 2, ["contains itself"]),
    ("nested too deep", "name: " + "[" * 5000, 1, ["nested deeper"]),
    (
        "alias bomb",
        "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
        + "".join(
            f"{n}: &{n} [{','.join([f'*{m}'] * 10)}]\n"
            for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        1,
        ["more than", "values"],
    ),
    (
        "merge bomb",
        "a: &a {}\n"
        + "".join(
            f"{n}: &{n} {{<<: [{','.join([f'*{m}'] * 10)}]}}\n"
            for m, n in zip("abcdefgh", "bcdefghi", strict=True)
        ),
        1,
        ["more than", "values"],
    ),
    ("python tag", alter("name: demo", "name: !!python/object/apply:os.getcwd []"), 1, ["tag"]),
    ("custom tag", alter("seed: 7", "seed: !env SEED"), 2, ["!env", "tag"]),
    ("escape outside Unicode", alter("name: demo", r'name: "\UFFFFFFFF"'), 0, ["escape"]),
    ("surrogate", alter("name: demo", r'name: "\ud800"'), 1, ["surrogate"]),
    # -- keys
    ("duplicate key", alter("seed: 7", "seed: 7\nname: again"), 3, ["name", "twice", "line 1"]),
    ("duplicate deep key", alter("steps: 10", "steps: 10\n  steps: 11"), 18, ["train.steps", "17"]),
    ("number as key", alter("seed: 7", "seed: 7\n5: x"), 3, ["key 5", "quotes"]),
    ("unknown key", alter("seed: 7", "sede: 7"), 2, ["sede", "unknown key", "did you mean seed"]),
    ("unknown key, depth 2", alter("steps: 10", "stpes: 10"), 17, ["train.stpes", "mean steps"]),
    ("unknown key, depth 3", alter("unicode: NFC", "unicoed: NFC"), 7, ["clean.unicoed", "unicode"]),
    ("unknown key in a list", alter("max: 3.0", "maxx: 3.0"), 24, ["gate.0.maxx", "mean max"]),
    ("unlike any key", alter("seed: 7", "zzz: 7"), 2, ["zzz", "allowed here", "tokenizer"]),
    ("key of another section", alter("seed: 7", "port: 7"), 2, ["port", "belongs under serve"]),
    ("missing name", alter("name: demo\n", ""), 1, ["name", "missing", "required"]),
    ("missing source path", alter("- path: corpus/*.txt", "- encoding: utf-8"), 5, ["path", "missing"]),
    ("missing section", "name: demo\ntrain: {steps: 5}\n", 1, ["data", "missing"]),
    # -- values
    ("number in quotes", alter("steps: 10", 'steps: "10"'), 17, ['the text "10"', "without quotes"]),
    ("underscored number", alter("steps: 10", "steps: 1_000"), 17, ["1_000", "write 1000"]),
    ("fraction for a count", alter("steps: 10", "steps: 1.5"), 17, ["1.5", "whole number > 0"]),
    ("float for a count", alter("steps: 10", "steps: 1e3"), 17, ["write 1000"]),
    ("truth for a count", alter("steps: 10", "steps: true"), 17, ["`true`", "whole number"]),
    ("negative", alter("steps: 10", "steps: -3"), 17, ["-3", "> 0"]),
    ("zero", alter("hidden_size: 64", "hidden_size: 0"), 13, ["the number 0", "> 0"]),
    ("over the range", alter("port: 8000", "port: 80000"), 26, ["80000", "≤ 65535"]),
    ("under the range", alter("vocab_size: 512", "vocab_size: 100"), 11, ["100", "≥ 259"]),
    ("beyond a float", alter("learning_rate: 1e-3", "learning_rate: 1e999"), 19, [".inf"]),
    ("huge integer", alter("seed: 7", "seed: " + "9" * 4000), 2, ["beyond all limits"]),
    ("NaN", alter("learning_rate: 1e-3", "learning_rate: .nan"), 19, [".nan", "number > 0"]),
    ("infinity", alter("temperature: 0.8", "temperature: .inf"), 21, [".inf", "≤ 10"]),
    ("YAML 1.1 truth", alter("seed: 7", "seed: 7\nregister: no"), 3, ['the text "no"', "allowed: section"]),
    ("yes", alter("unicode: NFC", "deduplicate: yes"), 7, ['the text "yes"', "write true"]),
    ("on", alter("steps: 10", "steps: 5\n  compile: off"), 18, ['the text "off"', "write false"]),
    ("sexagesimal", alter("steps: 10", "minutes: 1:30"), 17, ['the text "1:30"', "number > 0"]),
    ("bad choice", alter("unicode: NFC", "unicode: NFD"), 7, ["NFD", "`NFC`, `NFKC`, `none`"]),
    ("mistyped choice", alter("steps: 10", "schedule: cosin"), 17, ["cosine", "did you mean cosine"]),
    ("null section", "name: demo\ndata: {sources: [{path: x}]}\nserve:\n", 3, ["null", "give it keys"]),
    ("null value", alter("seed: 7", "seed: ~"), 2, ["seed", "nothing (null)", "whole number"]),
    ("number for a name", alter("name: demo", "name: 5"), 1, ["the number 5", "quotes"]),
    ("bad name", alter("name: demo", "name: My Project"), 1, ["My Project", "Lower-case"]),
    ("text for a list", alter("temperature: 0.8", "prompts: Once"), 21, ['write a list: ["Once"]']),
    ("section for a list", alter("- path: corpus/*.txt", "  path: x"), 5, ["data.sources", "list of"]),
    ("no sources", alter("sources:\n    - path: corpus/*.txt", "sources: []"), 4, ["empty list"]),
    ("empty path", alter("- path: corpus/*.txt", '- path: ""'), 5, ["empty text"]),
    ("wrong item in a list", alter("validation: 0.1", "validation: [a, 2]"), 9, ["validation.1", "text"]),
    ("list for a section", alter("port: 8000", "- port"), 26, ["serve", "a list", "section"]),
    ("encoding", alter("- path: corpus/*.txt", "- {path: a, encoding: klingon}"), 5, ["encoding", "utf-8"]),
    ("cron fields", alter("seed: 7", 'schedule: "* * *"'), 2, ["schedule", "five fields"]),
    ("cron range", alter("seed: 7", 'schedule: "0 25 * * *"'), 2, ["hour", "0 to 23"]),
    ("retries of no stage", alter("seed: 7", "retries: {trian: {}}"), 2, ["trian", "did you mean train"]),
    ("variant's name", alter("seed: 7", "variants: {Big One: {}}"), 2, ["Big One", "usable name"]),
    # -- combinations
    ("heads", alter("hidden_size: 64", "hidden_size: 66"), 13, ["hidden_size (66)", "multiple", "(4)"]),
    ("odd head", alter("hidden_size: 64", "hidden_size: 12"), 13, ["even"]),
    (
        "key/value heads",
        alter("hidden_size: 64", "hidden_size: 64\n  num_key_value_heads: 3"),
        15,
        ["num_attention_heads (4)", "num_key_value_heads (3)"],
    ),
    ("sequence too long", alter("sequence_length: 64", "sequence_length: 256"), 18, ["256", "(128)"]),
    ("no stop rule", alter("  steps: 10\n", ""), 16, ["train", "minutes, steps, tokens, patience"]),
    (
        "no training",
        "name: demo\ndata: {sources: [{path: x}]}\ngate: []\nmodel: {}\n",
        4,
        ["model, gate without train", "leave them out"],
    ),
    ("accumulation", alter("steps: 10", "steps: 10\n  accumulation: 3"), 18, ["batch_size", "multiple"]),
    ("nothing to train on", alter("validation: 0.1", "validation: 0.6\n    test: 0.4"), 9, ["0.6", "0.4"]),
    ("test split empty", alter("temperature: 0.8", "split: test"), 21, ["evaluate.split", "data.split.test"]),
    ("gate with no condition", alter("    max: 3.0\n", ""), 23, ["gate.0", "max, min or no_worse_than"]),
    ("gate none can pass", alter("max: 3.0", "max: 3.0\n    min: 4.0"), 25, ["min", "4", "3"]),
    ("ladder rung", alter("hidden_size: 64", "architecture: swiglu"), 13, ["only llama can", "variants"]),
    # -- variants
    ("variant, unknown key", variant("    model: {hiden_size: 3}\n"), 29, ["hiden_size", "mean hidden_size"]),
    ("variant, wrong type", variant('    train: {steps: "3"}\n'), 29, ["variants.a.train.steps", "quotes"]),
    ("variant, merged", variant("    model:\n      hidden_size: 66\n"), 30, ["variants.a.model", "66"]),
    ("variant, sequence", variant("    train: {sequence_length: 500}\n"), 28, ["variants.a", "500"]),
    # -- environment
    ("variable not set", alter("seed: 7", "store: s3://${PLATEN_NO_SUCH}/x"), 2, ["_NO_SUCH", "not set"]),
    ("variable unclosed", alter("seed: 7", 'store: "${HOME"'), 2, ["${NAME}"]),
    ("variable's bad name", alter("seed: 7", 'store: "${1A}"'), 2, ["${1A}"]),
    ("variable for a number", alter("seed: 7", "seed: ${HOME}"), 2, ["${HOME}", "--set"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "line", "phrases"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_a_broken_file_is_refused(
    tmp_path: Path, content: str | bytes, line: int, phrases: list[str]
) -> None:
    error = refusal(tmp_path, content)
    message = str(error)
    named = re.findall(r"platen\.yaml:(\d+)", message)
    if line:
        assert str(line) in named, message
    for phrase in phrases:
        assert phrase in message, message
    assert "nothing was started" in message
    assert "Traceback" not in message


def test_there_are_enough_kinds() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 30


def test_all_problems_come_at_once_in_order(tmp_path: Path) -> None:
    text = (
        VALID.replace("seed: 7", "seed: x")
        .replace("steps: 10", "stpes: 10")
        .replace("port: 8000", "port: -1")
    )
    message = str(refusal(tmp_path, text))
    assert "3 problems" in message
    assert [int(line) for line in re.findall(r"platen\.yaml:(\d+):", message)] == [2, 17, 26]


def test_a_long_list_of_problems_is_cut(tmp_path: Path) -> None:
    message = str(refusal(tmp_path, VALID + "".join(f"k{i}: 1\n" for i in range(14))))
    assert "14 problems" in message
    assert "  10. " in message
    assert "  11. " not in message
    assert "and 4 more" in message


def test_a_secret_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATEN_TEST_SECRET", "hunter2-hunter2")
    for line in (
        "name: ${PLATEN_TEST_SECRET}!",
        "schedule: ${PLATEN_TEST_SECRET}",
        "seed: ${PLATEN_TEST_SECRET}",
    ):
        message = str(
            refusal(tmp_path, alter("seed: 7", line) if "name" not in line else alter("name: demo", line))
        )
        assert "hunter2" not in message


OVERRIDES: list[tuple[str, list[str]]] = [
    ("train.steps", ["KEY=VALUE"]),
    ("=5", ["KEY=VALUE"]),
    ("train..steps=5", ["KEY=VALUE"]),
    ("train.steps=", ["no value", "null"]),
    ("train.stpes=5", ["no key stpes", "did you mean steps", "minutes"]),
    ("trian.steps=5", ["no key trian", "did you mean train"]),
    ("train.steps.x=5", ["train.steps", "single value"]),
    ("data.sources.3.path=x", ["data.sources", "items 0 to 0"]),
    ("data.sources.first.path=x", ["data.sources", "list"]),
    ("train.steps='5'", ["--set train.steps='5'", 'the text "5"', "whole number"]),
    ("train.steps=-5", ["--set train.steps=-5", "> 0"]),
    ("train.steps=[1", ["--set train.steps=[1", "bracket"]),
    ("train.steps=!!int 5x", ["--set", "5x"]),
    ("train.sequence_length=4096", ["--set train.sequence_length=4096", "(4096)", "(128)"]),
    ("evaluate.prompts=${PLATEN_NO_SUCH}", ["PLATEN_NO_SUCH", "not set"]),
    ("serve.port=70000", ["--set serve.port=70000", "≤ 65535"]),
]


@pytest.mark.parametrize(("override", "phrases"), OVERRIDES, ids=[o[0] for o in OVERRIDES])
def test_a_bad_override_is_refused(tmp_path: Path, override: str, phrases: list[str]) -> None:
    message = str(refusal(tmp_path, VALID, override))
    assert "--set" in message
    for phrase in phrases:
        assert phrase in message, message


def _missing(folder: Path) -> Path:
    return folder


def _missing_file(folder: Path) -> Path:
    return folder / "other.yaml"


def _wrong_suffix(folder: Path) -> Path:
    (folder / "platen.yml").write_text(VALID)
    return folder


def _folder_for_file(folder: Path) -> Path:
    (folder / "platen.yaml").mkdir()
    return folder


def _fifo(folder: Path) -> Path:
    os.mkfifo(folder / "platen.yaml")
    return folder


def _huge(folder: Path) -> Path:
    (folder / "platen.yaml").write_text("#" * 300_000)
    return folder


def _dangling_link(folder: Path) -> Path:
    (folder / "platen.yaml").symlink_to(folder / "nowhere")
    return folder


def _zero_byte(folder: Path) -> Path:
    return folder / "a\0b"


@pytest.mark.parametrize(
    ("make", "phrases"),
    [
        (_missing, ["no platen.yaml", "platen new"]),
        (_missing_file, ["other.yaml' does not exist", "platen new"]),
        (_wrong_suffix, ["no platen.yaml", "rename"]),
        (_folder_for_file, ["not a file"]),
        (_fifo, ["not a file"]),
        (_huge, ["300,000 bytes", "262,144"]),
        (_dangling_link, ["no platen.yaml"]),
        (_zero_byte, ["a\\x00b"]),
    ],
)
def test_a_file_that_is_none(tmp_path: Path, make: Callable[[Path], Path], phrases: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_project(make(tmp_path))
    for phrase in phrases:
        assert phrase in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file(tmp_path: Path) -> None:
    file = tmp_path / "platen.yaml"
    file.write_text(VALID)
    file.chmod(0)
    with pytest.raises(ConfigError, match="can't be read"):
        load_project(tmp_path)
