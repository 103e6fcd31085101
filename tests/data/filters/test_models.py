"""Blocks that ask a model: names of people by one that labels words, toxicity by a classifier."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from platen.core.errors import BundleError, ConfigError, PlatenError
from platen.models.classic.naive_bayes import NaiveBayes
from platen.models.classic.text_classifier import ClassifierOptions, train_classifier
from tests.data.filters.conftest import RunBlocks
from tests.data.filters.hub_models import save_judge, save_tagger

LABELS = ("O", "B-PER", "I-PER", "B-LOC")
PIECES = {
    "jane": "B-PER", "doe": "I-PER", "smith": "I-PER", "ma": "B-PER", "##rek": "O", "paris": "B-LOC",
    "emile": "B-PER", "met": "O", "in": "O", "of": "O",
}  # fmt: skip


@pytest.fixture
def tagger(tmp_path: Path) -> Path:
    return save_tagger(tmp_path / "ner", PIECES, LABELS, positions=16)


@pytest.mark.usefixtures("tagger")
def test_names_are_masked_hashed_or_their_documents_dropped(run_blocks: RunBlocks) -> None:
    texts = {
        "a": "Jane Doe met (Marek) in Paris, of jane.doe@example.org.",
        "b": "Jane Jane Smith",
        "c": "met in Paris",
        "d": "Doe’s of Jane…",
    }
    block = {"block": "pii", "names": "ner"}
    masked = run_blocks(texts, block)
    assert masked.texts == {
        "a": "[NAME] met ([NAME]) in Paris, of [EMAIL].",  # Marek is one word, its first piece decides
        "b": "[NAME] [NAME]",
        "c": "met in Paris",
        "d": "[NAME]’s of [NAME]…",  # as IOB1 writes it, a name may begin with I
    }
    assert masked.counts["pii"].found == {"email": 1, "name": 6}
    assert "Jane" not in str(masked.counts["pii"].examples)
    assert list(run_blocks(texts, block | {"action": "drop"}).texts) == ["c"]
    hashed = run_blocks({"a": "Jane Doe in Paris of Jane Doe, Smith"}, block | {"mask": "hash", "kinds": []})
    first, second, other = (
        word.rstrip(",") for word in hashed.texts["a"].split() if word.startswith("[NAME:")
    )
    assert first == second != other


@pytest.mark.usefixtures("tagger")
def test_names_in_long_texts_have_their_places(run_blocks: RunBlocks) -> None:
    draw = random.Random(3)
    for length in (13, 14, 15, 27, 200):  # 14 words are a window of 16 tokens
        parts = [
            draw.choice(["Jane Doe", "met", "Paris", "of", "🙂 Émile Smith", "MAREK"]) for _ in range(length)
        ]
        text = " - ".join(parts)
        expected = text
        for name in ("Jane Doe", "Émile Smith", "MAREK"):
            expected = expected.replace(name, "[NAME]")
        assert run_blocks({"a": text}, {"block": "pii", "names": "ner"}).texts["a"] == expected


def test_examples_of_other_blocks_hide_names(run_blocks: RunBlocks, tagger: Path) -> None:
    ran = run_blocks(
        {"a": "Jane met &amp;"},
        {"block": "encoding", "unescape_html": True},
        {"block": "pii", "names": "ner"},
    )
    assert ran.texts == {"a": "[NAME] met &"}
    assert ran.counts["encoding"].examples[0].after == "████ met &"


@pytest.mark.parametrize(
    ("labels", "text"), [(("O", "PERSON"), "[NAME] met"), (("O", "S-PER"), "[NAME] [NAME] met")]
)
def test_other_ways_to_label_people(
    run_blocks: RunBlocks, tmp_path: Path, labels: tuple[str, str], text: str
) -> None:
    save_tagger(tmp_path / "ner", {"jane": labels[1], "doe": labels[1], "met": "O"}, labels)
    assert run_blocks({"a": "Jane Doe met"}, {"block": "pii", "names": "ner"}).texts["a"] == text


def test_a_model_that_finds_no_names_is_refused(run_blocks: RunBlocks, tmp_path: Path) -> None:
    def refused(folder: Path, match: str) -> None:
        with pytest.raises(BundleError, match=match):
            run_blocks({"a": "b"}, {"block": "pii", "names": folder.name})

    refused(tmp_path / "gone", r"gone has no config\.json")
    refused(save_tagger(tmp_path / "places", {"paris": "B-LOC"}, ("O", "B-LOC")), "its labels are O, B-LOC")
    refused(save_judge(tmp_path / "judge", ["vile"]), "BertForSequenceClassification, not one for TokenC")
    broken = save_tagger(tmp_path / "broken", PIECES, LABELS)
    tensors = load_file(broken / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if "classifier" not in k}, broken / "model.safetensors")
    refused(broken, r"no weights for classifier\.bias, classifier\.weight")
    pickled = save_tagger(tmp_path / "pickled", PIECES, LABELS)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    refused(pickled, "transformers can't open")
    (save_tagger(tmp_path / "mute", PIECES, LABELS) / "tokenizer.json").unlink()
    refused(tmp_path / "mute", r"has no tokenizer\.json")
    with pytest.raises(ValidationError, match="nothing is looked for without names"):
        run_blocks({"a": "b"}, {"block": "pii", "kinds": []})


FINE = "The boats of the old harbour have been out all night. "
BLOCK = {"block": "toxicity", "classifier": "judge", "label": "toxic"}


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_classifier_of_transformers(run_blocks: RunBlocks, tmp_path: Path, sigmoid: bool) -> None:
    save_judge(tmp_path / "judge", ["vile"], sigmoid=sigmoid)
    texts = {
        "fine": FINE,
        "vile": "A VILE boat.",
        "long": FINE * 40 + "vile " + FINE * 40,
        "": "",
        "wide": "日" * 900,
    }
    texts |= {f"more{n}": FINE for n in range(40)}  # more than are looked at together
    texts["wide and vile"] = "日" * 700 + " vile"
    ran = run_blocks(texts, BLOCK)
    assert set(texts) - set(ran.texts) == {"vile", "long", "wide and vile"}
    count = ran.counts["toxicity"]
    assert count.reasons == {"toxic by the classifier": 3}
    assert count.found == {"toxic 0.9–1.0": 3, "toxic 0.0–0.1": len(texts) - 3}
    shown = [example.before for example in count.examples]
    assert shown[0] == "A VILE boat."
    assert shown[1].startswith("…"), "the passage that it was dropped for"


def test_a_classifier_beside_the_list(run_blocks: RunBlocks, tmp_path: Path) -> None:
    save_judge(tmp_path / "judge", ["vile"])
    (tmp_path / "words.txt").write_text("blorp\n")
    ran = run_blocks({"a": "Blorp.", "b": "vile", "c": "fine"}, BLOCK | {"words": "words.txt"})
    assert list(ran.texts) == ["c"]
    assert ran.counts["toxicity"].reasons == {"words of the list": 1, "toxic by the classifier": 1}


def test_classifiers_of_ours(run_blocks: RunBlocks, tmp_path: Path) -> None:
    toxic = ["you vile worm", "vile rotten fool", "a rotten worm you are"]
    texts = [*toxic, "the boat came home", "gulls on the quay", "the harbour at night"] * 4
    labels = (["toxic"] * 3 + ["fine"] * 3) * 4
    bayes = NaiveBayes.fit(texts, labels)
    bayes.save(tmp_path / "judge")
    asked = {"a": "you rotten fool", "b": "a boat on the quay", "c": FINE * 30 + "vile rotten worm " * 60}
    assert list(run_blocks(asked, BLOCK).texts) == ["b"]
    score = float(bayes.probabilities([asked["a"]])[0, 1])
    just = {"a": asked["a"]}
    assert not run_blocks(just, BLOCK | {"threshold": score}).texts
    assert run_blocks(just, BLOCK | {"threshold": score + 1e-9}).texts
    options = ClassifierOptions(
        kind="mlp", size=8, hidden=8, epochs=40, patience=40, batch=4, learning_rate=0.03
    )
    train_classifier(texts, labels, options).save(tmp_path / "network")
    assert list(run_blocks(asked, BLOCK | {"classifier": "network"}).texts) == ["b"]


def test_a_classifier_that_can_not_judge_is_refused(run_blocks: RunBlocks, tmp_path: Path) -> None:
    def refused(kind: type[Exception], match: str, **settings: object) -> None:
        with pytest.raises(kind, match=match):
            run_blocks({"a": "b"}, {"block": "toxicity", **settings})

    refused(ValidationError, "nothing to look for: give words, or a classifier")
    refused(ValidationError, "classifier and label go together", classifier="judge")
    refused(ValidationError, "classifier and label go together", words="words.txt", label="toxic")
    refused(BundleError, "gone holds no text classifier", classifier="gone", label="toxic")
    save_judge(tmp_path / "judge", ["vile"])
    refused(ConfigError, r"no label hate\n.*Its labels are fine, toxic\.", classifier="judge", label="hate")
    save_tagger(tmp_path / "ner", PIECES, LABELS)
    refused(BundleError, "not one for SequenceClassification", classifier="ner", label="toxic")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "classifier.json").write_text(json.dumps({"kind": "lstm"}))
    refused(PlatenError, "holds no trained classifier", classifier="other", label="toxic")


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local", "ray"])
def test_workers_open_the_models(
    run_blocks: RunBlocks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executor: str
) -> None:
    if executor == "ray":
        pytest.importorskip("ray")
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("platen.data.filters.shards.SHARD_CHARACTERS", 500)
    save_tagger(tmp_path / "ner", PIECES, LABELS)
    save_judge(tmp_path / "judge", ["vile"])
    texts = {f"{n}": f"{FINE * 5} {n} Jane" + " vile" * (n % 3 == 0) for n in range(9)}
    blocks = ({"block": "pii", "names": "ner"}, BLOCK)
    one, two = run_blocks(texts, *blocks), run_blocks(texts, *blocks, workers=2, executor=executor)
    assert one.texts == two.texts
    assert len(one.texts) == 6
    assert all(text.endswith("[NAME]") for text in one.texts.values())
