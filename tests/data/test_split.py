"""Splitting by documents: each in one split, shares as asked, the same corpus always alike."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from platen.core.errors import DataError
from platen.data.config import SplitConfig
from platen.data.split import Item, assign, item_of


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


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_by_hash_adding_documents_moves_none_and_shares_are_near() -> None:
    config = SplitConfig(by="hash", validation=0.2, test=0.1)
    items = [item(number) for number in range(2000)]
    before, after = assign(items[:1000], config), assign(items, config)
    assert after.items() >= before.items()
    places = list(after.values())
    # Standard deviations are 18 and 13 documents.
    assert places.count("validation") == pytest.approx(400, abs=60)
    assert places.count("test") == pytest.approx(200, abs=45)


def test_by_hash_equal_texts_are_together() -> None:
    items = [Item(str(number), 10, digest_of(str(number % 50))) for number in range(200)]
    place = assign(items, SplitConfig(by="hash", validation=0.3, test=0.2))
    assert len({(one.digest, place[one.id]) for one in items}) == 50


@settings(max_examples=25)
@given(groups=st.lists(st.integers(0, 9), min_size=30, max_size=40), copies=st.lists(st.integers(0, 29)))
def test_by_group_no_group_and_no_text_is_divided(groups: list[int], copies: list[int]) -> None:
    """Also not where copies of a text tie groups together."""
    texts = [*range(len(groups)), *copies]
    groups = [*groups, *(100 + n for n in range(len(copies)))]
    items = [Item(str(n), 10, digest_of(str(text)), group=f"g{groups[n]}") for n, text in enumerate(texts)]
    # Sure to be where they are wanted, so that no split is empty.
    items += [Item(f"more {n}", 10, digest_of(f"more {n}"), group=f"more {n}") for n in range(80)]
    place = assign(items, SplitConfig(by="group", key="channel", validation=0.3, test=0.2))
    for of in (lambda one: one.group, lambda one: one.digest):
        assert len({(of(one), place[one.id]) for one in items}) == len({of(one) for one in items})


def test_by_group_adding_groups_moves_none() -> None:
    config = SplitConfig(by="group", key="channel", validation=0.2, test=0.1)
    items = [Item(str(n), 10, digest_of(str(n)), group=f"g{n // 3}") for n in range(900)]
    before, after = assign(items[:450], config), assign(items, config)
    assert after.items() >= before.items()


def test_by_time_the_past_trains_and_the_future_tests() -> None:
    config = SplitConfig(by="time", key="written", validation_from="2026-03-01", test_from="2026-03-08T12:00")
    start = datetime(2026, 2, 20, tzinfo=UTC)
    items = [Item(str(n), 10, digest_of(str(n)), time=start + timedelta(days=n)) for n in range(30)]
    place = assign(items, config)
    assert [place[str(n)] for n in (0, 8)] == ["train", "train"]  # the 20th and the 28th of February
    assert [place[str(n)] for n in (9, 16)] == ["validation", "validation"]  # the 1st and the 8th of March
    assert [place[str(n)] for n in (17, 29)] == ["test", "test"]
    copy = Item("late copy", 10, digest_of("0"), time=start + timedelta(days=29))
    assert assign([*items, copy], config) == place | {"late copy": "train"}


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("2026-03-01T02:00:00+02:00", datetime(2026, 3, 1, tzinfo=UTC)),
        ("1772323200.0001", datetime(2026, 3, 1, 0, 0, 0, 100, tzinfo=UTC)),
        (1772323200, datetime(2026, 3, 1, tzinfo=UTC)),
    ],
)
def test_times_are_dates_or_seconds(value: object, moment: datetime) -> None:
    config = SplitConfig(by="time", key="ts", validation_from="2026-03-01")
    assert item_of("a", 1, "d", source="s", metadata={"ts": value}, config=config).time == moment


def test_a_document_without_its_group_or_time_is_named() -> None:
    group = SplitConfig(by="group", key="channel")
    assert item_of("a", 1, "d", source="s", metadata={"channel": 7}, config=group).group == "7"
    by_source = SplitConfig(by="group", key="source")
    assert item_of("a", 1, "d", source="s", metadata={}, config=by_source).group == "s"
    with pytest.raises(DataError, match="a has no channel in its metadata"):
        item_of("a", 1, "d", source="s", metadata={}, config=group)
    with pytest.raises(DataError, match="a: 'soon' is no time"):
        item_of(
            "a",
            1,
            "d",
            source="s",
            metadata={"ts": "soon"},
            config=SplitConfig(by="time", key="ts", validation_from="2026-03-01"),
        )


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"by": "group"}, "needs a key"),
        ({"by": "hash", "key": "x"}, "has no key"),
        ({"by": "time", "key": "x"}, "needs validation_from"),
        ({"by": "time", "key": "x", "validation_from": "soon"}, "no ISO date"),
        (
            {"by": "time", "key": "x", "validation_from": "2026-03-01", "test_from": "2026-02-01"},
            "must be later",
        ),
        ({"test_from": "2026-02-01"}, "for splitting by time"),
        ({"by": "hash", "validation": ("a",)}, "only when splitting by document"),
    ],
)
def test_rules_that_can_not_be(keys: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        SplitConfig(**keys)  # type: ignore[arg-type]
