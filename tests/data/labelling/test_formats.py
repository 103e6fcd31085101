"""Files in, files out: our own lines, doccano's and Label Studio's, each readable again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from platen.core.artifacts import Store
from platen.core.errors import DataError
from platen.data.labelling.agreement import ratings_of, settled
from platen.data.labelling.artifact import export_artifact
from platen.data.labelling.formats import FORMATS, Format, label_studio_config, read_items, write_items
from platen.data.labelling.items import Item, Judgement, Task, task_set
from platen.data.labelling.store import LabelStore

REVIEW = task_set("Answers", "review")
ITEMS = (
    Item("a", "Why?", ("Because.",), {"page": 3}),
    Item("b", "Who?", ("You.",)),
    Item("c", "Where?", ("There.",)),
)
SAID = (
    Judgement("a", "ana", "accept", "", "2026-01-02T03:04:05.000+00:00"),
    Judgement("a", "ben", "reject", "", "2026-01-02T03:04:06.000+00:00"),
    Judgement("b", "ana", "correct", "Me.", "2026-01-02T03:04:07.000+00:00"),
)


def export(format: Format) -> str:
    return write_items(format, REVIEW, ITEMS, SAID, settled(ratings_of(SAID)))


def test_our_own_lines_have_what_was_settled_and_everything_said() -> None:
    tie, corrected = map(json.loads, export("jsonl").splitlines())
    assert "label" not in tie
    assert [one["value"] for one in tie["judgements"]] == ["accept", "reject"]
    assert (corrected["text"], corrected["label"], corrected["correction"]) == ("Who?", "correct", "Me.")


def test_doccano_gets_a_line_an_annotator() -> None:
    assert list(map(json.loads, export("doccano").splitlines())) == [
        {
            "id": "a",
            "text": "Why?",
            "answer": "Because.",
            "metadata": {"page": 3},
            "label": [value],
            "annotator": name,
        }
        for name, value in (("ana", "accept"), ("ben", "reject"))
    ] + [
        {
            "id": "b",
            "text": "Who?",
            "answer": "You.",
            "label": ["correct"],
            "annotator": "ana",
            "correction": "Me.",
        }
    ]


def test_label_studio_gets_tasks_with_annotations_and_an_interface_that_fits() -> None:
    tasks = json.loads(export("label-studio"))
    assert [len(task["annotations"]) for task in tasks] == [2, 1, 0]
    view = ElementTree.fromstring(label_studio_config(REVIEW))
    shown = {element.attrib["value"].removeprefix("$") for element in view if element.tag == "Text"}
    assert shown <= tasks[0]["data"].keys()
    controls = {element.attrib["name"] for element in view if element.tag in ("Choices", "TextArea")}
    results = [result for task in tasks for one in task["annotations"] for result in one["result"]]
    assert {result["from_name"] for result in results} == controls
    assert {result["to_name"] for result in results} <= {e.attrib["name"] for e in view}
    offered = {choice.attrib["value"] for choice in view.iter("Choice")}
    assert {result["value"]["choices"][0] for result in results if "choices" in result["value"]} <= offered


@pytest.mark.parametrize("format", [one for one in FORMATS if one != "doccano"])
def test_an_export_can_be_read_again(format: Format, tmp_path: Path) -> None:
    file = tmp_path / ("export.json" if format == "label-studio" else "export.jsonl")
    file.write_text(export(format))
    imported = read_items(file, "review")
    assert imported.items == (ITEMS if format == "label-studio" else ITEMS[:2])
    assert imported.judgements == SAID


@pytest.mark.parametrize(
    ("record", "task", "item", "judgements"),
    [
        # doccano's export of a text classification project.
        (
            {"id": 7, "text": "Hi!", "label": ["greeting"], "Comments": [], "lang": "en"},
            "label",
            Item("7", "Hi!", (), {"Comments": [], "lang": "en"}),
            [("imported", "greeting")],
        ),
        # Label Studio's JSON export, with its own ids of users.
        (
            {
                "id": 12,
                "data": {"text": "Hi!"},
                "annotations": [
                    {
                        "completed_by": 3,
                        "result": [
                            {
                                "from_name": "x",
                                "to_name": "y",
                                "type": "choices",
                                "value": {"choices": ["greeting"]},
                            }
                        ],
                    },
                    {"completed_by": 4, "was_cancelled": True, "result": []},
                ],
            },
            "label",
            Item("12", "Hi!"),
            [("user 3", "greeting")],
        ),
        (
            {
                "data": {"text": "Hi!", "answer_1": "x", "answer_2": "y"},
                "annotations": [
                    {
                        "completed_by": {"email": "ana@example.org"},
                        "result": [{"type": "pairwise", "value": {"selected": "right"}}],
                    }
                ],
            },
            "compare",
            Item("in-1", "Hi!", ("x", "y")),
            [("ana@example.org", "second")],
        ),
        # An example of an instruction set: what the user said, or the answer to review.
        (
            {
                "id": "e",
                "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
            },
            "review",
            Item("e", "Why?", ("So.",), {"source": ""}),
            [],
        ),
        (
            {
                "id": "e",
                "messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
            },
            "label",
            Item("e", "Why?", (), {"source": ""}),
            [],
        ),
    ],
)
def test_what_other_tools_write(
    record: dict[str, Any], task: Task, item: Item, judgements: list[tuple[str, str]], tmp_path: Path
) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(json.dumps(record))
    imported = read_items(file, task)
    assert imported.items == (item,)
    assert [(one.annotator, one.value) for one in imported.judgements] == judgements


@pytest.mark.parametrize(
    ("text", "task", "says"),
    [
        ('{"answer": "x"}', "label", "record 1: no 'text'"),
        ('{"text": "x"}', "compare", "0 answers, where the task compare needs 2"),
        ('{"text": "x", "label": [[0, 1, "PER"]]}', "label", "labels of spans"),
        ('{"text": "x", "label": ["a", "b"]}', "label", "2 labels, where one is asked for"),
        ('{"text": "x", "id": 1}\n{"text": "y", "id": 1}', "label", "1 record with the id of another"),
        ("{", "label", "can't be read"),
        ("", "label", "nothing to label"),
    ],
)
def test_what_can_not_be_labelled_says_why(text: str, task: Task, says: str, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(text)
    with pytest.raises(DataError, match=says.replace("[", r"\[")):
        read_items(file, task)


def test_labels_become_an_artifact_once(tmp_path: Path) -> None:
    labels = LabelStore(tmp_path / "labels.db")
    labels.set_up(REVIEW)
    labels.add_items(ITEMS, SAID)
    store = Store("store", base=tmp_path, scratch=tmp_path)
    first = export_artifact(labels, store)
    assert first.manifest.kind == "labels"
    assert first.manifest.metrics["disagreed"] == 1
    assert {path.name for path in first.path.iterdir()} == {"labels.jsonl", "agreement.json", "manifest.json"}
    assert export_artifact(labels, store).manifest == first.manifest
    labels.judge([Judgement("c", "ana", "accept")])
    assert export_artifact(labels, store).manifest.fingerprint != first.manifest.fingerprint
    assert len(store.manifests()) == 2
