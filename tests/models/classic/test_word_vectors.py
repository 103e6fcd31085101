"""Word vectors on planted structure, their loss by hand, and the two kinds of drift."""

import random

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from platen.core.errors import BundleError, DataError
from platen.models.classic.drift import corpus_distance, frechet_distance, word_drift
from platen.models.classic.word_vectors import NegativeSampling, VectorOptions, WordVectors, train_vectors

PEOPLE = {
    "king": ("he", "royal"),
    "queen": ("she", "royal"),
    "man": ("he", "common"),
    "woman": ("she", "common"),
}
COMPANY = {
    "he": ("his", "beard", "himself", "sir"),
    "she": ("her", "dress", "herself", "lady"),
    "royal": ("crown", "throne", "palace", "reign"),
    "common": ("bread", "street", "work", "market"),
    "animal": ("fur", "tail", "paw", "barks"),
}
SMALL = {"size": 16, "window": 4, "epochs": 7, "subsample": 1.0, "batch": 256, "learning_rate": 0.03}


def planted(count=1000, seed=0, people=PEOPLE):
    """Sentences of a person and words of the two worlds it belongs to; and of dogs and theirs."""
    chance = random.Random(seed)
    cast = people | {"dog": ("animal", "animal"), "cat": ("animal", "animal")}
    for _ in range(count):
        name = chance.choice(list(cast))
        company = [chance.choice(COMPANY[world]) for world in cast[name] for _ in range(2)]
        yield chance.sample([name, *company], 5)


@pytest.fixture(scope="module", params=["skipgram", "cbow"])
def vectors(request):
    return train_vectors(list(planted()), VectorOptions(kind=request.param, **SMALL))


def test_words_of_a_world_become_neighbours(vectors):
    assert vectors.nearest("dog", 1)[0][0] == "cat" or "cat" in dict(vectors.nearest("dog", 5))
    near = dict(vectors.nearest("crown", 4))
    assert len(near.keys() & {"throne", "palace", "reign", "king", "queen"}) >= 3
    assert "crown" not in near


def test_man_is_to_woman_as_king_to_queen(vectors):
    assert vectors.analogy("man", "woman", "king")[0][0] == "queen"
    assert vectors.analogy("king", "man", "queen")[0][0] == "woman"


def test_the_loss_by_hand():
    model = NegativeSampling(6, 2)
    with torch.no_grad():
        model.inputs.weight[3:] = torch.tensor([[1.0, 0], [0, 2], [3, 3]])
        model.outputs.weight[3:] = torch.tensor([[1.0, 1], [2, 0], [0, -1]])
    # h = ((1, 0) + (0, 2)) / 2 = (0.5, 1); true word 4: 1; false words 3 and 5: 1.5 and -1.
    loss = model(torch.tensor([[3, -1, 4]]), torch.tensor([4]), torch.tensor([[3, 5]]))
    expected = np.log1p(np.exp(-1)) + np.log1p(np.exp(1.5)) + np.log1p(np.exp(-1))
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_the_same_seed_gives_the_same_vectors_and_they_are_kept(tmp_path):
    options = VectorOptions(**SMALL | {"epochs": 1})
    one, two = (train_vectors(list(planted(200)), options) for _ in range(2))
    assert one.vectors.tolist() == two.vectors.tolist()
    one.save(tmp_path)
    opened = WordVectors.load(tmp_path)
    assert opened.nearest("king") == one.nearest("king")
    with pytest.raises(KeyError):
        opened["zebra"]
    assert opened.text_vector(["zebra"]).tolist() == [0.0] * 16
    np.testing.assert_allclose(opened.text_vector(["king", "man"]), (one["king"] + one["man"]) / 2)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(BundleError, match="no word vectors"):
        WordVectors.load(tmp_path)
    with pytest.raises(DataError, match="two words"):
        train_vectors([["a"]], options)


def test_the_word_that_changed_its_company_drifts_most():
    options = VectorOptions(**SMALL)
    changed = PEOPLE | {"king": ("animal", "animal")}
    old = train_vectors(list(planted(seed=1)), options)
    same = word_drift(old, train_vectors(list(planted(seed=2)), options))
    other = word_drift(old, train_vectors(list(planted(seed=2, people=changed)), options))
    assert other.words[0][0] == "king"
    assert other.words[0][1] > 2 * dict(same.words)["king"]
    assert word_drift(old, old).distance == pytest.approx(0, abs=1e-5)


def test_turned_vectors_have_not_drifted():
    generator = np.random.default_rng(0)
    old = train_vectors(list(planted(200)), VectorOptions(**SMALL | {"epochs": 1}))
    turn = np.linalg.qr(generator.normal(size=(16, 16)))[0].astype(np.float32)
    assert word_drift(old, WordVectors(old.vocabulary, old.vectors @ turn)).distance < 1e-5


def test_a_corpus_about_other_things_is_farther(vectors):
    one, two = list(planted(300, seed=5)), list(planted(300, seed=6))
    dogs = [text for text in planted(1500, seed=7) if "dog" in text or "cat" in text]
    assert corpus_distance(vectors, one, one) < 1e-6
    assert corpus_distance(vectors, one, dogs) > 10 * corpus_distance(vectors, one, two)
    with pytest.raises(DataError, match="two texts"):
        corpus_distance(vectors, one, one[:1])


def test_frechet_distance_is_its_formula():
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(50, 4)), generator.normal(size=(60, 4)) * 2 + 1
    s, t = np.cov(a.T), np.cov(b.T)
    apart = np.sum((a.mean(0) - b.mean(0)) ** 2)
    assert frechet_distance(a, b) == pytest.approx(apart + np.trace(s + t - 2 * sqrtm(s @ t).real))
