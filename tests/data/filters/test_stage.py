"""The blocks in the data stage: all accounted for, nothing across splits, one page that shows it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from platen.core.errors import DataError, PlatenError
from platen.core.progress import SilentProgress
from platen.core.stage import StageContext
from platen.data.config import DataConfig
from platen.data.prepare import prepare
from platen.project.file import load_project


def run(folder: Path, *blocks: dict[str, object]) -> tuple[dict[str, list[str]], dict[str, object], str]:
    """Splits as ids, the report, and the page."""
    out = folder / "out"
    out.mkdir()
    filters = {"blocks": list(blocks)}
    config = DataConfig.model_validate({"sources": [{"path": "corpus.jsonl"}], "filters": filters})
    prepare(StageContext("data", "0" * 16, config, {}, out, project_dir=folder, seed=1))
    splits = {
        name: [json.loads(line)["id"] for line in (out / f"{name}.jsonl").open(encoding="utf-8")]
        for name in ("train", "validation")
    }
    assert {path.suffix for path in out.iterdir()} == {".jsonl", ".json", ".html"}
    return splits, json.loads((out / "report.json").read_text()), (out / "data_report.html").read_text()


def write(folder: Path, texts: list[str]) -> None:
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_what_is_dropped_is_accounted_for(tmp_path: Path) -> None:
    draw = random.Random(2)
    texts = [f"The nurse said that she saw number {draw.random()}." for _ in range(20)]
    write(tmp_path, [*texts, texts[0].upper(), "<script>alert('x')</script> of jane@example.org"])
    splits, report, page = run(tmp_path, {"block": "exact_duplicates"}, {"block": "pii"})
    assert sum(map(len, splits.values())) == 21
    dropped = report["dropped"]["exact_duplicates"]  # type: ignore[index]
    assert (dropped["documents"], dropped["names"]) == (1, ["corpus.jsonl:21"])
    assert '<li class="id">corpus.jsonl:21</li>' in page
    first, second = report["filters"]  # type: ignore[misc]
    assert (first["name"], first["seen"], first["removed"]) == ("exact_duplicates", 22, 1)
    assert (second["name"], second["changed"], second["found"]) == ("pii", 1, {"email": 1})
    assert "<td>nurse</td>" in page
    assert not [word for word in ("jane", "<script>") if word in page]
    assert "http" not in page.replace("http://www.w3.org", "")


def test_no_training_document_shares_a_passage_with_the_held_out(tmp_path: Path) -> None:
    draw = random.Random(4)
    texts = [" ".join(str(draw.random()) for _ in range(30)) for _ in range(20)]
    write(tmp_path, texts)
    held_out = run(tmp_path, {"block": "contamination"})[0]["validation"][0]
    at = int(held_out.rpartition(":")[2]) - 1
    other = (at + 1) % 20 if f"corpus.jsonl:{(at + 1) % 20 + 1}" != held_out else (at + 2) % 20
    texts[other] = texts[other] + " " + texts[at][:250]
    write(tmp_path, texts)
    (tmp_path / "out").rename(tmp_path / "before")
    splits, report, _ = run(tmp_path, {"block": "contamination"})
    together = splits["train"] + splits["validation"]
    assert len(together) == 20 - report["dropped"]["across_splits"]["documents"] == 19  # type: ignore[index]


def test_perplexities_are_shown_in_their_order(tmp_path: Path) -> None:
    # Half of the texts have only the words of the reference, half none of them.
    (tmp_path / "clean.txt").write_text("b c b c")
    write(
        tmp_path,
        [*(f"c b b {'c b ' * n}" for n in range(6)), *(f"zz yy xx {'ww vv ' * n}" for n in range(6))],
    )
    block = {"block": "perplexity", "reference": {"path": "clean.txt"}, "max_perplexity": 1_000_000}
    _, report, page = run(tmp_path, block)
    found = report["filters"][0]["found"]  # type: ignore[index]
    ordered = sorted(found, key=lambda between: int(between.partition("–")[0].replace(",", "")))
    assert len(ordered) > 1
    assert sum(found.values()) == 12
    places = [page.index(f">{between}</th>") for between in ordered]
    assert places == sorted(places)


def test_nothing_left_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, ["Ein Satz auf Deutsch, der lang genug ist, um erkannt zu werden.", "Und noch ein Satz."])
    with pytest.raises(DataError, match="none is left"):
        run(tmp_path, {"block": "language", "keep": ["fr"]})


def test_mistakes_in_the_project_file_are_explained(tmp_path: Path) -> None:
    file = tmp_path / "platen.yaml"
    start = "name: x\ntrain: {steps: 1}\ndata:\n  sources: [{path: a}]\n  filters:\n    blocks:\n"
    file.write_text(start + "      - block: piii\n")
    with pytest.raises(PlatenError, match=r"blocks\.0\.block: found the text \"piii\"; .*did you mean pii\?"):
        load_project(file)
    file.write_text(start + "      - block: near_duplicates\n        similarty: 0.5\n")
    message = (
        r"blocks\.0\.similarty: unknown key; did you mean similarity\?; allowed here: block, similarity;"
    )
    with pytest.raises(PlatenError, match=message):
        load_project(file)
    file.write_text(start + "      - block: pii\n")
    with pytest.raises(PlatenError, match=r"keys there: block, kinds, names, action, mask, regions$"):
        load_project(file, ["data.filters.blocks.0.similarity=0.5"])
    file.write_text(start + "      - words: list.txt\n")  # of which block, nobody knows yet
    with pytest.raises(PlatenError, match=r"blocks\.0\.block: found nothing .*allowed: one of c4, "):
        load_project(file)
    file.write_text(start + "      - block: pii\n        regions: [gb]\n")
    with pytest.raises(PlatenError, match=r"regions\.0: found the text \"gb\"; .*ISO 3166.*; write GB;"):
        load_project(file)
    file.write_text(start + "      - block: contamination\n        across_splits: false\n")
    with pytest.raises(PlatenError, match="nothing to compare with"):
        load_project(file)


def test_where_it_runs_is_no_reason_to_run_again() -> None:
    blocks = [{"block": "encoding"}]
    dumps = [
        DataConfig.model_validate(
            {"sources": [{"path": "a"}], "filters": {"blocks": blocks, "workers": n, "executor": where}}
        ).model_dump()
        for n, where in ((1, "local"), (8, "ray"))
    ]
    assert dumps[0] == dumps[1]


class Heard(SilentProgress):
    """Keeps the lines that stay."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


