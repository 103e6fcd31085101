"""The perplexity block: which documents go, by hand-worked probabilities and by a reference's percentiles."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from platen.core.errors import DataError
from platen.core.progress import SilentProgress
from platen.data.filters.config import FiltersConfig
from platen.data.filters.files import filter_files
from platen.data.filters.reference import reference_model
from platen.data.readers.config import Source
from platen.models.classic.ngram import KneserNey
from platen.pipeline.housekeeping import collect, find_garbage
from platen.pipeline.runner import Pipeline
from platen.project.file import load_project
from tests.data.filters.conftest import RunBlocks

NOUNS = (
    "harbour",
    "boat",
    "town",
    "quay",
    "gull",
    "basket",
    "night",
    "crew",
    "house",
    "river",
    "stone",
    "field",
)
VERBS = ("sees", "finds", "leaves", "likes", "passes", "follows", "meets")


def prose(draw: random.Random, sentences: int = 12) -> str:
    """Sentences such as `The boat sees a town.`"""
    return " ".join(
        f"The {draw.choice(NOUNS)} {draw.choice(VERBS)} a {draw.choice(NOUNS)}." for _ in range(sentences)
    )


def write_reference(file: Path, count: int = 500) -> list[str]:
    draw = random.Random(1)
    texts = [prose(draw) for _ in range(count)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return texts


def test_a_saved_model_and_bounds(run_blocks: RunBlocks, tmp_path: Path) -> None:
    # Unigrams: a 4, b 2 and the ends of two sentences, 8 in all; each word's share is known by its count.
    model = KneserNey.fit([["a", "a", "b"], ["a", "a", "b"]], order=1)
    model.save(tmp_path / "model")
    a, b, end = (model.score(word) for word in ("a", "b", "</s>"))
    likely, unlikely = 1 / (a * a * end) ** (1 / 3), 1 / (b * b * end) ** (1 / 3)
    texts = {"likely": "a a", "unlikely": "B b", "empty": ""}
    assert 1 < likely < unlikely
    between = (likely + unlikely) / 2
    block = {"block": "perplexity", "model": "model", "max_perplexity": between}
    ran = run_blocks(texts, block)
    assert list(ran.texts) == ["likely", "empty"]
    count = ran.counts["perplexity"]
    assert count.reasons == {f"perplexity above {between:,.0f}": 1}
    assert sum(count.found.values()) == 2  # a document without a word has none
    assert [example.before for example in count.examples] == ["B b"]
    least = {"block": "perplexity", "model": "model", "min_perplexity": between}
    assert list(run_blocks(texts, least).texts) == ["unlikely", "empty"]


def test_a_text_of_unknown_words_is_not_a_likely_one(tmp_path: Path) -> None:
    known = [["the", "cat", "sat"]] * 4
    model = KneserNey.fit([*known, ["one"], ["two"], ["three"], ["four"]], order=2, min_count=2)
    assert model.perplexity(["zzz"]) < model.perplexity(["cat"])  # <unk> stands for four words
    assert model.text_perplexity([["zzz"]]) > model.text_perplexity([["the", "cat", "sat"]])
    seen = [["the", "cat"], ["sat", "the", "cat", "sat"]]
    bits = np.concatenate([model.log2_scores(sentence) for sentence in seen])
    assert model.text_perplexity(seen) == pytest.approx(2 ** -bits.mean())


def test_percentiles_of_the_reference(run_blocks: RunBlocks, tmp_path: Path) -> None:
    write_reference(tmp_path / "clean.jsonl")
    draw = random.Random(2)
    good = {f"good{n}": prose(draw) for n in range(100)}
    shuffled = {f"bad{n}": " ".join(draw.sample(words := prose(draw).split(), len(words))) for n in range(20)}
    block = {"block": "perplexity", "reference": {"path": "clean.jsonl"}, "max_percentile": 90}
    ran = run_blocks(good | shuffled, block)
    kept = sum(id in ran.texts for id in good)
    assert 80 <= kept <= 98  # nine in ten, give or take what a hundred draws and fifty held out do
    assert not set(ran.texts) & set(shuffled)
    both = run_blocks(good, block | {"min_percentile": 10})
    assert 70 <= len(both.texts) < kept
    assert set(both.texts) <= set(ran.texts)


def test_a_reference_is_counted_once(
    run_blocks: RunBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = write_reference(tmp_path / "clean.jsonl", 20)
    block = {"block": "perplexity", "reference": {"path": "*.jsonl"}, "max_perplexity": 1_000_000}
    left = tmp_path / ".platen" / "references" / ".killed.1"
    left.mkdir(parents=True)
    first = run_blocks({"a": texts[0]}, block)
    assert not left.exists()
    (tmp_path / "clean.jsonl").rename(tmp_path / "moved.jsonl")
    with monkeypatch.context() as patched:
        patched.setattr(KneserNey, "fit", None)
        assert (
            run_blocks({"a": texts[0]}, block).counts["perplexity"].found == first.counts["perplexity"].found
        )
        (tmp_path / "moved.jsonl").write_text('{"text": "Something else."}\n')
        with pytest.raises(TypeError):
            run_blocks({"a": texts[0]}, block)


def test_models_that_no_block_takes_are_garbage(tmp_path: Path) -> None:
    write_reference(tmp_path / "clean.jsonl", 20)
    (tmp_path / "platen.yaml").write_text(
        "name: tiny\ndata:\n  sources: [{path: clean.jsonl}]\n  filters:\n    blocks:\n"
        "      - {block: perplexity, reference: {path: clean.jsonl}, max_perplexity: 100}\n"
    )
    pipeline = Pipeline(load_project(tmp_path))
    assert find_garbage(pipeline).references == ()
    reference, progress = Source(path="clean.jsonl"), SilentProgress()
    old = reference_model(tmp_path, reference, held_out=False, progress=progress)
    write_reference(tmp_path / "clean.jsonl", 21)
    new = reference_model(tmp_path, reference, held_out=False, progress=progress)
    killed = new.with_name(".killed.1")
    killed.mkdir()
    garbage = find_garbage(pipeline)
    assert set(garbage.references) == {old, killed}
    assert garbage.size == sum(file.stat().st_size for file in old.iterdir())
    collect(pipeline, garbage)
    assert list(new.parent.iterdir()) == [new]
    (tmp_path / "clean.jsonl").write_text("no JSON\n")
    assert find_garbage(pipeline).references == (), "what can't be read may be mended"
    (tmp_path / "platen.yaml").write_text("name: tiny\ndata: {sources: [{path: clean.jsonl}]}\n")
    assert find_garbage(Pipeline(load_project(tmp_path))).references == (new,)


def test_workers_map_the_model(
    run_blocks: RunBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platen.data.filters.shards.SHARD_CHARACTERS", 10_000)
    write_reference(tmp_path / "clean.jsonl")
    draw = random.Random(4)
    texts = {f"{n}": prose(draw) for n in range(60)}
    block = {"block": "perplexity", "reference": {"path": "clean.jsonl"}, "max_percentile": 50}
    one, two = run_blocks(texts, block), run_blocks(texts, block, workers=2)
    assert 0 < len(one.texts) < 60
    assert one.texts == two.texts
    one.counts["perplexity"].seconds = two.counts["perplexity"].seconds
    assert one.counts == two.counts


def test_what_can_not_work_is_refused(run_blocks: RunBlocks, tmp_path: Path) -> None:
    def refused(kind: type[Exception], match: str, **settings: object) -> None:
        with pytest.raises(kind, match=match):
            run_blocks({"a": "b"}, {"block": "perplexity", **settings})

    refused(ValidationError, "either a model or a reference", max_perplexity=9)
    refused(ValidationError, "no bound is given", model="m")
    refused(ValidationError, "give a reference, not a model", model="m", max_percentile=9)
    refused(ValidationError, "no document is between 9 and 9", model="m", max_perplexity=9, min_perplexity=9)
    reference = {"path": "clean.jsonl"}
    refused(
        ValidationError, "either max_perplexity or max_percentile",
        reference=reference, max_perplexity=9, max_percentile=9,
    )  # fmt: skip
    refused(DataError, "holds no n-gram model", model="gone", max_perplexity=9)
    refused(
        DataError, "reference of a perplexity block: .*does not exist", reference=reference, max_perplexity=9
    )
    write_reference(tmp_path / "clean.jsonl", 30)
    refused(DataError, "held out, too few for a percentile", reference=reference, max_percentile=9)
    (tmp_path / "clean.jsonl").write_text('{"text": " "}\n')
    refused(DataError, "without a word", reference=reference, max_perplexity=9)


def test_what_the_blocks_read_makes_the_stage_stale(tmp_path: Path) -> None:
    write_reference(tmp_path / "clean.jsonl", 1)
    KneserNey.fit([["a"]], order=1).save(tmp_path / "model")
    blocks = [
        {"block": "perplexity", "reference": {"path": "clean.jsonl"}, "max_perplexity": 9},
        {"block": "perplexity", "model": "model", "max_perplexity": 9},
        {"block": "contamination", "against": ["clean.jsonl", "gone.jsonl"]},
    ]
    files = filter_files(FiltersConfig.model_validate({"blocks": blocks}), tmp_path)
    names = [Path(file).relative_to(tmp_path).as_posix() for file in files]
    assert names[0] == names[-1] == "clean.jsonl"
    assert "model/ngram.json" in names
    shutil.rmtree(tmp_path / "model")
    assert len(filter_files(FiltersConfig.model_validate({"blocks": blocks}), tmp_path)) == 2
