"""What can't be read stops a run or goes to quarantine, with its place and reason; nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.core.stage import StageContext
from platen.data.config import DataConfig, SplitConfig
from platen.data.prepare import prepare
from platen.data.readers.config import ReadLimits, Source
from platen.data.readers.parser import Parser
from platen.data.sources import source_files
from tests.data.readers.making import archive, docx, pdf, records

ROOT = Path(__file__).parents[2]


def prepared(tmp_path: Path, *sources: Source, on_error: str = "quarantine") -> Path:
    """The folder that the data stage leaves."""
    out = tmp_path / "out"
    out.mkdir()
    config = DataConfig.model_validate({"sources": sources, "on_error": on_error, "split": SplitConfig()})
    prepare(StageContext("data", "0" * 16, config, {}, out, project_dir=tmp_path, seed=1))
    return out


def test_broken_files_and_records_are_put_aside(tmp_path: Path, corpus: Path) -> None:
    (corpus / "latin.txt").write_bytes(b"caf\xe9")
    (corpus / "cut.pdf").write_bytes(pdf(["x"])[:-200])
    (corpus / "lines.jsonl").write_text('{"text": "A fine document."}\n{"body": 1}\n')
    (corpus / "gone.txt").symlink_to("nowhere")
    (corpus / "circle.md").symlink_to("circle.md")
    os.mkfifo(corpus / "pipe.txt")
    out = prepared(tmp_path, Source(path="corpus"))
    entries = [json.loads(line) for line in (out / "quarantine.jsonl").open()]
    assert {entry["place"]: entry["reason"] for entry in entries} == {
        "corpus/latin.txt": "encoding",
        "corpus/cut.pdf": "truncated",
        "corpus/lines.jsonl, line 2 (byte 29)": "no-text",
        "corpus/gone.txt": "unreadable",
        "corpus/circle.md": "unreadable",
        "corpus/pipe.txt": "unreadable",
    }
    assert "byte 0xe9 at offset 3" in next(e["detail"] for e in entries if e["reason"] == "encoding")
    report = json.loads((out / "report.json").read_text())
    assert report["quarantined"] == {"encoding": 1, "truncated": 1, "no-text": 1, "unreadable": 3}
    assert report["documents_read"] == 11


def test_a_source_of_which_nothing_can_be_read_is_an_error(tmp_path: Path, corpus: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "bad" / name).write_bytes(b"\0")
    with pytest.raises(DataError, match=r"nothing could be read .* 2 broken records.* bad/a\.txt is binary"):
        prepared(tmp_path, Source(path="corpus"), Source(path="bad"))


def test_stopping_says_how_to_go_on(tmp_path: Path, corpus: Path) -> None:
    (corpus / "a.pdf").write_bytes(b"no PDF")
    with pytest.raises(DataError, match="does not begin as a PDF") as caught:
        prepared(tmp_path, Source(path="corpus"), on_error="stop")
    assert "data.on_error: quarantine" in (caught.value.hint or "")


def test_metadata_goes_into_the_splits(tmp_path: Path) -> None:
    lines = [{"text": f"Document {n} of ten", "lang": "en"} for n in range(10)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = prepared(tmp_path, Source(path="a.jsonl"))
    first = json.loads((out / "train.jsonl").read_text().splitlines()[0])
    assert first["metadata"] == {"lang": "en"}


def test_links_in_circles_are_walked_once(tmp_path: Path, corpus: Path) -> None:
    (corpus / "again").symlink_to(corpus)
    (corpus / "mine.txt").symlink_to("mine.txt")
    config = DataConfig(sources=(Source(path="corpus"),), on_error="quarantine")
    assert len(source_files(tmp_path, config)) == 10


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.docx", lambda: archive({"word/document.xml": b" " * 30_000_000})),
        ("a.epub", lambda: archive({"META-INF/container.xml": b" " * 30_000_000})),
        ("many.docx", lambda: archive({f"{n}": os.urandom(300_000) for n in range(10)})),
    ],
)
def test_bombs(tmp_path: Path, name: str, make: object) -> None:
    (tmp_path / name).write_bytes(make())  # type: ignore[operator]
    documents, [broken], _ = records(tmp_path / name, limits=ReadLimits(expanded_bytes=2_000_000))
    assert not documents
    assert broken.reason == "expansion"


def test_a_parser_that_takes_too_long_is_replaced() -> None:
    slow = pdf(["slow) Tj (" * 200_000])
    parser = Parser(ReadLimits(parse_seconds=1))
    try:
        assert parser.parse("docx", docx(["One."])).text == "One."
        [problem] = parser.parse("pdf", slow).problems
        assert (problem.reason, problem.detail) == ("time", "parsing took more than 1 s")
        assert parser.parse("docx", docx(["Two."])).text == "Two."
    finally:
        parser.close()


def test_a_parser_that_needs_too_much_memory_is_a_problem_of_the_file() -> None:
    parser = Parser(ReadLimits(parse_memory_bytes=256 * 2**20))
    try:
        raw = archive({"word/document.xml": "<a>" + "<b>x</b>" * 3_000_000 + "</a>"})
        [problem] = parser.parse("docx", raw).problems
        assert problem.reason in ("memory", "expansion", "malformed", "crash")
        assert parser.parse("docx", docx(["Two."])).text == "Two."
    finally:
        parser.close()


def test_two_of_each_kind_of_malformed_file() -> None:
    command = [sys.executable, ROOT / "benchmarks" / "malformed.py", "--files", "74"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert "verdict=pass" in done.stdout, done.stdout + done.stderr


def test_platen_data_read(tmp_path: Path, corpus: Path) -> None:
    (corpus / "bad.txt").write_bytes(b"\0")
    command = [sys.executable, "-m", "platen", "data", "read", "corpus", "--quarantine", "aside.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    documents = [json.loads(line) for line in done.stdout.splitlines()]
    assert [document["id"] for document in documents] == [f"corpus/play-{n}.txt" for n in range(10)]
    assert done.stderr.strip() == "10 documents; in aside.jsonl: 1 binary"
    assert json.loads((tmp_path / "aside.jsonl").read_text())["place"] == "corpus/bad.txt"
