"""The comparison: its losses against a count by hand, its order on text with structure, and its files."""

import json
import math
import random
from collections import Counter

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from platen.baselines.comparison.corpus import passages, read_corpus
from platen.baselines.comparison.networks import NETWORKS, NetworkOptions, network_log2_scores
from platen.baselines.comparison.run_comparison import MODELS, compare
from platen.cli.main import app
from platen.core.errors import DataError
from platen.core.progress import SilentProgress

OPTIONS = NetworkOptions(size=16, length=16, batch=8, steps=4, seconds=60)


def story(subjects, seed):
    """Lines with a subject, a verb and an object that fits the verb."""
    chance = random.Random(seed)
    verbs = {"eats": "bread fruit cheese", "reads": "books letters news", "sails": "ships boats rafts"}
    for _ in range(160):
        verb = chance.choice(list(verbs))
        yield f"{chance.choice(subjects)} {verb} {chance.choice(verbs[verb].split())} every day."


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus")
    (path / "sea.txt").write_text("\n".join(story(["the captain", "a sailor"], 1)) + "\n")
    (path / "land.txt").write_text("\n".join(story(["the farmer", "a baker"], 2)) + "\n")
    return path


@pytest.fixture(scope="module")
def corpus(folder):
    return read_corpus([str(folder)], vocab_size=300, max_bytes=100_000)


@pytest.fixture(scope="module")
def comparison(corpus):
    return compare(corpus, OPTIONS, SilentProgress())


def test_the_last_tenth_of_each_file_is_held_out(corpus, folder):
    for part in corpus.parts:
        whole = next(file for file in folder.iterdir() if part.name.endswith(file.name)).read_text()
        assert part.train + part.held_out == whole
        assert 0.09 < len(part.held_out) / len(whole) < 0.12
    text = "\n\n".join(part.held_out for part in corpus.parts)
    assert corpus.tokenizer.decode(corpus.held_out.tolist()) == text


def test_bag_of_words_loss_by_hand(corpus, comparison):
    counts = Counter(corpus.train.tolist())
    # Every token that can come, an unknown one and an end count one more than they do.
    total = len(corpus.train) + corpus.vocab_size + 2
    bits = -sum(math.log2((counts[id] + 1) / total) for id in corpus.held_out[1:].tolist())
    row = comparison.models[0]
    assert row.bits_per_byte == pytest.approx(bits / corpus.scored_bytes, rel=1e-5)
    assert row.name == "bag of words"


def test_every_model_has_a_row_and_context_helps(comparison):
    assert tuple(row.name for row in comparison.models) == MODELS
    loss = {row.name: row.bits_per_byte for row in comparison.models}
    assert loss["trigrams, Kneser-Ney"] < loss["bigrams, Laplace"] < loss["bag of words"]
    chain = comparison.models[1]
    assert (chain.bits_per_byte is None) is (chain.impossible > 0)
    assert {row.steps for row in comparison.models} == {None, OPTIONS.steps}
    assert not any(row.cut for row in comparison.models)


def test_classifiers_find_the_file(comparison, corpus):
    assert len(passages(corpus, most=5).train) == 10
    accuracy = {row.name: row.accuracy for row in comparison.classifiers}
    assert accuracy["naive Bayes"] == 1.0
    assert 0.4 <= accuracy["commonest file"] <= 0.6


def test_the_same_seed_gives_the_same_losses(corpus, comparison):
    again = compare(corpus, OPTIONS, SilentProgress())
    assert [row.bits_per_byte for row in again.models] == [row.bits_per_byte for row in comparison.models]
    assert [row.accuracy for row in again.classifiers] == [row.accuracy for row in comparison.classifiers]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_looks_back_only_and_windows_score_every_token_once(name):
    torch.manual_seed(0)
    network = NETWORKS[name](50, NetworkOptions(size=16, length=16)).eval()
    ids = np.random.default_rng(1).integers(0, 50, size=45)
    scores = network_log2_scores(network, ids, 16)
    assert scores.shape == (44,)
    rows = torch.from_numpy(ids)
    with torch.inference_mode():
        first = network(rows[None, :16]).log_softmax(-1)[0]
    expected = first.gather(-1, rows[1:17, None])[:, 0] / math.log(2)
    np.testing.assert_allclose(scores[:16], expected, atol=1e-4)
    if name in ("CBoW", "MLP"):  # these see the same few tokens wherever the window begins
        with torch.inference_mode():
            last = network(rows[None, 28:44]).log_softmax(-1)[0]
        expected = last.gather(-1, rows[29:, None])[4:, 0] / math.log(2)
        np.testing.assert_allclose(scores[32:], expected, atol=1e-4)
    changed = rows.clone()
    changed[10] = (changed[10] + 1) % 50
    with torch.inference_mode():
        after = network(changed[None, :16])[0]
        before = network(rows[None, :16])[0]
    torch.testing.assert_close(after[:10], before[:10])
    assert not torch.allclose(after[10], before[10])


def test_the_command_writes_table_figures_and_plot(folder, tmp_path):
    out = tmp_path / "out"
    arguments = [
        "baselines",
        "compare",
        str(folder / "sea.txt"),
        "--out",
        str(out),
        "--steps",
        "1",
        "--size",
        "8",
    ]
    result = CliRunner().invoke(app, [*arguments, "--json", "--vocab-size", "280"])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    written = json.loads((out / "comparison.json").read_text())
    assert written.pop("schema_version") == 1
    assert written == figures
    assert figures["classifiers"] == []
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    table = (out / "comparison.md").read_text()
    assert all(f"| {name} |" in table for name in MODELS)


def test_too_little_text_is_refused(tmp_path):
    (tmp_path / "short.txt").write_text("short")
    with pytest.raises(DataError, match="too few"):
        read_corpus([str(tmp_path)], vocab_size=300, max_bytes=10_000)


def test_the_ngram_command_makes_a_model_to_filter_with(folder, tmp_path):
    from platen.models.classic.ngram import KneserNey
    from platen.models.classic.words import words

    result = CliRunner().invoke(
        app, ["baselines", "ngram", str(folder), "--out", str(tmp_path / "model"), "--sample", "5"]
    )
    assert result.exit_code == 0, result.output
    model = KneserNey.load(tmp_path / "model")
    good, bad = words("the captain reads books every day."), words("books every the reads day captain.")
    assert model.perplexity(good) < model.perplexity(bad) / 5


@pytest.mark.parametrize("kind", ["cbow", "skipgram"])
def test_the_vectors_command_trains_what_its_kind_trains(folder, tmp_path, kind):
    from platen.models.classic.word_vectors import VectorOptions, WordVectors, train_vectors
    from platen.models.classic.words import sentences, words

    out = tmp_path / "vectors"
    options = ["--size", "6", "--epochs", "1", "--window", "2", "--seed", "3", "--kind", kind]
    result = CliRunner().invoke(app, ["baselines", "vectors", str(folder), "--out", str(out), *options])
    assert result.exit_code == 0, result.output
    texts = [file.read_text() for file in sorted(folder.iterdir())]
    expected = train_vectors(
        [words(sentence) for text in texts for sentence in sentences(text)],
        VectorOptions(kind=kind, size=6, epochs=1, window=2, seed=3),
    )
    np.testing.assert_array_equal(WordVectors.load(out).vectors, expected.vectors)
