"""Places in llama.cpp's cache: sequences side by side, and texts that are over kept."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from platen.engines.llamacpp.slots import Slots


class Text:
    """What places need of a sequence."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.computed = tokens, len(tokens)


def begun(number: int) -> list[int]:
    return [number] * 20


class Cache:
    """A cache of places as llama.cpp keeps it: what is in each, by what it is told."""

    def __init__(self, count: int) -> None:
        self.slots = Slots(count)
        self.held: list[list[int]] = [[] for _ in range(count)]

    def admit(self, text: Any, *, reuse: bool = True) -> bool:
        admission = self.slots.admit(text, reuse=reuse)
        if admission is None:
            return False
        slot, source = admission.slot, admission.source
        if admission.moved_to is not None:
            self.held[admission.moved_to] = self.held[slot]
        kept = [] if source is None else self.held[source][: admission.common]
        assert kept == text.tokens[: admission.common], "what is reused is what the text begins with"
        self.held[slot] = list(text.tokens)
        return True


def runs(slots: Slots, texts: list[Any]) -> int:
    """How many runs of places that follow each other there are."""
    taken = {slots[text] for text in texts}
    return sum(slot - 1 not in taken for slot in taken)


def test_those_that_run_stay_side_by_side_and_texts_are_kept() -> None:
    cache = Cache(16)
    running = [Text(begun(number)) for number in range(8)]
    for text in running:
        assert cache.admit(text)
    for number in range(8, 40):  # one goes, one comes, now here and now there
        gone = running.pop(number * 5 % 8)
        cache.slots.release(gone)
        again = Text([*gone.tokens, 99])
        assert cache.admit(again)
        assert runs(cache.slots, [*running, again]) == 1
        cache.slots.release(again)
        running.append(Text(begun(number)))
        assert cache.admit(running[-1])
        assert runs(cache.slots, running) == 1


def test_a_conversation_is_gone_on_with_after_others_came() -> None:
    cache = Cache(8)
    first = [Text(begun(number)) for number in range(4)]
    for text in first:
        cache.admit(text)
    cache.slots.release(first[1])
    for number in range(10, 13):  # the first of them takes its place
        cache.admit(Text(begun(number)))
    admission = cache.slots.admit(Text([*first[1].tokens, 5, 6]), reuse=True)
    assert admission is not None
    assert admission.common == 20


def test_there_is_no_room_when_all_run() -> None:
    cache = Cache(2)
    one, two, three = (Text(begun(number)) for number in range(3))
    assert cache.admit(one)
    assert cache.admit(two)
    assert not cache.admit(three)
    cache.slots.release(one)
    assert cache.admit(Text([*one.tokens, 7]))  # the only place there is has what it begins with


@given(data=st.data(), count=st.integers(1, 9))
@settings(max_examples=150, deadline=None)
def test_whatever_comes_and_goes_nothing_is_mixed_up(data: st.DataObject, count: int) -> None:
    cache, running, known = Cache(count), [], [begun(0)]
    for _ in range(40):
        if running and data.draw(st.booleans()):
            text = running.pop(data.draw(st.integers(0, len(running) - 1)))
            assert cache.held[cache.slots[text]] == text.tokens
            cache.slots.release(text)
            known.append(text.tokens)
        else:
            text = Text([*data.draw(st.sampled_from(known)), *begun(data.draw(st.integers(0, 3)))])
            assert cache.admit(text, reuse=data.draw(st.booleans())) == (len(running) < count)
            if len(running) < count:
                running.append(text)
        assert len({cache.slots[text] for text in running}) == len(running) == len(cache.slots)
