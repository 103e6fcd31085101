"""Bag of words, the Markov chain and naive Bayes: by hand, and against scikit-learn."""

import itertools

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.naive_bayes import MultinomialNB

from platen.core.errors import BundleError, DataError
from platen.models.classic.markov import MarkovChain
from platen.models.classic.naive_bayes import NaiveBayes
from platen.models.classic.words import bag_of_words, words
from tests.conftest import TEXT

TEXTS = [
    "the service is down again, please help",
    "error 500 when I log in, please help",
    "thanks, this works great",
    "great job, thanks a lot",
    "I can't log in: error",
    "works again, thanks",
]
LABELS = ["problem", "problem", "thanks", "thanks", "problem", "thanks"]
UNSEEN = ["login error again", "a great service", "help help help", "zebra", "", "thanks but it is down"]


def test_a_bag_of_words_counts():
    bag = bag_of_words(words("What is what? Words, words!"))
    assert bag == {"what": 2, "is": 1, "words": 2, "?": 1, ",": 1, "!": 1}


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_walk_goes_only_where_the_text_went(order):
    tokens = words(TEXT)
    chain = MarkovChain.fit(tokens, order=order)
    grams = {tuple(tokens[i : i + order + 1]) for i in range(len(tokens) - order)}
    for seed in range(10):
        walked = chain.walk(30, seed=seed)
        assert walked[:order] == tokens[:order]
        assert {tuple(walked[i : i + order + 1]) for i in range(len(walked) - order)} <= grams


def test_a_walk_follows_seed_start_and_frequency():
    chain = MarkovChain.fit(words("a b a b a c"), order=1)
    assert chain.successors == {("a",): ["b", "b", "c"], ("b",): ["a", "a"]}
    assert chain.walk(20, seed=3) == chain.walk(20, seed=3)
    assert len({tuple(chain.walk(20, seed=seed)) for seed in range(9)}) > 1
    assert chain.walk(9, start=["x", "c"]) == ["x", "c"]  # a dead end
    assert MarkovChain.fit(words("a b a b"), order=1).walk(5) == ["a", "b", "a", "b", "a"]
    with pytest.raises(DataError, match="more than 2 words"):
        MarkovChain.fit(["a", "b"], order=2)


@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_naive_bayes_is_scikit_learns(alpha):
    model = NaiveBayes.fit(TEXTS, LABELS, alpha=alpha)
    counter = CountVectorizer(analyzer=words)
    reference = MultinomialNB(alpha=alpha).fit(counter.fit_transform(TEXTS), LABELS)
    assert list(model.labels) == list(reference.classes_)
    expected = reference.predict_proba(counter.transform(UNSEEN))
    np.testing.assert_allclose(model.probabilities(UNSEEN), expected, rtol=1e-9)
    assert model.predict(UNSEEN) == list(reference.predict(counter.transform(UNSEEN)))


def test_naive_bayes_by_hand():
    # Two words; x twice and y once under A, y twice under B: (2+1)/(3+2) against (0+1)/(2+2).
    model = NaiveBayes.fit(["x x y", "y y"], ["A", "B"])
    assert model.probabilities(["x"])[0, 0] == pytest.approx((3 / 5) / (3 / 5 + 1 / 4))
    assert model.probabilities(["zebra"])[0].tolist() == pytest.approx([0.5, 0.5])


def test_one_label_is_refused_and_saved_it_opens(tmp_path):
    with pytest.raises(DataError, match="one label 'A'"):
        NaiveBayes.fit(["x"], ["A"])
    model = NaiveBayes.fit(TEXTS, LABELS)
    model.save(tmp_path)
    opened = NaiveBayes.load(tmp_path)
    assert opened.probabilities(UNSEEN).tolist() == model.probabilities(UNSEEN).tolist()
    for name, damage in itertools.product(["classifier.json", "model.safetensors"], [b"", b"{}"]):
        (tmp_path / name).write_bytes(damage)
        with pytest.raises(BundleError, match="no naive Bayes"):
            NaiveBayes.load(tmp_path)
        model.save(tmp_path)
