"""Each format from a file to documents: the text that people see, in their order, with what else is known."""

from __future__ import annotations

import bz2
import datetime
import gzip
import io
import json
import random
import sqlite3
import subprocess
from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.data.readers.config import ReadLimits
from tests.data.readers.making import docx, epub, pdf, records

PAGE = """<html><head><title>Ticket &amp; answer</title></head><body>
<nav><a href="/">Home</a> <a href="/a">All tickets</a></nav>
<article><h1>My printer is on fire</h1><p>Switch it off at the wall first, then call us on extension 112.</p>
<p>We will bring another one within the day, and take the old one away.</p></article>
<footer>Copyright nobody</footer></body></html>"""


def test_html_gives_its_main_text_and_title(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE)
    [document], broken, _ = records(tmp_path / "page.html")
    assert not broken
    assert "Switch it off at the wall first, then call us on extension 112." in document.text
    assert "All tickets" not in document.text
    assert document.metadata == {"title": "Ticket & answer"}


@pytest.mark.parametrize(
    ("meta", "encoding"),
    [('<meta charset="iso-8859-1">', "cp1252"), ("", "utf-8-sig"), ("", "utf-16")],
    ids=["said by the page", "byte order mark", "wide"],
)
def test_html_in_the_encoding_it_says(tmp_path: Path, meta: str, encoding: str) -> None:
    page = PAGE.replace("<head>", f"<head>{meta}").replace("wall", "wäll – “so”")
    (tmp_path / "page.html").write_bytes(page.encode(encoding))
    [document], broken, _ = records(tmp_path / "page.html")
    assert not broken
    assert "at the wäll – “so” first" in document.text


def test_html_that_is_not_in_the_encoding_it_says(tmp_path: Path) -> None:
    page = PAGE.replace("<head>", '<head><meta charset="utf-8">').replace("wall", "wäll")
    (tmp_path / "page.html").write_bytes(page.encode("latin-1"))
    documents, [broken], _ = records(tmp_path / "page.html")
    assert not documents
    assert broken.reason == "encoding"
    assert "byte 0xe4 at offset" in broken.detail


def test_pdf(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf(["Page one.", "Page two."], title="A manual"))
    [document], broken, _ = records(tmp_path / "a.pdf")
    assert not broken
    assert document.text == "Page one.\n\nPage two."
    assert document.metadata == {"pages": 2, "title": "A manual"}


def test_a_damaged_page_of_a_pdf_does_not_hide_the_others(tmp_path: Path) -> None:
    raw = bytearray(pdf(["Page one is here.", "Page two."]))
    raw[raw.index(b"stream\n") + 20] ^= 0xFF
    (tmp_path / "a.pdf").write_bytes(raw)
    documents, [broken], _ = records(tmp_path / "a.pdf")
    assert documents[0].text.endswith("Page two.")
    assert broken.place == "a.pdf, page 1"
    assert broken.reason == "malformed"


def test_docx_with_its_table_in_place(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(docx(["First.", "", "Second."], [["a", "b"], ["c", "d"]]))
    [document], _, _ = records(tmp_path / "a.docx")
    assert document.text == "First.\n\nSecond.\n\na | b\nc | d"


def test_epub_in_the_order_of_its_spine(tmp_path: Path) -> None:
    chapters = [
        "<h1>One</h1><p>It was<br/>a <b>dark</b> night.</p>",
        "<p>Two<!-- no --> it is.</p><script>x</script>",
    ]
    (tmp_path / "a.epub").write_bytes(epub(chapters, title="Nights"))
    [document], broken, _ = records(tmp_path / "a.epub")
    assert not broken
    assert document.text == "One\n\nIt was\n\na dark night.\n\nTwo it is."
    assert document.metadata == {"title": "Nights"}


def test_json_arrays_are_read_a_record_at_a_time(tmp_path: Path) -> None:
    entries = [{"text": f"Document {n} " + "x" * 1000, "n": n, "score": float("nan")} for n in range(500)]
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(entries, indent=1), encoding="utf-8")
    documents, broken, _ = records(tmp_path / "a.json", limits=ReadLimits(line_bytes=100_000))
    assert not broken
    assert [document.metadata["n"] for document in documents] == list(range(500))
    assert documents[7].id == "a.json:8"
    assert documents[7].metadata["score"] is None
    (tmp_path / "b.json").write_text('{"body": "One record.", "by": ["x", 1]}')
    [document], _, _ = records(tmp_path / "b.json", text="body")
    assert (document.text, document.metadata) == ("One record.", {"by": ["x", 1]})


