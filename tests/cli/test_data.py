"""`platen data labels` and `platen data diff` as their users see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from platen.cli.main import app
from platen.core.errors import ConfigError, DataError, PlatenError
from platen.data.instruct.messages import Example, write_examples
from platen.data.labelling.items import Item, Judgement, task_set
from platen.data.labelling.store import LabelStore
from platen.prompts.messages import Message


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["data", *arguments])
    if isinstance(result.exception, PlatenError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """Two annotators on two texts, alike on one."""
    store = LabelStore(tmp_path / "labels.db")
    store.set_up(task_set("Test", "label"))
    said = [
        ("0", "ana", "question"),
        ("0", "ben", "question"),
        ("1", "ana", "directive"),
        ("1", "ben", "question"),
    ]
    store.add_items([Item("0", "Why?"), Item("1", "Do it")], [Judgement(*one) for one in said])
    store.close()
    return str(tmp_path / "labels.db")


def test_agreement_is_shown(labels: str) -> None:
    """Alpha: 1 - 3 · 2 / (16 - 9 - 1) = 0; kappa: (0.5 - 0.5) / 0.5 = 0."""
    said = run("labels", labels)
    assert "2 items, 2 judged, 2 by several" in said
    assert "Krippendorff's alpha: 0.000; disagreed: 1" in said
    assert "ana, ben" in said
    assert "50%" in said


def test_labels_are_exported_for_the_classifier(labels: str) -> None:
    first, second = map(json.loads, run("labels", labels, "--export", "jsonl").splitlines())
    assert (first["text"], first["label"]) == ("Why?", "question")
    assert "label" not in second
    assert run("labels", labels, "--label-studio-config").startswith("<View>")
    with pytest.raises(ConfigError, match="'csv' is no format"):
        run("labels", labels, "--export", "csv")


def test_what_can_not_be_labelled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is nothing to label"):
        run("label", "--db", str(tmp_path / "none.db"))
    with pytest.raises(ConfigError, match="'guess' is no task"):
        run("label", str(tmp_path / "x.jsonl"), "--task", "guess")
    with pytest.raises(DataError, match="there is no file"):
        run("labels", str(tmp_path / "none.db"))


def test_the_difference_of_two_sets(tmp_path: Path) -> None:
    for name, answer in (("before", "Blue."), ("after", "Red.")):
        (tmp_path / name).mkdir()
        messages = (Message("user", "Name a colour."), Message("assistant", answer))
        write_examples(tmp_path / name / "train.jsonl", [Example("1", messages, "s", "alpaca")])
    folders = str(tmp_path / "before"), str(tmp_path / "after")
    said = run("diff", *folders)
    assert "0 added, 0 removed, 1 changed, 0 same" in said
    assert "~ 1  answer: Blue. → Red." in said
    assert json.loads(run("diff", *folders, "--json"))["changed"][0]["after"] == "Red."
    with pytest.raises(DataError, match="is no instruction set"):
        run("diff", str(tmp_path), folders[0])


def test_reading_leaves_files_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed.jsonl").write_text('{"text": "Good."}\n{broken\n')
    mine = tmp_path / "quarantine.jsonl"
    mine.write_text("precious")
    assert '"Good."' in run("read", "mixed.jsonl")
    with pytest.raises(ConfigError, match="exists already"):
        run("read", "mixed.jsonl", "--quarantine", "quarantine.jsonl")
    assert mine.read_text() == "precious"
    run("read", "mixed.jsonl", "--quarantine", "new.jsonl")
    assert json.loads((tmp_path / "new.jsonl").read_text())["reason"] == "not-json"


def test_hints_fit_a_command_outside_of_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.txt").write_bytes(b"a\0b")
    (tmp_path / "empty.txt").write_bytes(b"")
    for source in ("nowhere.txt", "*.nothing", "binary.txt", "empty.txt", "sqlite:///desk.db"):
        with pytest.raises(DataError) as refused:
            run("read", source)
        assert refused.value.hint
        assert "data.sources" not in str(refused.value)


def test_one_document_is_no_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"text": "Good."}\n')
    (tmp_path / "two.jsonl").write_text('{"text": "Good."}\n{"text": "Better."}\n')
    assert run("read", "one.jsonl").splitlines()[-1] == "1 document"
    assert run("read", "two.jsonl").splitlines()[-1] == "2 documents"


def test_a_refused_option_is_told_in_our_own_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        run("read", "one.jsonl", "--encoding", "klingon")
    assert str(refused.value).startswith("--encoding: Python knows no text encoding of this name")
