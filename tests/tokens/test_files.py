"""Token files as their one reader gives them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from platen.core.errors import ArtifactError
from platen.tokens.files import SplitTokens, TokenFiles, TokensMeta


def folder_of(tmp_path: Path, dtype: str, **files: bytes) -> Path:
    splits = {name: SplitTokens(0, 0, 0) for name in files}
    TokensMeta(dtype, 70_000, 0, "f" * 64, splits).write(tmp_path)
    for name, content in files.items():
        (tmp_path / f"{name}.bin").write_bytes(content)
    return tmp_path


def test_ids_are_little_endian_as_the_meta_says(tmp_path: Path) -> None:
    files = TokenFiles(folder_of(tmp_path, "uint16", train=b"\x01\x00\x02\x01", test=b""))
    assert files.open("train").tolist() == [1, 258]
    assert files.open("test").tolist() == []
    wide = TokenFiles(folder_of(tmp_path, "uint32", train=b"\x01\x00\x02\x01"))
    assert wide.open("train").tolist() == [1 + 2 * 2**16 + 2**24]


def test_a_file_that_is_missing_or_cut_within_a_token_is_refused(tmp_path: Path) -> None:
    files = TokenFiles(folder_of(tmp_path, "uint16", train=b"\x01\x00\x02\x00\x03"))
    for split in ("train", "validation"):
        with pytest.raises(ArtifactError, match=f"{split}.bin is missing or damaged"):
            files.open(split)


@pytest.mark.parametrize("meta", [None, "{", "[]", json.dumps({"dtype": "uint16"})])
def test_a_folder_without_a_whole_meta_is_refused(tmp_path: Path, meta: str | None) -> None:
    if meta is not None:
        (tmp_path / "meta.json").write_text(meta)
    with pytest.raises(ArtifactError, match=r"meta.json can't be read"):
        TokenFiles(tmp_path)
