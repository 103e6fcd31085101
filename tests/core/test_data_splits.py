"""The one reader of the splits that the stage `data` writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from platen.core.errors import DataError
from platen.core.kinds.data_splits import SPLITS, DataSplits


def test_documents_come_in_order_and_the_hash_is_the_files(tmp_path: Path) -> None:
    content = '{"id": "a", "text": "ä"}\n{"id": "b", "text": ""}\n'.encode()
    (tmp_path / "train.jsonl").write_bytes(content)
    splits = DataSplits(tmp_path)
    assert [(d["id"], d["text"]) for d in splits.documents("train")] == [("a", "ä"), ("b", "")]
    assert splits.sha256("train") == hashlib.sha256(content).hexdigest()
    assert not splits.complete
    for name in SPLITS:
        (tmp_path / f"{name}.jsonl").touch()
    assert splits.complete


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"text": 3}'])
def test_a_damaged_line_is_told_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "test.jsonl").write_text('{"id": "a", "text": "x"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"test.jsonl, line 2"):
        list(DataSplits(tmp_path).documents("test"))
    with pytest.raises(DataError, match=r"train.jsonl can't be read"):
        list(DataSplits(tmp_path).documents("train"))
