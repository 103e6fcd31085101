"""The stage: documents and pairs in, one account of everything out, and nothing in two splits."""

from __future__ import annotations

import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from platen.core.artifacts import Artifact, Manifest
from platen.core.errors import DataError
from platen.core.stage import StageContext, StageResult
from platen.data.instruct.config import ActsConfig, InstructConfig, PairSource
from platen.data.instruct.make import make_instructions
from platen.data.instruct.versions import difference
from platen.pipeline.runner import Pipeline
from platen.project.file import load_project
from tests.pipeline.conftest import PLATEN_YAML, write_project

THREAD = [
    {"speaker": "ana", "text": "Where is the form?", "ts": "1"},
    {"speaker": "ben", "text": "I'll send it.", "ts": "2"},
]
DOCUMENTS: dict[str, list[dict[str, Any]]] = {
    "train": [
        {"id": "t1", "text": "…", "metadata": {"conversation": THREAD}},
        {"id": "t2", "text": "…", "metadata": {"conversation": THREAD[:1]}},
        {"id": "faq", "text": "Q: Who?\nA: Me, of course."},
        {"id": "broken", "text": "…", "metadata": {"conversation": "hello"}},
    ],
    "validation": [{"id": "doc", "text": "# Guide\n\nRead this before you begin.\n"}],
    "test": [],
}


def manifest_of(name: str) -> Manifest:
    made = datetime(2026, 1, 1, tzinfo=UTC)
    return Manifest(
        name=name, kind=name, fingerprint="0" * 16, code_version=1, config={}, created_at=made, duration_s=0
    )


