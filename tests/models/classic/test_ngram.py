"""N-gram models against nltk's on the same counts, a plain back-off written out, and values by hand."""

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from nltk.lm import MLE as NltkMLE
from nltk.lm import KneserNeyInterpolated, Vocabulary
from nltk.lm import Laplace as NltkLaplace
from typer.testing import CliRunner

from platen.cli.main import app
from platen.core.errors import ConfigError, DataError
from platen.models.classic.ngram import SMOOTHINGS, BackOff, KneserNey, Laplace, MaximumLikelihood
from platen.models.classic.ngram_counts import NgramCounts, back_off, kneser_ney
from platen.models.classic.words import sentences, words
from tests.conftest import TEXT

CORPUS = [
    ["the", "cat", "sat", "on", "the", "mat"],
    ["the", "dog", "sat", "on", "the", "log"],
    ["a", "cat", "saw", "a", "dog"],
    ["the", "dog", "saw", "the", "cat", "on", "the", "mat"],
    ["a", "dog", "sat"],
]
WORDS = sorted({word for sentence in CORPUS for word in sentence})
ORDERS = (1, 2, 3, 5)


def grams(order):
    """All n-grams up to `order` that end in a word or in the sentence's end, each sentence padded."""
    for sentence in CORPUS:
        padded = ["<s>"] * (order - 1) + sentence + ["</s>"]
        for k in range(1, order + 1):
            for i in range(len(padded) - k + 1):
                if padded[i + k - 1] != "<s>":
                    yield tuple(padded[i : i + k])


def contexts(order):
    """Seen and unseen ones, of full length."""
    seen = {gram[:-1] for gram in grams(order) if len(gram) == order}
    return [*sorted(seen), ("log",) * (order - 1), ("zebra",) * (order - 1)]


def nltk_model(kind, order, **options):
    model = kind(order=order, vocabulary=Vocabulary([*WORDS, "</s>"]), **options)
    model.fit([list(grams(order))])
    return model


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("ours", "theirs"), [(MaximumLikelihood, NltkMLE), (Laplace, NltkLaplace)])
def test_maximum_likelihood_and_laplace_are_nltks(ours, theirs, order):
    model, reference = ours.fit(CORPUS, order=order), nltk_model(theirs, order)
    # nltk takes the starts, which can't come, and unknown words for one: so no unknown word in a context.
    for context, word in itertools.product(contexts(order)[:-1], [*WORDS, "</s>", "zebra"]):
        assert model.score(word, context) == pytest.approx(reference.score(word, context), rel=1e-6), context


@pytest.mark.parametrize("order", [2, 3, 5])
def test_kneser_ney_with_one_discount_is_nltks(order):
    # nltk does not interpolate the lowest order with an even distribution: a discount of 0 there.
    model = KneserNey.fit(CORPUS, order=order)
    ids = [model.vocabulary.ids(sentence) for sentence in CORPUS]
    counts = NgramCounts.of(ids, len(model.vocabulary), order)
    model.table = kneser_ney(counts, [0.0] + [0.1] * (order - 1))
    reference = nltk_model(KneserNeyInterpolated, order, discount=0.1)
    seen = [context for context in contexts(order) if reference.counts[context]]
    assert len(seen) >= 10
    for context, word in itertools.product(seen, [*WORDS, "</s>"]):
        assert model.score(word, context) == pytest.approx(reference.score(word, context), rel=1e-5), context


def test_kneser_ney_by_hand():
    # "a b a c": after <s> a; ends after c. Bigrams: <s>a ab ba ac c</s>, each once; a has two continuations.
    counts = NgramCounts.of([np.array([3, 4, 3, 5])], vocab_size=6, order=2)
    table = kneser_ney(counts, [0.5, 0.5])
    # Different words before a: <s>, b; before b, c and </s> one each: 5 in all, of 4 words.
    even = 0.5 * 4 / 5 / 5
    p_a, p_b = (2 - 0.5) / 5 + even, (1 - 0.5) / 5 + even
    after_a = (1 - 0.5) / 2 + 0.5 * 2 / 2 * p_b
    scores = 2 ** table.log2_scores(np.array([4, 3, 2]), [3])
    after_b_never_unknown = 0.5 * 1 / 2 * 2 * even
    assert scores == pytest.approx([after_a, 0.5 + 0.5 * p_a, after_b_never_unknown], rel=1e-6)


def katz(order, discount):
    """Absolute-discounted back-off, written as its definition says: P(word | context)."""
    counts = {}
    for gram in grams(order):
        counts.setdefault(gram[:-1], Counter())[gram[-1]] += 1
    everything = [*WORDS, "</s>", "<unk>"]

    def p(word, context):
        seen = counts.get(context)
        if not context:
            n = seen.total()
            return max(seen[word] - discount, 0) / n + discount * len(seen) / n / len(everything)
        if seen is None:
            return p(word, context[1:])
        if seen[word]:
            return (seen[word] - discount) / seen.total()
        unseen = sum(p(other, context[1:]) for other in everything if not seen[other])
        return discount * len(seen) / seen.total() * p(word, context[1:]) / unseen

    return p


@pytest.mark.parametrize("order", [1, 2, 3])
def test_back_off_is_its_definition(order):
    model = BackOff.fit(CORPUS, order=order)
    ids = [model.vocabulary.ids(sentence) for sentence in CORPUS]
    model.table = back_off(NgramCounts.of(ids, len(model.vocabulary), order), [0.4] * order)
    expected = katz(order, 0.4)
    for context, word in itertools.product(contexts(order), [*WORDS, "</s>", "<unk>"]):
        assert model.score(word, context) == pytest.approx(expected(word, context), rel=1e-5), (context, word)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("smoothing", ["laplace", "backoff", "kneser_ney"])