@pytest.mark.parametrize(
    ("content", "read", "says"),
    [
        ('[{"text": "a"}, {"text": ', 1, "record 2"),
        ('[{"text": "a"} {"text": "b"}]', 1, "] expected"),
        ('[{"text": "a"}] x', 1, "follows the array"),
        ('{"text": "a"}\n{"text": "b"}', 1, "more than one JSON value"),
        ("[" * 100_000, 0, "nested too deeply"),
        ('[{"text": "' + "a" * 300_000 + '"}]', 0, "not one value within 100,000 characters"),
    ],
)
def test_json_that_breaks_off(tmp_path: Path, content: str, read: int, says: str) -> None:
    (tmp_path / "a.json").write_text(content)
    documents, [broken], _ = records(tmp_path / "a.json", limits=ReadLimits(line_bytes=100_000))
    assert len(documents) == read
    assert says in broken.detail


def test_json_lines_go_on_after_bad_ones(tmp_path: Path) -> None:
    good = b'{"text": "fine"}\n'
    (tmp_path / "a.jsonl").write_bytes(
        good + b"{\n" + good + b'{"text": "' + b"x" * 2000 + b'"}\n\xff\n' + good
    )
    documents, broken, _ = records(tmp_path / "a.jsonl", limits=ReadLimits(line_bytes=1000))
    assert [document.id for document in documents] == ["a.jsonl:1", "a.jsonl:3", "a.jsonl:6"]
    assert [record.reason for record in broken] == ["not-json", "line-too-long", "encoding"]
    assert broken[2].place == "a.jsonl, line 5 (byte 2049)"


def test_huge_lines_of_wide_characters_are_passed_without_holding_them(tmp_path: Path) -> None:
    text = '{"text": "fine \u0a0a"}\n' + '{"text": "' + "\u0a0a" * 700_000 + '"}\n{"text": "last"}'
    (tmp_path / "a.jsonl").write_bytes(text.encode("utf-16"))
    documents, [broken], _ = records(
        tmp_path / "a.jsonl", encoding="utf-16", limits=ReadLimits(line_bytes=100_000)
    )
    assert [document.text for document in documents] == ["fine \u0a0a", "last"]
    assert broken.reason == "line-too-long"


def test_csv_by_its_own_delimiter(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text;who\n"Two\nlines; quoted";anna\nPlain;"b ""q"""\n\n')
    documents, broken, _ = records(tmp_path / "a.csv")
    assert not broken
    assert [(d.id, d.text, d.metadata["who"]) for d in documents] == [
        ("a.csv:2", "Two\nlines; quoted", "anna"),
        ("a.csv:4", "Plain", 'b "q"'),
    ]
    (tmp_path / "b.tsv").write_text("body\tn\nHello, you\t1\n")
    [document], _, _ = records(tmp_path / "b.tsv", text="body")
    assert document.text == "Hello, you"


def test_csv_rows_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'text,n\na,1\nb\n"c"x,3\nd,4\n\xff,5\ne,6\n"never closed,7\n')
    documents, broken, _ = records(tmp_path / "a.csv")
    assert [document.text for document in documents] == ["a", "d", "e"]
    assert [record.reason for record in broken] == ["not-csv", "not-csv", "encoding", "not-csv"]
    _, [broken_file], _ = records(tmp_path / "a.csv", text="body")
    assert "no column 'body'; there are text, n" in broken_file.detail


def test_parquet(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    day = datetime.date(2026, 3, 4)
    table = pyarrow.table({"text": ["a", None, "c"], "day": [day] * 3, "raw": [b"\x00"] * 3})
    parquet.write_table(table, tmp_path / "a.parquet")
    documents, [broken], _ = records(tmp_path / "a.parquet")
    assert [document.id for document in documents] == ["a.parquet:1", "a.parquet:3"]
    assert documents[0].metadata == {"day": "2026-03-04", "raw": "AA=="}
    assert broken.place == "a.parquet, row 2"
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9])
    documents, [broken], _ = records(tmp_path / "cut.parquet")
    assert (documents, broken.reason) == ([], "malformed")