@pytest.mark.parametrize(
    ("texts", "message", "hint"),
    [
        (
            ["a", "same words here", "Same words here", "other words here"],
            "the corpus is empty: of 4 documents none is left, dropped: 1 too short, 1 exact duplicates, "
            "2 toxicity",
            "toxicity dropped the last: loosen this block of data.filters, or take it out.",
        ),
        (
            ["a", "b"],
            "the corpus is empty: of 2 documents none is left, dropped: 2 too short",
            "Lower data.clean.min_characters, or give longer documents.",
        ),
        (
            ["a", "same words here", "Same words here", "something else"],
            "the validation split has no document: 1 in the corpus, and documents are never cut; of 4 "
            "documents, dropped: 1 too short, 1 exact duplicates, 1 toxicity",
            None,
        ),
    ],
)
def test_who_dropped_what_is_told_where_too_little_is_left(
    tmp_path: Path, texts: list[str], message: str, hint: str | None
) -> None:
    """The list drops what has `words`; in capitals or not a text is the same to the first block."""
    write(tmp_path, texts)
    (tmp_path / "words.txt").write_text("words\n")
    blocks = [
        {"block": "exact_duplicates"},
        {"block": "toxicity", "words": "words.txt"},
    ]
    config = DataConfig.model_validate(
        {"sources": [{"path": "corpus.jsonl"}], "clean": {"min_characters": 5}, "filters": {"blocks": blocks}}
    )
    heard = Heard()
    with pytest.raises(DataError) as refused:
        prepare(StageContext("data", "0" * 16, config, {}, tmp_path, tmp_path, seed=1, progress=heard))
    assert refused.value.message == message
    assert hint in (None, refused.value.hint)
    dropped = dict(part.split(" ", 1)[::-1] for part in message.partition("dropped: ")[2].split(", "))
    assert heard.lines == [
        f"Dropped {count} document{'' if count == '1' else 's'}: {reason}."
        for reason, count in dropped.items()
    ]