def test_the_smoothed_probabilities_sum_to_one(smoothing, order):
    model = SMOOTHINGS[smoothing].fit(CORPUS, order=order)
    for context in contexts(order):
        ids = model._ids(context)
        distribution = model.table.distribution(ids)
        assert distribution.sum() == pytest.approx(1, abs=1e-5)
        one_by_one = [model.score(word, context) for word in [*WORDS, "</s>", "zebra"]]
        assert sum(one_by_one) == pytest.approx(1, abs=1e-5)
        assert distribution[model._ids(["dog"])[0]] == pytest.approx(model.score("dog", context), rel=1e-5)


def test_perplexity_is_two_to_the_entropy_and_counts_the_end():
    model = MaximumLikelihood.fit([["a", "b"], ["a", "c"]], order=2)
    # P(a | <s>) = 1, P(b | a) = 1/2, P(</s> | b) = 1: one bit in three.
    assert model.log2_scores(["a", "b"]) == pytest.approx([0, -1, 0])
    assert model.entropy(["a", "b"]) == pytest.approx(1 / 3)
    assert model.perplexity(["a", "b"]) == pytest.approx(2 ** (1 / 3))
    assert model.perplexity(["b", "a"]) == math.inf
    assert KneserNey.fit(CORPUS).perplexity(["zebra", "zebra"]) < math.inf


def test_a_better_smoothing_and_a_longer_context_predict_better():
    text = [words(sentence) for sentence in sentences(TEXT * 2)]
    held_out = words("To take arms against a sea of fortune.")
    by_order = [KneserNey.fit(text, order=order).perplexity(held_out) for order in (1, 2)]
    assert by_order[1] < by_order[0]
    assert KneserNey.fit(text).perplexity(held_out) < Laplace.fit(text).perplexity(held_out)


def test_samples_follow_the_seed_and_hold_seen_bigrams_only():
    model = MaximumLikelihood.fit(CORPUS, order=2)
    seen = {gram for gram in grams(2) if len(gram) == 2}
    one = model.sample(12, seed=4)
    assert one == model.sample(12, seed=4)
    assert len({tuple(model.sample(12, seed=seed)) for seed in range(20)}) > 5
    for seed in range(20):
        drawn = ["<s>", *model.sample(12, seed=seed)]
        assert set(itertools.pairwise(drawn)) <= seen
    assert model.sample(1, ["on"], seed=1) == ["the"]


def test_sampled_frequencies_are_the_probabilities():
    model = KneserNey.fit(CORPUS, order=3)
    drawn = Counter(tuple(model.sample(1, ["on", "the"], seed=seed)) for seed in range(2000))
    for word in ("mat", "log"):
        assert drawn[(word,)] / 2000 == pytest.approx(model.score(word, ["on", "the"]), abs=0.04)


def test_rare_words_become_unknown():
    model = KneserNey.fit(CORPUS, order=2, min_count=2)
    assert "log" not in set(model.vocabulary)
    assert model.score("log", ["the"]) == model.score("zebra", ["the"]) > 0


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_saved_and_mapped_it_scores_the_same(smoothing, tmp_path):
    model = SMOOTHINGS[smoothing].fit(CORPUS, order=4)
    model.save(tmp_path / "model")
    model.save(tmp_path / "model")  # replaces
    opened = SMOOTHINGS[smoothing].load(tmp_path / "model")
    assert isinstance(opened.table.levels[-1].keys, np.memmap)
    for sentence in [*CORPUS, ["the", "zebra"], []]:
        assert opened.log2_scores(sentence).tolist() == model.log2_scores(sentence).tolist()
    assert opened.sample(9, seed=2) == model.sample(9, seed=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_folder_that_is_damaged_or_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="no n-gram model"):
        KneserNey.load(tmp_path / "none")
    Laplace.fit(CORPUS).save(tmp_path / "model")
    with pytest.raises(DataError, match="a laplace model, not kneser_ney"):
        KneserNey.load(tmp_path / "model")
    keys = tmp_path / "model" / "keys.3.npy"
    keys.write_bytes(keys.read_bytes()[:-8])
    with pytest.raises(DataError, match="no n-gram model"):
        Laplace.load(tmp_path / "model")
    with pytest.raises(DataError, match="no word"):
        KneserNey.fit([[]])


def test_words_and_sentences():
    assert words("What's done, is DONE!") == ["what's", "done", ",", "is", "done", "!"]
    assert sentences('He came. "Who?" I said. It was 3.5 m. ok.\n\nA title\n\nThe end') == [
        "He came.",
        '"Who?',
        "I said.",
        "It was 3.5 m. ok.",
        "A title",
        "The end",
    ]


@pytest.mark.parametrize("command", [("ngram",), ("vectors", "--epochs", "1", "--min-count", "1")])
def test_a_model_takes_no_folder_of_somebody_elses(tmp_path: Path, command: tuple[str, ...]) -> None:
    corpus, mine = tmp_path / "corpus.txt", tmp_path / "mine"
    corpus.write_text("the cat sat on the mat. the dog sat on the mat.\n" * 20)
    mine.mkdir()
    (mine / "notes.txt").write_text("kept")
    name, *options = command
    arguments = ["baselines", name, str(corpus), *options, "--out"]
    refused = CliRunner().invoke(app, [*arguments, str(mine)])
    assert isinstance(refused.exception, ConfigError)
    assert "would be lost" in refused.exception.message
    assert [(file.name, file.read_text()) for file in mine.iterdir()] == [("notes.txt", "kept")]
    for _ in range(2):  # its own kind is replaced
        made = CliRunner().invoke(app, [*arguments, str(tmp_path / "model")])
        assert made.exit_code == 0, made.output
    assert {file.name for file in tmp_path.iterdir()} == {"corpus.txt", "mine", "model"}