def test_warc(tmp_path: Path) -> None:
    from warcio.statusandheaders import StatusAndHeaders
    from warcio.warcwriter import WARCWriter

    out = io.BytesIO()
    writer = WARCWriter(out, gzip=True)
    for type, content in (
        ("text/html; charset=iso-8859-1", PAGE.replace("wall", "wäll").encode("latin-1")),
        ("text/plain", b"Plain words."),
        ("image/png", b"\x89PNG"),
        ("text/html", b"<html><body></body></html>"),
    ):
        headers = StatusAndHeaders("200 OK", [("Content-Type", type)], protocol="HTTP/1.1")
        record = writer.create_warc_record(
            "https://example.com/x", "response", payload=io.BytesIO(content), http_headers=headers
        )
        writer.write_record(record)
    (tmp_path / "a.warc.gz").write_bytes(out.getvalue())
    documents, broken, left_out = records(tmp_path / "a.warc.gz")
    assert not broken
    assert "at the wäll first" in documents[0].text
    assert documents[0].metadata["url"] == "https://example.com/x"
    assert documents[1].text == "Plain words."
    assert [record.reason for record in left_out] == ["content type image/png", "page without text"]
    (tmp_path / "cut.warc.gz").write_bytes(out.getvalue()[: len(out.getvalue()) // 2])
    assert records(tmp_path / "cut.warc.gz")[1]
    for noise in (b"\nXM no header\x92", random.Random(111).randbytes(2000), b"WARC/1.0\r\n\r\n"):
        (tmp_path / "noise.warc").write_bytes(noise)
        assert [record.reason for record in records(tmp_path / "noise.warc")[1]] == ["malformed"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress], ids=[".gz", ".bz2"])
def test_packed_files(tmp_path: Path, pack: object, request: pytest.FixtureRequest) -> None:
    name = f"a.jsonl{request.node.callspec.id}"
    (tmp_path / name).write_bytes(pack(b'{"text": "one"}\n{"text": "two"}\n'))  # type: ignore[operator]
    documents, broken, _ = records(tmp_path / name)
    assert not broken
    assert [document.text for document in documents] == ["one", "two"]


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    done = subprocess.run(
        ["git", "-C", str(folder), *who, *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_a_git_repository_at_a_revision(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "code.py").write_text("print('one')\n")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "with blank ü.md").write_text("# Title\n")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "link").symlink_to("code.py")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "one")
    first = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "code.py").write_text("print('two')\n")
    git(tmp_path, "commit", "-qam", "two")
    documents, [broken], left_out = records(tmp_path, format="git")
    texts = {document.metadata["path"]: document.text for document in documents}
    assert texts == {"code.py": "print('two')\n", "dir/with blank ü.md": "# Title\n"}
    assert sorted(record.reason for record in left_out) == ["binary", "link"]
    assert (broken.reason, "latin.txt" in broken.place) == ("encoding", True)
    old, _, _ = records(tmp_path, format="git", revision=first)
    assert old[0].text == "print('one')\n"
    assert old[0].metadata["commit"] == first
    _, [unknown], _ = records(tmp_path, format="git", revision="--output=x")
    assert unknown.reason == "unreadable"


def test_a_data_set_in_a_folder(tmp_path: Path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["one", "two"], "label": [0, 1]})
    datasets.DatasetDict({"train": rows, "test": rows.select([1])}).save_to_disk(str(tmp_path / "set"))
    documents, broken, _ = records(tmp_path / "set", format="huggingface", split="test")
    assert not broken
    assert [(document.text, document.metadata) for document in documents] == [("two", {"label": 1})]
    _, [broken_set], _ = records(tmp_path / "set", format="huggingface", split="nothing")
    assert broken_set.reason == "unreadable"


def test_a_database_by_query(tmp_path: Path) -> None:
    from platen.data.config import DataConfig
    from platen.data.document import Broken, Document
    from platen.data.readers.choose import read_records
    from platen.data.readers.config import Source
    from platen.data.sources import find_files

    with sqlite3.connect(tmp_path / "desk.db") as database:
        database.execute("CREATE TABLE ticket (id INTEGER, body TEXT)")
        database.executemany("INSERT INTO ticket VALUES (?, ?)", [(1, "One"), (2, None), (3, "Three")])

    def read(query: str) -> list[object]:
        source = Source(path="sqlite:///desk.db", format="sql", text="body", query=query)
        [file] = find_files(tmp_path, DataConfig(sources=(source,)))
        return list(read_records(file))

    one, two, three = read("SELECT * FROM ticket ORDER BY id")
    assert one == Document("sqlite:///desk.db:1", "One", "sqlite:///desk.db", {"id": 1})
    assert isinstance(two, Broken)
    assert isinstance(three, Document)
    [broken] = read("SELECT missing FROM ticket")
    assert isinstance(broken, Broken)
    assert "no such column" in broken.detail
    read("DELETE FROM ticket")
    assert len(read("SELECT * FROM ticket")) == 3
    missing = Source(path="sqlite:///nowhere.db", format="sql", query="SELECT 1")
    with pytest.raises(DataError, match=r"nowhere\.db does not exist"):
        find_files(tmp_path, DataConfig(sources=(missing,)))
    assert not (tmp_path / "nowhere.db").exists()


def test_the_password_of_a_database_is_never_said(tmp_path: Path) -> None:
    from platen.data.config import DataConfig
    from platen.data.readers.choose import read_records
    from platen.data.readers.config import Source
    from platen.data.sources import find_files

    url = "mysql+nodriver://anna:hunter2@127.0.0.1/desk?password=hunter2"
    source = Source(path=url, format="sql", query="SELECT 1")
    [file] = find_files(tmp_path, DataConfig(sources=(source,)))
    [broken] = read_records(file)
    assert "hunter2" not in repr(broken)
    assert "hunter2" not in file.name
