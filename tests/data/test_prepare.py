"""The data stage from files to splits: nothing lost unaccounted, nothing in two places, nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.data.config import CleanConfig, SplitConfig
from platen.data.readers.config import Source
from tests.data.conftest import Prepare


def test_a_folder_of_documents(run_prepare: Prepare, corpus: Path) -> None:
    done = run_prepare("corpus", split=SplitConfig(validation=0.2, test=0.1))
    assert [len(done.splits[name]) for name in ("train", "validation", "test")] == [7, 2, 1]
    everything = {id: text for split in done.splits.values() for id, text in split.items()}
    assert everything == {f"corpus/{file.name}": file.read_text() for file in corpus.iterdir()}
    assert done.files == {"train.jsonl", "validation.jsonl", "test.jsonl", "report.json"}
    assert done.report["documents_read"] == 10
    assert done.report["splits"]["validation"]["characters"] == 200
    assert sorted(done.report["splits"]["train"]["names"]) == sorted(done.splits["train"])


def test_everything_dropped_is_counted(run_prepare: Prepare, corpus: Path) -> None:
    (corpus / "short.txt").write_text(" \n .\n\n")
    (corpus / "zz-copy.txt").write_text((corpus / "play-3.txt").read_text() + "\r\n")
    done = run_prepare("corpus", clean=CleanConfig(min_characters=5))
    kept = sum(len(split) for split in done.splits.values())
    dropped = done.report["dropped"]
    assert kept == 10
    assert dropped["too_short"] == {"documents": 1, "characters": 2, "names": ["corpus/short.txt"]}
    assert dropped["duplicate"]["names"] == ["corpus/zz-copy.txt = corpus/play-3.txt"]
    assert done.report["documents_read"] == kept + sum(reason["documents"] for reason in dropped.values())


def test_cleaning(run_prepare: Prepare, corpus: Path) -> None:
    raw = "\ufeff\n\nCafe\u0301 \t\r\nline\x07 two\u200d\r\rthree  \x00"[:-1] + "\n\n"
    (corpus / "messy.txt").write_bytes(raw.encode())
    done = run_prepare("corpus", split=SplitConfig(validation=("messy",)))
    assert done.splits["validation"] == {"corpus/messy.txt": "Café\nline two\u200d\n\nthree"}
    cleaning = done.report["cleaning"]
    assert cleaning["line_ends"] == 3
    assert cleaning["control_characters"] == 2  # the byte order mark and the bell
    assert cleaning["normalised_documents"] == 1


def test_unicode_form_can_stay(run_prepare: Prepare, corpus: Path) -> None:
    (corpus / "messy.txt").write_text("ﬁne cafe\u0301")
    done = run_prepare(
        "corpus", clean=CleanConfig(unicode="none"), split=SplitConfig(validation=("messy.txt",))
    )
    assert done.splits["validation"]["corpus/messy.txt"] == "ﬁne cafe\u0301"


def test_json_lines(run_prepare: Prepare, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Document number {n}.\u2028 Done.", "url": "x"}) for n in range(20)]
    (tmp_path / "web.jsonl").write_text("\n".join(lines) + "\n\n")
    done = run_prepare("web.jsonl", split=SplitConfig(validation=("web.jsonl:3",)))
    assert done.splits["validation"] == {"web.jsonl:3": "Document number 2.\u2028 Done."}
    assert len(done.splits["train"]) == 19


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_json_lines_in_other_encodings(run_prepare: Prepare, tmp_path: Path, encoding: str) -> None:
    lines = '{"text": "Fire \u0a0a burn."}\n{"text": "Cauldron bubble."}\n'
    (tmp_path / "wide.jsonl").write_bytes(lines.encode(encoding))
    stated = "utf-8" if encoding == "utf-8-sig" else encoding
    source = Source(path="wide.jsonl", encoding=stated)
    done = run_prepare(source, split=SplitConfig(validation=("wide.jsonl:2",)))
    assert done.splits["train"] == {"wide.jsonl:1": "Fire \u0a0a burn."}
    assert done.splits["validation"] == {"wide.jsonl:2": "Cauldron bubble."}


def test_a_document_in_two_sources_is_read_once(run_prepare: Prepare, corpus: Path) -> None:
    done = run_prepare("corpus/*.txt", "corpus", "corpus/play-1.txt")
    assert done.report["files"] == 10
    assert done.report["dropped"]["duplicate"]["documents"] == 0


def test_stated_encoding(run_prepare: Prepare, corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_bytes("Müßiggang €".encode("cp1252"))
    (tmp_path / "wide.txt").write_bytes("Wide text".encode("utf-16"))
    done = run_prepare(
        "corpus",
        Source(path="old.txt", encoding="cp1252"),
        Source(path="wide.txt", encoding="utf-16"),
        split=SplitConfig(validation=("old", "wide")),
    )
    assert done.splits["validation"] == {"old.txt": "Müßiggang €", "wide.txt": "Wide text"}


def test_remote_sources(run_prepare: Prepare) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    for number in range(4):
        memory.pipe(f"/plays/{number}.txt", f"Play number {number} of four".encode())
    memory.pipe("/plays/notes.log", b"\0")
    try:
        done = run_prepare("memory://plays", split=SplitConfig(validation=("2",)))
    finally:
        memory.rm("/plays", recursive=True)
    assert done.splits["validation"] == {"memory:///plays/2.txt": "Play number 2 of four"}
    assert len(done.splits["train"]) == 3


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.txt", b"", "corpus/empty.txt is empty"),
        ("empty.jsonl", b"", "corpus/empty.jsonl is empty"),
        ("image.txt", b"GIF89a\x00\x01", "corpus/image.txt is binary: a zero byte at offset 6"),
        ("latin.txt", "Plain, then caf\xe9.".encode("latin-1"), "not utf-8: byte 0xe9 at offset 15"),
        ("cut.txt", "Half a \U0001f642".encode()[:-1], "not utf-8: byte 0xf0 at offset 7"),
        ("bad.jsonl", b'{"text": "fine"}\n{"text": \n', r"line 2 \(byte 17\): not JSON"),
        ("bad.jsonl", b'{"text": "fine"}\n{"body": "x"}\n', r"line 2 \(byte 17\): no text under the key"),
        ("bad.jsonl", b'{"text": 3}\n', r"line 1 \(byte 0\): no text under the key"),
        ("bad.jsonl", b'{"text": "\\ud800"}\n', "surrogate"),
        ("bad.jsonl", b'{"text": "fine"}\n\xff\n', "not utf-8: byte 0xff at offset 17"),
    ],
)
def test_broken_files(run_prepare: Prepare, corpus: Path, name: str, content: bytes, says: str) -> None:
    (corpus / name).write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        run_prepare("corpus")
    assert name in caught.value.message
    assert caught.value.hint


def test_broken_sources(run_prepare: Prepare, tmp_path: Path, corpus: Path) -> None:
    out = tmp_path / "out"
    (tmp_path / "images").mkdir()
    for source, says in (
        (Source(path="nowhere.txt"), "nowhere.txt does not exist"),
        (Source(path="images"), "images matches no file"),
        (Source(path="corpus/*.pdf"), r"corpus/\*.pdf matches no file"),
        (Source(path="memory://nowhere/x.txt"), "matches no file"),
        (Source(path="noprotocol://x"), "can't be listed"),
    ):
        with pytest.raises(DataError, match=says) as caught:
            run_prepare(source)
        assert caught.value.hint
        out.rmdir()  # nothing was written


def test_nothing_left(run_prepare: Prepare, corpus: Path) -> None:
    with pytest.raises(DataError, match="of 10 documents none is left"):
        run_prepare("corpus", clean=CleanConfig(min_characters=1000))


def test_named_document_that_was_dropped(run_prepare: Prepare, corpus: Path) -> None:
    (corpus / "zz-copy.txt").write_text((corpus / "play-3.txt").read_text())
    with pytest.raises(DataError, match="no document zz-copy is left after cleaning"):
        run_prepare("corpus", split=SplitConfig(validation=("zz-copy",)))


def test_equal_texts_in_two_splits(run_prepare: Prepare, corpus: Path) -> None:
    (corpus / "zz-copy.txt").write_text((corpus / "play-3.txt").read_text())
    with pytest.raises(DataError, match="have the same text but are in two splits"):
        run_prepare(
            "corpus",
            clean=CleanConfig(deduplicate=False),
            split=SplitConfig(validation=("zz-copy",)),
        )


def test_the_plays_are_whole() -> None:
    """The example's files, put together, are the well-known 40,000 lines, cut where plays begin."""
    corpus = Path(__file__).parents[2] / "examples" / "shakespeare" / "corpus"
    files = sorted(corpus.glob("*.txt"))
    texts = [file.read_text("utf-8") for file in files]
    assert len(files) == 9
    assert "".join(texts).count("\n") == 40_000
    assert len("".join(texts)) == 1_115_394
    assert texts[1].startswith("GLOUCESTER:\nNow is the winter of our discontent\n")
    assert texts[3].rstrip().endswith("Than this of Juliet and her Romeo.")


def test_metadata_stays_and_groups_are_not_divided(run_prepare: Prepare, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"Message {n}.", "channel": f"c{n % 20}", "n": n}) for n in range(200)]
    (tmp_path / "chat.jsonl").write_text("\n".join(lines))
    done = run_prepare("chat.jsonl", split=SplitConfig(by="group", key="channel", validation=0.3, test=0.2))
    channels = [{int(text[8:-1]) % 20 for text in split.values()} for split in done.splits.values()]
    assert sum(map(len, channels)) == 20
    first = json.loads((tmp_path / "out" / "train.jsonl").read_text().splitlines()[0])
    assert first["metadata"].keys() == {"channel", "n"}
