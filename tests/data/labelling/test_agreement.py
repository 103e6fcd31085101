"""Agreement against values worked out by hand or taken from the literature."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from platen.data.labelling.agreement import agreement, cohen_kappa, krippendorff_alpha, settled


def test_kappa_by_hand() -> None:
    """Fifty proposals judged twice: 20 both yes, 15 both no, 5 and 10 apart: (0.7 - 0.5) / 0.5 = 0.4."""
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), min_size=2, max_size=60))
def test_kappa_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    ours = cohen_kappa(pairs)
    if len({value for pair in pairs for value in pair}) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(cohen_kappa_score(*zip(*pairs, strict=True)))


# Krippendorff's own example ("Computing Krippendorff's Alpha-Reliability", 2011), twelve units, four
# observers, judgements missing; its nominal alpha is given there as 0.743.
OBSERVED = {
    "A": [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
    "B": [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
    "C": [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
    "D": [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
}


def test_alpha_is_krippendorffs_own() -> None:
    ratings = {
        str(unit): {name: str(values[unit]) for name, values in OBSERVED.items() if values[unit] is not None}
        for unit in range(12)
    }
    assert krippendorff_alpha(ratings) == pytest.approx(0.743, abs=0.0005)
    found = agreement(ratings)
    assert (found.items, found.shared_items, found.disagreed) == (12, 11, ("1", "5", "7"))
    assert len(found.pairs) == 6


def test_what_can_not_be_told_is_none() -> None:
    assert cohen_kappa([]) is None
    assert cohen_kappa([("a", "a")] * 5) is None
    assert krippendorff_alpha({"1": {"ana": "x"}}) is None
    assert krippendorff_alpha({"1": {"ana": "x", "ben": "x"}}) is None
    assert agreement({}).pairs == ()


def test_the_majority_settles_and_a_tie_does_not() -> None:
    ratings = {
        "1": {"ana": "x", "ben": "x", "cy": "y"},
        "2": {"ana": "x", "ben": "y"},
        "3": {"ana": "z"},
    }
    assert settled(ratings) == {"1": "x", "3": "z"}
