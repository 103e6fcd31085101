"""Cache blocks against a plain model of who holds what."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from platen.engines.blocks import BlockPool, text_key


def test_what_begins_alike_shares_blocks() -> None:
    pool = BlockPool(8, block_tokens=2)
    first = pool.take(3)
    assert first is not None
    pool.name(first, [1, 2, 3, 4, 5])  # the third block is not full: it has no name
    assert pool.match([1, 2, 3, 4, 9, 9]) == first[:2]
    assert pool.match([1, 2, 9, 9]) == first[:1]
    assert pool.match([3, 4]) == []  # the same tokens after something else are another block
    assert pool.match([1]) == []


def test_a_prompts_end_is_known_by_the_whole_prompt_until_its_room_is_needed() -> None:
    pool = BlockPool(3, block_tokens=2)
    end = pool.take(1)
    assert end is not None
    key = text_key([1, 2, 3], 2)
    pool.name_end(end[0], key)
    assert pool.named(key) == end[0]
    assert pool.named(text_key([1, 2], 2)) is pool.named(text_key([1, 2, 3, 4], 2)) is None
    assert pool.match([1, 2, 3]) == [], "it is not full: it can be copied, not shared"
    pool.release(end)
    assert pool.free == 3
    assert pool.take(3) is not None
    assert pool.named(key) is None


def test_a_full_end_has_its_blocks_own_name() -> None:
    pool = BlockPool(2, block_tokens=2)
    table = pool.take(2)
    assert table is not None
    pool.name(table, [1, 2, 3, 4])
    assert pool.named(text_key([1, 2, 3, 4], 2)) == table[1]


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
    pool = BlockPool(6, block_tokens=2)
    content: dict[int, tuple[int, ...]] = {}  # what was last written into a block
    running: list[list[int]] = []
    for tokens, leaving, finish in events:
        known = pool.match(tokens[:-1])
        for index, block in enumerate(known):
            assert content[block] == tuple(tokens[: (index + 1) * 2]), "found a block of another text"
        end = pool.named(text_key(tokens, 2))
        assert end is None or content[end] == tuple(tokens), "found another text's end"
        pool.hold(known)
        fresh = pool.take(-(-len(tokens) // 2) - len(known))
        if fresh is None:
            pool.release(known)
        else:
            held = {block for table in running for block in table}
            assert not held & set(fresh), "a block in use was given away"
            table = [*known, *fresh]
            for index, block in enumerate(table[len(known) :], start=len(known)):
                content[block] = tuple(tokens[: (index + 1) * 2])
            if finish:
                pool.name(table, tokens)
                key = text_key(tokens, 2)
                if pool.named(key) is None and (copy := pool.take(1)) is not None:
                    content[copy[0]] = tuple(tokens)
                    pool.name_end(copy[0], key)
                    pool.release(copy)
            running.append(table)
        if running and leaving < len(running):
            pool.release(running.pop(leaving))
        assert pool.held == len({block for table in running for block in table})
    for table in running:
        pool.release(table)
    assert pool.free == pool.size
    assert pool.take(6) is not None
