"""Trained classifiers: they learn what order alone tells, padding changes nothing, and they are kept."""

import random

import pytest

from platen.core.errors import BundleError, DataError
from platen.models.classic.text_classifier import ClassifierOptions, TextClassifier, train_classifier

SMALL = {"size": 16, "hidden": 16, "layers": 1, "dropout": 0.0, "epochs": 8, "learning_rate": 0.02}


def ordered(count, seed):
    """The same words under both labels; only which of two comes first tells them apart."""
    chance = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        fill = [chance.choice("abcdefgh") for _ in range(chance.randint(0, 6))]
        first = chance.random() < 0.5
        pair = ["red", "blue"] if first else ["blue", "red"]
        texts.append(" ".join([*fill[:2], *pair, *fill[2:]]))
        labels.append("red first" if first else "blue first")
    return texts, labels


def accuracy(model, texts, labels):
    return sum(a == b for a, b in zip(model.predict(texts), labels, strict=True)) / len(texts)


@pytest.fixture(scope="module")
def lstm():
    return train_classifier(*ordered(300, 1), ClassifierOptions(kind="lstm", **SMALL))


def test_an_lstm_learns_order_which_a_bag_of_words_cannot(lstm):
    held_out = ordered(200, 2)
    bag = train_classifier(*ordered(300, 1), ClassifierOptions(kind="mlp", **SMALL))
    assert accuracy(lstm, *held_out) > 0.95
    assert accuracy(bag, *held_out) < 0.65


def test_an_rnn_beats_the_majority():
    texts, labels = ordered(200, 3)
    words = ["thanks" if label == "red first" else "help" for label in labels]
    texts = [f"{text} {word}" for text, word in zip(texts, words, strict=True)]
    model = train_classifier(texts, labels, ClassifierOptions(kind="rnn", **SMALL | {"epochs": 3}))
    assert accuracy(model, texts, labels) > 0.95


def test_the_texts_beside_it_do_not_change_a_texts_probabilities(lstm):
    texts = ["red blue", "a blue red b c d e f", "", "a " * 40 + "red blue"]
    together = lstm.probabilities(texts)
    assert together.sum(axis=1) == pytest.approx(1)
    for text, row in zip(texts, together, strict=True):
        assert lstm.probabilities([text])[0] == pytest.approx(row, abs=1e-6)


def test_the_same_seed_gives_the_same_and_it_is_kept(lstm, tmp_path):
    texts = ["red blue", "blue a red"]
    again = train_classifier(*ordered(300, 1), lstm.options)
    assert again.probabilities(texts).tolist() == lstm.probabilities(texts).tolist()
    lstm.save(tmp_path)
    assert TextClassifier.load(tmp_path).probabilities(texts).tolist() == lstm.probabilities(texts).tolist()
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="no trained classifier"):
        TextClassifier.load(tmp_path)


def test_too_little_to_learn_from_is_refused():
    with pytest.raises(DataError, match="20 texts of 1 labels"):
        train_classifier(["a"] * 20, ["x"] * 20, ClassifierOptions())
