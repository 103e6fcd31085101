"""Cache blocks against a plain model of who holds what."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from platen.engines.batching.blocks import BlockPool


def test_what_begins_alike_shares_blocks() -> None:
    pool = BlockPool(8, block_tokens=2)
    first = pool.take(3)
    assert first is not None
    pool.name(first, [1, 2, 3, 4, 5])  # the third block is not full: it can't be shared
    assert pool.match([1, 2, 3, 4, 9, 9]) == first[:2]
    assert pool.match([1, 2, 9, 9]) == first[:1]
    assert pool.match([3, 4]) == []  # the same tokens after something else are another block
    assert pool.match([1]) == []


def test_the_beginning_of_a_block_is_found_for_copying_until_its_room_is_needed() -> None:
    pool = BlockPool(4, block_tokens=4)
    table = pool.take(2)
    assert table is not None
    pool.name(table, [1, 2, 3, 4, 5, 6])
    assert pool.match([1, 2, 3, 4, 5, 6]) == table[:1], "the end is not full: it can be copied, not shared"
    assert pool.match_end([1, 2, 3, 4, 5, 6, 7], 1) == (table[1], 2)
    assert pool.match_end([1, 2, 3, 4, 5, 9], 1) == (table[1], 1)
    assert pool.match_end([1, 2, 3, 4, 9], 1) is None
    assert pool.match_end([1, 2, 9], 0) == (table[0], 2), "a full block's beginning too"
    assert pool.match_end([5, 6], 0) is None, "the same tokens after something else"
    assert pool.match_end([1, 2, 3], 0, b"other") is None
    pool.name(table, [1, 2, 3, 4, 5, 6, 7, 8])  # it was filled since
    assert pool.match([1, 2, 3, 4, 5, 6, 7, 8]) == table
    longer = pool.take(1)
    assert longer is not None
    pool.name([table[0], *longer], [1, 2, 3, 4, 5, 6, 9])
    assert pool.match_end([1, 2, 3, 4, 5, 6, 9, 9], 1) == (longer[0], 3), "the one with most in common"
    pool.release([*table, *longer])
    assert pool.take(4) is not None
    assert pool.match_end([1, 2, 3, 4, 5, 6, 9, 9], 1) is pool.match_end([1, 2, 9], 0) is None


def test_the_longest_unused_goes_first_and_ends_before_beginnings() -> None:
    pool = BlockPool(4, block_tokens=1)
    old = pool.take(2)
    assert old is not None
    pool.name(old, [1, 2])
    pool.release(old)
    new = pool.take(2)
    assert new is not None
    pool.name(new, [3, 4])
    pool.release(new)
    assert pool.take(1) == [old[1]]
    assert pool.match([1, 2]) == [old[0]]
    assert pool.match([3, 4]) == new
    pool.hold(new)
    assert pool.take(1) == [old[0]]
    assert pool.take(1) is None, "all are held"


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=9), st.integers(0, 3), st.booleans()),
        max_size=40,
    )
)
@settings(max_examples=200)
def test_nothing_is_lost_and_nothing_is_given_twice(
    events: list[tuple[list[int], int, bool]],
) -> None:
    """Texts come and go; a block holds what its name says, and every block is accounted for."""
    pool = BlockPool(6, block_tokens=3)
    content: dict[int, tuple[int, ...]] = {}  # what was last written into a block
    running: list[list[int]] = []
    for tokens, leaving, finish in events:
        known = pool.match(tokens[:-1])
        for index, block in enumerate(known):
            assert content[block] == tuple(tokens[: (index + 1) * 3]), "found a block of another text"
        end = pool.match_end(tokens, len(known))
        if end is not None:
            same = len(known) * 3 + end[1]
            assert content[end[0]][:same] == tuple(tokens[:same]), "found another text's end"
        pool.hold(known)
        fresh = pool.take(-(-len(tokens) // 3) - len(known))
        if fresh is None:
            pool.release(known)
        else:
            held = {block for table in running for block in table}
            assert not held & set(fresh), "a block in use was given away"
            table = [*known, *fresh]
            for index, block in enumerate(table[len(known) :], start=len(known)):
                content[block] = tuple(tokens[: (index + 1) * 3])
            if finish:
                pool.name(table, tokens)
            running.append(table)
        if running and leaving < len(running):
            pool.release(running.pop(leaving))
        assert pool.held == len({block for table in running for block in table})
    for table in running:
        pool.release(table)
    assert pool.free == pool.size
    assert pool.take(6) is not None
