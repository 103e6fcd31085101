"""Splitting by documents: each in one split, shares as asked, the same corpus always alike."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from platen.data.split import Item, assign
from platen.errors import DataError
from platen.project import SplitConfig


def item(number: int, characters: int = 100, text: str | None = None) -> Item:
    return Item(f"doc-{number}.txt", characters, hashlib.sha256((text or str(number)).encode()).hexdigest())


@given(
    sizes=st.lists(st.integers(100, 1000), min_size=40, max_size=200),
    validation=st.floats(0.05, 0.3),
    test=st.floats(0.0, 0.2),
)
def test_shares(sizes: list[int], validation: float, test: float) -> None:
    items = [item(number, size) for number, size in enumerate(sizes)]
    place = assign(items, SplitConfig(validation=validation, test=test))
    assert place.keys() == {i.id for i in items}
    total, largest = sum(sizes), max(sizes)
    for split, share in (("validation", validation), ("test", test)):
        characters = sum(i.characters for i in items if place[i.id] == split)
        assert abs(characters - share * total) <= largest


@given(order=st.permutations(range(30)), copies=st.lists(st.integers(0, 9), min_size=30, max_size=30))
def test_order_does_not_matter_and_copies_stay_together(order: list[int], copies: list[int]) -> None:
    plain = [item(number) for number in range(30)]
    config = SplitConfig(validation=0.2, test=0.1)
    assert assign([plain[n] for n in order], config) == assign(plain, config)
    copied = [item(number, text=str(copies[number])) for number in range(30)] + [
        item(number) for number in range(30, 90)
    ]
    place = assign(copied, config)
    splits: dict[str, set[str]] = {}
    for i in copied:
        splits.setdefault(i.digest, set()).add(place[i.id])
    assert all(len(found) == 1 for found in splits.values())


def test_a_new_document_moves_few_others() -> None:
    items = [item(number) for number in range(1000)]
    before = assign(items, SplitConfig(validation=0.1))
    after = assign([*items, item(1000)], SplitConfig(validation=0.1))
    assert sum(before[i.id] != after[i.id] for i in items) <= 1


def test_a_fraction_takes_at_least_one_document() -> None:
    place = assign([item(1, 900), item(2, 300), item(3, 500)], SplitConfig(validation=0.01))
    assert [id for id, split in place.items() if split == "validation"] == ["doc-2.txt"]


def test_names_by_path_file_and_stem() -> None:
    items = [Item(id, 10, id) for id in ("a/one.txt", "a/two.txt", "b/three.txt", "b/four.txt")]
    place = assign(items, SplitConfig(validation=("a/one.txt", "two"), test=("three.txt",)))
    assert place == {"a/one.txt": "validation", "a/two.txt": "validation", "b/three.txt": "test"} | {
        "b/four.txt": "train"
    }


def test_a_fraction_beside_names_draws_from_the_rest() -> None:
    items = [item(number) for number in range(10)]
    place = assign(items, SplitConfig(validation=("doc-1", "doc-2"), test=0.3))
    assert [id for id, split in place.items() if split == "validation"] == ["doc-1.txt", "doc-2.txt"]
    assert list(place.values()).count("test") == 3


@pytest.mark.parametrize(
    ("ids", "config", "says"),
    [
        (["only.txt"], SplitConfig(), "validation split has no document"),
        (["a.txt", "b.txt"], SplitConfig(test=0.1), "test split has no document"),
        (["a.txt", "b.txt"], SplitConfig(validation=("a", "b")), "train split has no document"),
        (["a.txt", "b.txt"], SplitConfig(validation=("c",)), "no document c is left"),
        (["x/a.txt", "y/a.txt"], SplitConfig(validation=("a",)), "a means 2 documents: x/a.txt, y/a.txt"),
        (["a.txt", "b.txt"], SplitConfig(validation=("a",), test=("a.txt",)), "for validation and for test"),
    ],
)
def test_refused(ids: list[str], config: SplitConfig, says: str) -> None:
    with pytest.raises(DataError, match=says) as caught:
        assign([Item(id, 10, id) for id in ids], config)
    assert caught.value.hint
