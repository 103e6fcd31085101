"""Guesses from a corpus: what followed most often, counted by hand and by a plain count."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from platen.baselines.count_drafts import count_continuations
from platen.cli.main import app
from platen.core.errors import ConfigError, DataError
from platen.engines.batching.draft import Draft, DraftOptions
from platen.engines.batching.draft_ngrams import Continuations
from platen.engines.local import open_model
from platen.engines.options import EngineOptions
from platen.engines.protocol import GenerationRequest, SamplingParams
from platen.serve.config import ServeConfig
from platen.serve.hub.loading import open_configured
from platen.tokens.files import SplitTokens, TokensMeta, write_splits
from platen.tokens.tokenizer import Tokenizer
from tests.conftest import TEXT
from tests.engines.torch.test_torch_engine import Result, collect

EOS = 9


def token_files(folder: Path, row: list[int], vocab_size: int = 10, sha256: str = "a tokenizer") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.asarray(row, "<u2").tofile(folder / "train.bin")
    split = SplitTokens(tokens=len(row), bytes=len(row), documents=row.count(EOS))
    TokensMeta("uint16", vocab_size, EOS, sha256, {"train": split}).write(folder)
    return folder


def test_the_likeliest_token_by_hand(tmp_path: Path) -> None:
    row = [
        1,
        2,
        3,
        4,
        9,
        1,
        2,
        3,
        4,
        9,
        5,
        2,
        3,
        6,
        9,
        5,
        2,
        3,
        6,
        9,
        5,
        2,
        3,
        6,
        9,
        7,
        8,
        1,
        7,
        8,
        2,
        7,
        8,
        1,
    ]
    counted = count_continuations(token_files(tmp_path, row), order=4)
    assert counted.likeliest([1, 2, 3]) == 4  # twice of two times
    assert counted.likeliest([0, 0, 2, 3]) == 6  # 2 3 alone: three times of five
    assert counted.likeliest([5, 2, 3]) == 6
    assert counted.likeliest([7, 8]) == 1  # twice of three times
    assert counted.likeliest([8, 1]) is None  # 7 came once
    assert counted.likeliest([3, 4]) == EOS
    assert counted.likeliest([4, 9]) is None  # nothing is known of what comes after a text's end
    assert counted.likeliest([2]) is None
    assert counted.likeliest([]) is None
    assert counted.likeliest([2, 300]) is None  # a token that the corpus' tokenizer lacks
    assert counted.after([0, 1, 2], 5) == (3, 4, EOS)
    assert counted.after([0, 1, 2], 1) == (3,)
    stricter = count_continuations(tmp_path, order=4, share=0.65)
    assert stricter.likeliest([0, 2, 3]) is None
    assert stricter.likeliest([7, 8]) == 1
    assert count_continuations(tmp_path, order=4, min_count=3).likeliest([7, 8]) is None


@settings(max_examples=40)
@given(
    row=st.lists(st.sampled_from([0, 1, 2, EOS]), min_size=60, max_size=150),
    min_count=st.integers(1, 3),
    share=st.sampled_from([0.0, 0.4, 0.6]),
    chunk=st.sampled_from([7, 40, 1000]),
)
def test_counts_are_those_of_a_plain_count(
    tmp_path_factory: pytest.TempPathFactory, row: list[int], min_count: int, share: float, chunk: int
) -> None:
    folder = token_files(tmp_path_factory.mktemp("row"), [*row, 1, 1, 1, 1, 1, 1, 1])
    row = [*row, 1, 1, 1, 1, 1, 1, 1]
    counted = count_continuations(folder, order=4, min_count=min_count, share=share, part_tokens=chunk)
    counted.save(folder / "saved")
    loaded = Continuations.load(folder / "saved")
    followed: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for length in (2, 3):
        for at in range(length, len(row)):
            if EOS not in row[at - length : at]:
                followed[tuple(row[at - length : at])][row[at]] += 1
    kept = {}
    for context, after in followed.items():
        token = min(after, key=lambda token: (-after[token], token))
        if after[token] >= min_count and after[token] >= share * after.total():
            kept[context] = token
    assert len(loaded) == len(kept)
    for context in followed:
        expected = kept.get(context, kept.get(context[-2:]))
        assert loaded.likeliest(context) == expected


def test_it_is_asked_where_the_lookup_finds_nothing_and_shrinks_alike(tmp_path: Path) -> None:
    counted = count_continuations(token_files(tmp_path, [1, 2, 3, 4, 5, 6, 7, 9] * 2))
    draft = Draft(DraftOptions(tokens=4, match=2, ngram=counted))
    assert draft.propose([8, 1, 2], 10) == (3, 4, 5, 6)
    draft.record_acceptance(4, 1)
    assert draft.propose([8, 1, 2], 10) == (3,)
    draft.record_acceptance(1, 1)
    assert draft.propose([8, 1, 2, 8, 1, 2], 10) == (8, 1)


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no token files"):
        count_continuations(tmp_path / "none")
    with pytest.raises(DataError, match="often enough"):
        count_continuations(token_files(tmp_path / "short", [1, 2, 3, 4]))
    with pytest.raises(DataError, match="often enough"):
        count_continuations(token_files(tmp_path / "empty", []))
    large = token_files(tmp_path / "large", [1, 2, 3, 4] * 3, vocab_size=65_536)
    assert count_continuations(large, order=5).likeliest([1, 2, 3, 4]) == 1
    with pytest.raises(ConfigError, match="64 bits"):
        count_continuations(large, order=6)


def test_damaged_counts_are_refused(tmp_path: Path) -> None:
    counted = count_continuations(token_files(tmp_path, [1, 2, 3, 4, 9] * 2))
    for name, damaged in (
        ("tokens.2.npy", np.zeros(1, np.uint32)),
        ("tokens.2.npy", np.full(3, 10, np.uint32)),
        ("contexts.3.npy", np.zeros(2, np.int64)),
    ):
        counted.save(tmp_path / "saved")
        np.save(tmp_path / "saved" / name, damaged)
        with pytest.raises(DataError, match="can be opened"):
            Continuations.load(tmp_path / "saved")


@pytest.fixture
def counted(tiny_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """Counts of a text, by the commands that a user gives."""
    (tmp_path / "tokens").mkdir()
    write_splits(tmp_path / "tokens", tiny_tokenizer, {"train": [TEXT] * 2}, workers=1)
    arguments = ["baselines", "draft", str(tmp_path / "tokens"), "--out", str(tmp_path / "counted")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert "contexts and what follows them" in done.output
    return tmp_path / "counted"


def test_texts_are_the_same_with_and_without(
    tiny_bundle: Path, tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """The corpus is half of the texts themselves, of which some go on otherwise: some guesses are wrong."""
    prompts = [tiny_tokenizer.encode(TEXT[at : at + 60]) for at in range(0, 200, 50)]
    kinds = [
        SamplingParams(temperature=0, max_tokens=40),
        SamplingParams(seed=1, max_tokens=40),
        SamplingParams(seed=2, max_tokens=40, temperature=0.4, logit_bias=((0, -100.0),)),
    ]
    asked = [
        GenerationRequest(f"{i} {k}", p, kind) for i, p in enumerate(prompts) for k, kind in enumerate(kinds)
    ]

    async def written(draft: DraftOptions | None) -> tuple[list[Result], dict[str, float]]:
        engine = open_model(tiny_bundle, EngineOptions(draft=draft)).engine
        results = [await collect(engine.submit(request)) for request in asked]
        await engine.close()
        return results, engine.stats().extra

    plain, _ = asyncio.run(written(None))
    corpus = [token_id for result in plain[::2] for token_id in (*result.token_ids, EOS)]
    files = token_files(tmp_path, corpus, tiny_tokenizer.vocab_size, tiny_tokenizer.sha256)
    ngram = count_continuations(files, order=3, min_count=1, share=0)
    drafted, figures = asyncio.run(written(DraftOptions(match=16, step_tokens=64, ngram=ngram)))
    assert [r.token_ids for r in drafted] == [r.token_ids for r in plain]
    assert [r.text for r in drafted] == [r.text for r in plain]
    assert 50 <= figures["draft_tokens_accepted"] < figures["draft_tokens"]


def test_a_project_names_the_counts_and_a_wrong_name_or_tokenizer_is_refused(
    tiny_bundle: Path, counted: Path
) -> None:
    def config(name: str) -> ServeConfig:
        return ServeConfig.model_validate({"draft": {"ngram": name}}).located(counted.parent)

    asyncio.run(open_configured(tiny_bundle, config("counted")).engine.close())
    with pytest.raises(DataError, match="missing holds no counts"):
        open_configured(tiny_bundle, config("missing"))
    files = token_files(counted.parent / "other", [1, 2, 3, 4, 9] * 2)
    count_continuations(files).save(counted.parent / "others")
    with pytest.raises(ConfigError, match="another tokenizer"):
        open_configured(tiny_bundle, config("others"))