def make(folder: Path, config: InstructConfig, name: str = "out") -> tuple[Path, StageResult]:
    """Run the stage on the documents above and the files of `folder`."""
    data = folder / "data"
    data.mkdir(exist_ok=True)
    for split, records in DOCUMENTS.items():
        (data / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    out = folder / name
    out.mkdir()
    inputs = {"data": Artifact(data, manifest_of("data"))}
    return out, make_instructions(StageContext("instruct", "0" * 16, config, inputs, out, folder, seed=1))


def examples(out: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{split}.jsonl").open(encoding="utf-8")]


BUILD = InstructConfig(build=("conversations", "faqs", "documents"))


def test_pairs_stay_in_their_documents_split_and_everything_is_accounted_for(tmp_path: Path) -> None:
    out, result = make(tmp_path, BUILD.model_copy(update={"system": "Be brief."}))
    first, second = examples(out, "train")
    assert first["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Where is the form?"},
        {"role": "assistant", "content": "I'll send it."},
    ]
    assert first["acts"] == ["directive", "question", "commissive"]
    assert (first["source"], first["shape"]) == ("t1", "conversations")
    assert second["shape"] == "faqs"
    assert [one["source"] for one in examples(out, "validation")] == ["doc"]
    report = json.loads((out / "report.json").read_text())
    assert report["left_out"] == {"nobody answered": 1}
    assert json.loads((out / "quarantine.jsonl").read_text())["place"] == "broken"
    assert report["balance"]["summary"].startswith("no expressives, no commissives")
    assert result.notes["dataset_version"] == report["version"]
    assert result.metrics["quarantined"] == 1
    assert "no expressives" in (out / "report.html").read_text()
    card = (out / "README.md").read_text()
    assert card.startswith("---\npretty_name: ")
    assert "- split: train\n    path: train.jsonl" in card
    assert "split: test" not in card  # an empty split is no configuration


def test_the_page_fits_a_phone(tmp_path: Path) -> None:
    from tests.browser import chromium

    out, _ = make(tmp_path, BUILD)
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.goto(f"file://{out / 'report.html'}")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        row = page.locator(".acts tr", has_text="verdictive")
        assert row.evaluate("row => row.scrollWidth <= row.clientWidth")
        assert row.get_by_text("ranking, assessment").is_visible()


def pairs(folder: Path, count: int) -> InstructConfig:
    """A source of so many pairs, every tenth with the prompt of the one before."""
    lines = [
        {"instruction": f"Say {n - (n % 10 == 9)}.", "input": "", "output": f"It is {n}."}
        for n in range(count)
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return InstructConfig(
        sources=(PairSource(path="pairs.jsonl"),), acts=ActsConfig(by="nothing"), validation=0.2, test=0.1
    )


def test_prompts_are_in_one_split_and_stay_there_when_pairs_are_added(tmp_path: Path) -> None:
    places: list[dict[str, str]] = []
    for name, count in (("small", 200), ("large", 400)):
        out, _ = make(tmp_path, pairs(tmp_path, count), name)
        found = {
            (split, one["messages"][0]["content"])
            for split in ("train", "validation", "test")
            for one in examples(out, split)
        }
        assert len(found) == len({prompt for _, prompt in found})
        places.append({prompt: split for split, prompt in found})
    small, large = places
    assert large.items() >= small.items()
    assert list(large.values()).count("validation") == pytest.approx(0.2 * len(large), abs=25)


def test_a_held_out_prompt_is_not_trained_on(tmp_path: Path) -> None:
    """The thread in training and a finished pair of the same prompt, which goes to validation."""
    (tmp_path / "pairs.json").write_text(
        json.dumps([{"prompt": "Where is the form?", "completion": "Here."}])
    )
    config = InstructConfig(
        sources=(PairSource(path="pairs.json"),), build=("conversations", "faqs"), validation=0.999
    )
    out, _ = make(tmp_path, config)
    assert [one["messages"][0]["content"] for one in examples(out, "train")] == ["Who?"]
    assert json.loads((out / "report.json").read_text())["left_out"]["its prompt is in validation"] == 1


def test_versions_and_what_changed_between_them(tmp_path: Path) -> None:
    before, first = make(tmp_path, pairs(tmp_path, 40), "before")
    same, second = make(tmp_path, pairs(tmp_path, 40), "same")
    assert first.notes == second.notes
    assert difference(before, same).changed == ()
    lines = (tmp_path / "pairs.jsonl").read_text().splitlines()
    lines[3] = lines[3].replace("It is 3.", "Three.")
    del lines[5]
    lines.append(json.dumps({"instruction": "Say more.", "output": "More."}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    config = InstructConfig(
        sources=(PairSource(path="pairs.jsonl"),), acts=ActsConfig(by="nothing"), validation=0.2, test=0.1
    )
    after, _ = make(tmp_path, config, "after")
    found = difference(before, after)
    assert [one.messages[0].text for one in found.added] == ["Say more."]
    assert [one.messages[0].text for one in found.removed] == ["Say 5."]
    assert [(one.what, one.before, one.after) for one in found.changed] == [
        (("answer",), "It is 3.", "Three.")
    ]
    assert found.same == 38


def test_acts_by_a_classifier_of_ones_own_labels(tmp_path: Path) -> None:
    labels = [{"text": f"Where is form {n}?", "label": "question"} for n in range(10)]
    labels += [{"text": f"It is in room {n}.", "label": "representative"} for n in range(10)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(one) + "\n" for one in labels))
    acts = ActsConfig(by="classifier", labels="labels.jsonl")
    out, _ = make(tmp_path, BUILD.model_copy(update={"acts": acts}))
    assert (out / "classifier" / "weights.safetensors").is_file()
    assert examples(out, "train")[0]["acts"] == ["question", "commissive"]  # the second by the rules
    assert "a classifier of 20 labelled examples" in (out / "README.md").read_text()


def test_acts_by_a_language_model(tmp_path: Path, tiny_bundle: Path) -> None:
    acts = ActsConfig(by="llm", bundle=str(tiny_bundle))
    out, _ = make(tmp_path, BUILD.model_copy(update={"acts": acts}))
    assert all(len(one["acts"]) == len(one["messages"]) for one in examples(out, "train"))


def test_broken_records_are_kept_with_their_reason(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text(
        '{"prompt": "a", "completion": "b"}\n{oops\n{"x": 1}\n\xff\n', "latin-1"
    )
    config = InstructConfig(sources=(PairSource(path="pairs.jsonl"),), validation=0)
    out, _ = make(tmp_path, config)
    kept = [json.loads(line) for line in (out / "quarantine.jsonl").open()]
    assert [(one["place"], one["reason"].partition(":")[0]) for one in kept] == [
        ("pairs.jsonl:2", "not JSON"),
        ("pairs.jsonl:3", "no known shape"),
        ("pairs.jsonl:4", "not JSON"),
    ]


def test_an_empty_set_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="the instruction set is empty: 1 record could not be read"):
        make(tmp_path, InstructConfig(sources=(PairSource(path="pairs.jsonl"),)))


def test_the_stage_is_there_when_the_project_file_has_it(tmp_path: Path) -> None:
    plain = Pipeline(load_project(write_project(tmp_path / "plain")))
    assert "instruct" not in [one.stage.name for one in plain.plan()]
    project = write_project(tmp_path / "set", PLATEN_YAML + "instruct:\n  build: [documents]\n")
    (stage,) = [
        one.stage for one in Pipeline(load_project(project)).plan() if one.stage.kind == "instructions"
    ]
    assert (stage.name, stage.inputs) == ("instruct", {"data": "data"})


@pytest.mark.slow
def test_a_run_makes_the_set_from_the_projects_documents(tmp_path: Path) -> None:
    project = write_project(tmp_path / "set", PLATEN_YAML + "instruct:\n  build: [documents]\n")
    text = "# Verse\n\n" + "The king shall ride to war. " * 5
    for number in range(4):
        (project / "corpus" / f"{number}.txt").write_text(f"{text}\n\n## Part {number}\n\n{text[9:]}\n")
    pipeline = Pipeline(load_project(project))
    report = pipeline.run(("instruct",))
    assert report.made
    assert not report.errors
    (manifest,) = [one for one in pipeline.store.manifests() if one.name == "instruct"]
    assert manifest.kind == "instructions"
    assert manifest.metrics["train_examples"] >= 5


def test_the_help_desks_export_becomes_an_instruction_set(tmp_path: Path) -> None:
    """The example's own stages, one after the other, without the orchestrator: over 2,000 messages."""
    example = Path(__file__).parents[3] / "examples" / "helpdesk"
    project = Path(shutil.copytree(example, tmp_path / "helpdesk", ignore=shutil.ignore_patterns(".platen")))
    pipeline = Pipeline(load_project(project))
    inputs: dict[str, Artifact] = {}
    for planned in pipeline.plan(("instruct",)):
        out = tmp_path / planned.stage.name
        out.mkdir()
        stage = planned.stage
        stage.spec.call(
            StageContext(stage.name, planned.fingerprint, stage.config, inputs, out, project, seed=1)
        )
        inputs[stage.name] = Artifact(out, manifest_of(stage.name))
    data, made = inputs["data"].path, inputs["instruct"].path
    read = [json.loads(line) for name in ("train", "validation") for line in (data / f"{name}.jsonl").open()]
    assert sum(len(one["metadata"]["conversation"]) for one in read) >= 2000
    for one in read:  # whoever answers speaks of the error that was asked about
        assert len(set(re.findall(r"error (\d+)", one["text"]))) <= 1, one["text"]
    places = {one["source"]: split for split in ("train", "validation") for one in examples(made, split)}
    for split in ("train", "validation"):
        documents = {json.loads(line)["id"] for line in (data / f"{split}.jsonl").open()}
        assert {source for source, place in places.items() if place == split} <= documents
    report = json.loads((made / "report.json").read_text())
    assert sum(report["splits"].values()) + sum(report["left_out"].values()) == len(read)
    assert report["balance"]["user"]["question"] > 0
    assert (made / "report.html").is_file()
