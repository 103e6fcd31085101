"""Duplicates and contamination: what counts as the same text, and planted truth in small."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from platen.core.errors import DataError
from platen.data.filters.near import signature
from platen.data.filters.shingles import ngrams, word_hashes
from tests.data.filters.conftest import RunBlocks


def words(count: int, draw: random.Random) -> list[str]:
    return ["".join(draw.choices("abcdefghij", k=draw.randint(2, 8))) for _ in range(count)]


def test_words_are_the_same_whatever_stands_between_them() -> None:
    plain = word_hashes("the cat sat on the mat")
    assert len(plain) == 6
    assert plain[0] == plain[4]
    assert len(set(plain)) == 5
    assert np.array_equal(plain, word_hashes("  The CAT… sat, on\n(the) “mat”!"))
    assert len(word_hashes("日本語です")) == 5
    assert len(word_hashes("")) == len(word_hashes("--")) == 0
    long = " ".join(words(300_000, random.Random(1)))  # longer than what is hashed in one piece
    assert np.array_equal(word_hashes(long)[:1000], word_hashes(long[:20_000])[:1000])
    assert len(word_hashes(long)) == 300_000


def test_ngrams_know_their_order() -> None:
    there, back = word_hashes("a b c d"), word_hashes("d c b a")
    assert [len(ngrams(there, n)) for n in (3, 5)] == [2, 0]
    assert not set(ngrams(there, 2)) & set(ngrams(back, 2))
    assert ngrams(there, 3)[1] == ngrams(word_hashes("b c d"), 3)[0]


def test_minima_estimate_the_share_of_common_trigrams() -> None:
    draw = random.Random(3)
    for common in (100, 200, 300):
        shared = words(common, draw)
        one, two = shared + words(150, draw), shared + words(150, draw)
        a, b = ({tuple(text[at : at + 3]) for at in range(len(text) - 2)} for text in (one, two))
        true = len(a & b) / len(a | b)
        estimate = (signature(" ".join(one)) == signature(" ".join(two))).mean()
        assert abs(estimate - true) < 3 * 0.044


def test_the_first_of_equal_texts_stays(run_blocks: RunBlocks) -> None:
    texts = {"a": "Some text.", "b": "Another.", "c": "some  TEXT.\n", "d": "Some text", "e": "Some text."}
    ran = run_blocks(texts, {"block": "exact_duplicates"})
    assert list(ran.texts) == ["a", "b", "d"]
    count = ran.counts["exact_duplicates"]
    assert (count.seen, count.removed) == (5, 2)
    assert [(example.id, example.reason) for example in count.examples] == [("c", "like a"), ("e", "like a")]
    assert count.names == ["c", "e"]


def test_planted_near_duplicates(run_blocks: RunBlocks) -> None:
    draw = random.Random(5)
    clean = {f"clean{n}": " ".join(words(120, draw)) for n in range(300)}
    near = {}
    for n in range(60):
        edited = clean[f"clean{n}"].split()
        for place in draw.sample(range(120), 1 + n * 11 // 60):  # 1 to 11 of 120 words: up to 9 in 100
            edited[place] = "edited"
        near[f"near{n}"] = " ".join(edited)
    ran = run_blocks(clean | near, {"block": "near_duplicates"}, workers=1)
    assert sum(id in ran.texts for id in clean) == 300
    assert sum(id in ran.texts for id in near) <= 3
    short = {"a": "", "b": "--", "c": "two words", "d": "two words"}
    assert list(run_blocks(short, {"block": "near_duplicates"}).texts) == ["a", "b", "c"]


def test_corpus_blocks_in_a_row_see_what_the_one_before_left(run_blocks: RunBlocks) -> None:
    draw = random.Random(6)
    text = " ".join(words(100, draw))
    texts = {"a": text, "b": text, "c": text + " more", "d": " ".join(words(100, draw))}
    ran = run_blocks(
        texts, {"block": "exact_duplicates"}, {"block": "near_duplicates"}, {"block": "gopher_repetition"}
    )
    assert list(ran.texts) == ["a", "d"]
    assert [count.seen for count in ran.counts.values()] == [4, 3, 2]


def test_benchmark_items_are_found(run_blocks: RunBlocks, tmp_path: Path) -> None:
    draw = random.Random(7)
    item, other = words(30, draw), words(30, draw)
    lines = [{"question": " ".join(item), "answer": {"choices": ["Paris is the capital of France", "no"]}}]
    (tmp_path / "bench.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "bench.txt").write_text(" ".join(other))
    before = " ".join(words(50, draw))
    texts = {
        "thirteen": f"{before} {', '.join(item[5:18]).upper()} end",
        "twelve": f"{before} {' '.join(item[5:17])} end",
        "short item": f"{before}. Paris is the capital of France! {before}",
        "part of it": f"{before}. Paris is the capital. {before}",
        "text file": " ".join(other[:13]),
        "clean": " ".join(words(200, draw)),
    }
    block = {"block": "contamination", "against": ["bench.jsonl", "bench.txt"]}
    assert list(run_blocks(texts, block).texts) == ["twelve", "part of it", "clean"]
    with pytest.raises(DataError, match=r"gone\.jsonl can't be read"):
        run_blocks(texts, {"block": "contamination", "against": ["gone.jsonl"]})


BLOCKS = (
    {"block": "encoding"},
    {"block": "language"},
    {"block": "exact_duplicates"},
    {"block": "near_duplicates"},
    {"block": "pii"},
)


def many(count: int) -> dict[str, str]:
    """Texts of which one in eleven nearly repeats an earlier one."""
    draw = random.Random(8)
    texts = [" ".join(words(2_000, draw)) + f" user{n}@example.org" for n in range(count)]
    texts += [text.replace(" ", "  ", 1) + " more" for text in texts[: count // 10]]
    return {f"{n}": text for n, text in enumerate(texts)}


def test_two_workers_give_the_same_as_one(run_blocks: RunBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platen.data.filters.shards.SHARD_CHARACTERS", 50_000)
    texts = many(30)
    one, two = run_blocks(texts, *BLOCKS), run_blocks(texts, *BLOCKS, workers=2)
    assert list(one.texts.items()) == list(two.texts.items())
    assert len(one.texts) == 30
    for name, count in one.counts.items():
        count.seconds = two.counts[name].seconds
    assert one.counts == two.counts


@pytest.mark.slow
def test_ray_gives_the_same_as_one_process(run_blocks: RunBlocks, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("platen.data.filters.shards.SHARD_CHARACTERS", 50_000)
    texts = many(30)
    one, ray = run_blocks(texts, *BLOCKS), run_blocks(texts, *BLOCKS, executor="ray", workers=2)
    assert list(one.texts.items()) == list(ray.texts.items())
    removed = [[count.removed for count in ran.counts.values()] for ran in (one, ray)]
    assert removed[0] == removed[1]
